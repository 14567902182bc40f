"""Trains every part on one GPU and packs the model, within ten minutes.

    python3 train/run_all.py --out DIR [MODEL_DIR]
    python3 train/run_all.py --out DIR --start MODEL_DIR [--seed N] [MODEL_DIR]

The first form begins with random weights: the two autoencoders share the GPU, the fusion model
follows. The second goes on from a packed model with other clips and captions: fusion model,
decoder of the video VAE and vocoder, side by side; latents stay what they were. A part whose file
is in DIR is not trained again, so an interrupted run goes on where it stopped.
"""
import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def start(script, *words):
    return subprocess.Popen([sys.executable, os.path.join(HERE, script), *words])


def finish(*processes):
    if any([p.wait() for p in processes]):
        sys.exit("a part failed: see above")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", help="packed model to go on from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("model", nargs="?", default=os.path.join(HERE, "..", "models", "tiny"))
    args = parser.parse_args()
    common = ["--out", args.out, "--seed", str(args.seed), "--steps", "200000"]
    fusion = ["train_fusion.py", *common, "--clips", "24576"]
    if args.start:
        common += ["--start", args.start]
        finish(start("train_video_vae.py", *common, "--decoder-only", "--seconds", "300"),
               start("train_audio.py", *common, "--vae-share", "0", "--seconds", "150"),
               start(*fusion, "--start", args.start, "--seconds", "462"))
    else:
        finish(start("train_video_vae.py", *common, "--seconds", "205"),
               start("train_audio.py", *common, "--seconds", "200"))
        finish(start(*fusion, "--seconds", "360"))
    finish(start("export.py", "--out", args.out, args.model))


if __name__ == "__main__":
    main()
