"""Trains every part on one GPU and packs the model.

    python3 train/run_all.py --out DIR [MODEL_DIR]

The two autoencoders share the GPU, the fusion model follows. A part whose file is in DIR is not
trained again, so an interrupted run goes on where it stopped.
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
    parser.add_argument("model", nargs="?", default=os.path.join(HERE, "..", "models", "tiny"))
    args = parser.parse_args()
    finish(start("train_video_vae.py", "--out", args.out, "--seconds", "205"),
           start("train_audio.py", "--out", args.out, "--seconds", "200"))
    finish(start("train_fusion.py", "--out", args.out, "--seconds", "490", "--clips", "24576"))
    finish(start("export.py", "--out", args.out, args.model))


if __name__ == "__main__":
    main()
