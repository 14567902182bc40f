"""Trains every part on one GPU and packs the model within ten minutes, then evaluates it.

    python3 train/run_all.py --out DIR [--seconds 600] MODEL_DIR
    python3 train/run_all.py --out DIR --start OLD_MODEL_DIR [--seed N] MODEL_DIR

The first form begins with random weights: autoencoders and vocoder share the GPU while the fusion
model gets ready beside them; then it has the GPU for itself. The second goes on from a packed model
with other clips and captions: fusion model, decoder of the video VAE and vocoder, side by side;
latents stay what they were. A part whose file is in DIR is not trained again, and one that was
interrupted goes on from the weights it kept, so the same command ends an interrupted run.
DIR/shards gets the model in pieces of at most 15 MiB.
"""
import argparse
import os
import subprocess
import sys
import tarfile
import time

from storage import split_file

HERE = os.path.dirname(os.path.abspath(__file__))
# When the parts end, as shares of the whole time; what is left is for packing.
AUDIO_VAE, AUTOENCODERS, FUSION = 0.12, 0.57, 0.97
BEGIN = time.time()


def log(text):
    print(f"[{time.time() - BEGIN:.0f} s] {text}", flush=True)


def start(script, *words):
    return script, subprocess.Popen([sys.executable, os.path.join(HERE, script), *map(str, words)])


def finish(*parts):
    """Waits for all of them, and ends where one has failed."""
    left = list(parts)
    while left:
        time.sleep(0.2)
        for script, process in [p for p in left if p[1].poll() is not None]:
            log(f"{script} ends with {process.returncode}")
            left.remove((script, process))
    if any(process.returncode for _, process in parts):
        sys.exit("a part failed: see above")


def train_from_nothing(args, common):
    def until(share):
        return *common, "--until", BEGIN + share * args.seconds
    finish(start("train_audio.py", *until(AUDIO_VAE), "--part", "audio_vae"),
           start("train_video_vae.py", *until(AUTOENCODERS)),
           start("train_audio.py", *until(AUTOENCODERS), "--part", "vocoder"),
           start("train_fusion.py", *until(FUSION), "--clips", args.clips, "--wait"))


def train_further(args, common):
    common = [*common, "--start", args.start, "--until", BEGIN + FUSION * args.seconds]
    finish(start("train_video_vae.py", *common, "--decoder-only"),
           start("train_audio.py", *common, "--part", "vocoder"),
           start("train_fusion.py", *common, "--clips", args.clips))


def save_shards(model, folder):
    os.makedirs(folder, exist_ok=True)
    whole = os.path.join(folder, "model.tar")
    with tarfile.open(whole, "w") as tar:
        tar.add(model, os.path.basename(os.path.abspath(model)))
    split_file(whole, folder)
    os.remove(whole)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", help="packed model to go on from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600, help="for training and packing")
    parser.add_argument("--clips", type=int, default=24576, help="in the bank of the fusion model")
    parser.add_argument("--prompts", type=int, default=100, help="of the evaluation")
    parser.add_argument("model")
    args = parser.parse_args()
    common = ["--out", args.out, "--seed", args.seed, "--steps", 200000]
    (train_further if args.start else train_from_nothing)(args, common)
    finish(start("export.py", "--out", args.out, args.model))
    save_shards(args.model, os.path.join(args.out, "shards"))
    log("trained and packed")
    finish(start("evaluate.py", "--parts", "--models", args.model, "--prompts", args.prompts,
                 "--images", args.prompts * 2 // 5, "--json", os.path.join(args.out, "evaluation.json")))
    log("done")


if __name__ == "__main__":
    main()
