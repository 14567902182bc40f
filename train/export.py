"""Packs the trained parts in the official layout, weights in bf16.

    python3 train/export.py --out DIR MODEL_DIR

The fusion model becomes safetensors; text encoder, video VAE, audio VAE (flat dictionaries) and
vocoder ({'generator': ...}) become torch archives, as the published files are packed. The small
tensors of the audio models (filters, slopes, statistics) stay f32: they cost nothing.
"""
import argparse
import hashlib
import os

import torch

from config import CONFIG, ovi_json
from storage import load_part, write_safetensors


def half(state, exact_below=0):
    """Weights in bf16; tensors of fewer elements than that as they are."""
    return {k: v.detach().cpu().contiguous().to(torch.float32 if v.numel() < exact_below else torch.bfloat16).clone()
            for k, v in state.items()}


def write_digests(folder):
    names = sorted(os.path.relpath(os.path.join(at, f), folder) for at, _, fs in os.walk(folder) for f in fs)
    with open(os.path.join(folder, "SHA256SUMS"), "w") as out:
        for name in names:
            if name != "SHA256SUMS":
                with open(os.path.join(folder, name), "rb") as f:
                    out.write(f"{hashlib.sha256(f.read()).hexdigest()}  {name}\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True, help="folder of the parts")
    parser.add_argument("model")
    args = parser.parse_args()

    def path(key):
        p = os.path.join(args.model, CONFIG["files"][key])
        os.makedirs(os.path.dirname(p), exist_ok=True)
        return p
    joint, video = load_part(args.out, "fusion"), load_part(args.out, "video_vae")
    write_safetensors(path("fusion"), half(joint["fusion"]), {"format": "pt"})
    torch.save(half(joint["text"]), path("text_encoder"))
    torch.save(half(video["state"]), path("video_vae"))
    torch.save(half(load_part(args.out, "audio_vae"), 256), path("audio_vae"))
    torch.save({"generator": half(load_part(args.out, "vocoder"), 256)}, path("vocoder"))
    with open(os.path.join(args.model, "ovi.json"), "w") as f:
        f.write(ovi_json(video["mean"].tolist(), video["std"].tolist()))
    write_digests(args.model)
    size = sum(os.path.getsize(os.path.join(at, f)) for at, _, fs in os.walk(args.model) for f in fs)
    print(f"{args.model}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
