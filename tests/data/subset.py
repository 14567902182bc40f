#!/usr/bin/env python3
"""Makes tests/data/golden from the full set of golden vectors: subset.py FULL_DIR OUT_DIR.

Small files are copied. Of large ones the weights and some of the cases are kept, so that a
clone checks every kind of file within 16 MB; the full set runs where it is at hand."""
import json
import os
import shutil
import struct
import sys

WHOLE = ["fusion_tiny.safetensors", "pipeline_tiny.safetensors", "umt5_tiny.safetensors",
         "ops.safetensors", "rope_hd128.safetensors", "sampling.safetensors",
         "image_resize.safetensors", "mel_tiny.safetensors", "text_clean.json",
         "spm_tiny.model", "sizes_prompts.json", "torch_noise.json"]
SOME_CASES = {"wan_vae_tiny.safetensors": ["dec3", "enc5"],
              "mmaudio_vae_tiny.safetensors": ["dec7", "enc13", "attn"],
              "bigvgan_tiny.safetensors": ["mel2"]}


def subset(source, target, cases):
    with open(source, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        data = f.read()
    meta = header.pop("__metadata__")
    config = json.loads(meta["config"])
    config["cases"] = {name: config["cases"][name] for name in cases}
    meta["config"] = json.dumps(config)
    kept, out, offset = {}, [], 0
    for name, entry in header.items():
        part = name.split(".")
        if part[0] in ("input", "mid", "output") and part[1] not in cases + ["published",
                                                                             "mean", "std"]:
            continue
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = [offset, offset + end - begin]
        kept[name] = entry
        out.append(data[begin:end])
        offset += end - begin
    text = json.dumps({"__metadata__": meta, **kept}).encode()
    with open(target, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(out))


def main(full, out):
    os.makedirs(out, exist_ok=True)
    for name in WHOLE:
        shutil.copyfile(os.path.join(full, name), os.path.join(out, name))
    for name, cases in SOME_CASES.items():
        subset(os.path.join(full, name), os.path.join(out, name), cases)


main(*sys.argv[1:])
