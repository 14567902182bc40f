"""Packs the trained parts in the official layout, weights in bf16.

    python3 train/export.py --out DIR MODEL_DIR

The fusion model becomes safetensors; text encoder, video VAE, audio VAE (flat dictionaries) and
vocoder ({'generator': ...}) become torch archives, as the published files are packed. A part that
DIR lacks stays as it is in MODEL_DIR; where that lacks the tokenizer, it gets the one of models/tiny.
"""
import argparse
import hashlib
import os
import shutil

from config import CONFIG, TOKENIZER, ovi_json
from storage import load_part, load_statistics, save_packed


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
    joint, video = load_part(args.out, "fusion"), load_part(args.out, "video_vae")
    parts = {"audio_vae": load_part(args.out, "audio_vae"), "vocoder": load_part(args.out, "vocoder")}
    parts.update({"fusion": joint["fusion"], "text_encoder": joint["text"]} if joint else {})
    parts.update({"video_vae": video["state"]} if video else {})
    for key, state in parts.items():
        if state:
            save_packed(args.model, key, state)
    mean, std = (video["mean"], video["std"]) if video else load_statistics(args.model)
    with open(os.path.join(args.model, "ovi.json"), "w") as f:
        f.write(ovi_json(mean.tolist(), std.tolist()))
    tokenizer = os.path.join(args.model, CONFIG["files"]["tokenizer"])
    if not os.path.exists(tokenizer):
        os.makedirs(os.path.dirname(tokenizer), exist_ok=True)
        shutil.copy(TOKENIZER, tokenizer)
    write_digests(args.model)
    size = sum(os.path.getsize(os.path.join(at, f)) for at, _, fs in os.walk(args.model) for f in fs)
    print(f"{args.model}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
