"""Eight prompts, eight clips: a strip of frames over the waveform of each, as one PNG.

    python3 train/contact_sheet.py --ovi build/ovi --models models/tiny docs/contact-sheet.png
"""
import argparse
import tempfile

import numpy as np

from evaluate import generate
from storage import write_png

PROMPTS = [
    "a green star jumping on a dark floor, with a thump",
    "A red circle moves left on a white background. <AUDCAP>a high tone<ENDAUDCAP>",
    "A blue square goes round and round in front of a brown wall. <AUDCAP>beeps<ENDAUDCAP>",
    "A yellow triangle gets bigger against a black background. <AUDCAP>a rising tone<ENDAUDCAP>",
    "An orange ball bounces on a gray floor. Audio: a thump at each bounce",
    "A purple star floats upwards on a white backdrop. Audio: a tone that rises",
    "A pink box slides to the right in a dark room, with white noise",
    "A cyan disc sinks before a wooden backdrop. <AUDCAP>a falling tone<ENDAUDCAP>",
]
STRIP, WAVE, GAP, EVERY = 96, 40, 6, 6


def waveform(sound, width):
    image = np.full((WAVE, width, 3), 255, np.uint8)
    for x, piece in enumerate(np.array_split(sound, width)):
        low, high = (int(np.clip((1 - v) / 2 * (WAVE - 1), 0, WAVE - 1)) for v in (piece.max(), piece.min()))
        image[low:high + 1, x] = (40, 90, 160)
    return image


def row_of(frames, sound):
    step = frames.shape[1] / STRIP
    at = (np.arange(STRIP) * step + step / 2).astype(int)
    strip = np.concatenate(list(frames[::EVERY][:, at][:, :, at]), 1)
    return np.concatenate([strip.astype(np.uint8), waveform(sound, strip.shape[1])])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ovi", default="build/ovi")
    parser.add_argument("--models", default="models/tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("picture")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for prompt in PROMPTS:
            rows.append(row_of(*generate(args, prompt, 100, folder)))
            rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    write_png(args.picture, np.concatenate(rows[:-1]))


if __name__ == "__main__":
    main()
