"""Does a clip show what its prompt says? Measured from frames and sound alone.

    python3 train/evaluate.py --ovi build/ovi --models models/tiny [--prompts 100] [--json FILE]
    python3 train/evaluate.py --scramble all            (or text_encoder: the two controls)

Every prompt joins a combination and a wording that training never saw. The engine makes the
clips; background and colour are the nearest of the palette, shape is the best of four templates
laid over the picture, motion is read from the path and size of the shape, the sound from its
loudness and its strongest frequency in time. A thump counts as in time when its onset lies within
one frame of a bounce that the pictures show.
"""
import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import wave

import numpy as np
import torch

import world
from storage import load_packed, read_y4m, save_packed, write_png

KEYS = ["shape", "colour", "background", "motion", "sound"]
NAMES = dict(zip(KEYS, (world.SHAPES, list(world.COLOURS), list(world.BACKGROUNDS), world.MOTIONS, world.SOUNDS)))
ALL_PARTS = ["fusion", "text_encoder", "video_vae", "audio_vae", "vocoder"]


# ---- pictures: [T, H, W, 3] floats in 0..255 ----

def nearest(colour, table):
    return int(((np.array(table, float) - colour) ** 2).sum(1).argmin())


def find_wall(frames):
    """The colour that most of the wall has."""
    wall = frames[:, :world.FLOOR - 4].reshape(-1, 3)
    return np.median(wall, 0)


def find_shape(frames, wall):
    """Where pixels above the floor differ from the wall: [T, H, W] in 0..1."""
    away = np.sqrt(((frames - wall) ** 2).sum(-1))
    top = np.percentile(away[:, :world.FLOOR], 99.8)
    mask = np.clip(away / max(top, 60.0), 0, 1)
    mask[:, world.FLOOR:] = 0
    mask[mask < 0.35] = 0
    return mask


def follow(mask):
    """Centre [T, 2] and area [T] of the shape; frames without one repeat the last."""
    solid = mask > 0.5
    ys, xs = np.mgrid[0:world.SIZE, 0:world.SIZE] + 0.5
    area = solid.sum((1, 2)).astype(float)
    centre = np.zeros((len(mask), 2))
    for t, m in enumerate(solid):
        centre[t] = (xs[m].mean(), ys[m].mean()) if area[t] > 8 else centre[max(t - 1, 0)]
    return centre, area


def measure_shape(mask, centre, area):
    """The template that overlaps best in a few frames, over small shifts and sizes."""
    score = np.zeros(4)
    for t in np.argsort(-area)[:20:5]:
        m = torch.tensor(mask[t] > 0.5)
        for shape in range(4):
            score[shape] += best_overlap(m, shape, centre[t], area[t])
    return int(score.argmax())


UNIT_AREA = [np.pi, 4 * 0.88 ** 2, 3 * 3 ** 0.5 * 0.625 ** 2, 2.1]


def best_overlap(mask, shape, centre, area):
    size = max(2.0, (area / UNIT_AREA[shape]) ** 0.5)
    shift = torch.tensor([[dx, dy] for dx in (-1.0, 0.0, 1.0) for dy in (-2.0, 0.0, 2.0)])
    at = torch.tensor(centre, dtype=torch.float32) + shift  # [9, 2]
    best = 0.0
    for scale in (0.92, 1.0, 1.08):
        cover = world.coverage(torch.full((len(at),), shape), at[:, None], torch.full((len(at), 1), size * scale))
        made = cover[:, 0] > 0.5
        overlap = (made & mask).sum((1, 2)) / (made | mask).sum((1, 2)).clamp(min=1)
        best = max(best, float(overlap.max()))
    return best


def measure_motion(centre, area):
    x, y = centre[:, 0], centre[:, 1]
    size = np.median(area[-6:]) / max(np.median(area[:6]), 1.0)
    dx, dy = x[-4:].mean() - x[:4].mean(), y[-4:].mean() - y[:4].mean()
    wide, high = np.ptp(x), np.ptp(y)
    if size > 2.5:
        return world.MOTIONS.index("growing")
    turns = turning(y)
    if wide < 14 and high > 20 and turns >= 1:
        return world.BOUNCE
    if wide > 26 and high > 26:
        return world.MOTIONS.index("circling")
    if max(abs(dx), abs(dy)) < 10:
        return world.MOTIONS.index("still")
    if abs(dx) > abs(dy):
        return world.MOTIONS.index("right" if dx > 0 else "left")
    return world.MOTIONS.index("down" if dy > 0 else "up")


def turning(y):
    """How often the path turns back by more than six pixels."""
    count, low, high, rising = 0, y[0], y[0], None
    for v in y[1:]:
        low, high = min(low, v), max(high, v)
        if rising is not True and v > low + 6:
            count += rising is False
            rising, high = True, v
        elif rising is not False and v < high - 6:
            count += rising is True
            rising, low = False, v
    return count


def bounces(y):
    """Frames at which the path is lowest between two heights."""
    lows = []
    for t in range(2, len(y) - 2):
        near = y[max(0, t - 3):t + 4]
        if y[t] == near.max() and y[t] > near.min() + 3 and (not lows or t - lows[-1] > 3):
            lows.append(t)
    return lows


# ---- sound: [N] floats in -1..1 ----

def spectrum_in_time(sound):
    frames = np.lib.stride_tricks.sliding_window_view(sound, 1024)[::160]
    return np.abs(np.fft.rfft(frames * np.hanning(1024)))  # [frames, 513], bins of 15.625 Hz


def onsets(sound):
    """Times in seconds at which the loudness jumps."""
    level = np.sqrt(np.convolve(sound ** 2, np.ones(64) / 64, "same"))[::16]  # every ms
    peak = level.max()
    found, last = [], -1000
    for t in range(0, len(level) - 12):
        before = level[max(0, t - 15):t].min() if t else 0.0
        if level[t:t + 12].max() > before + 0.3 * peak and t - last > 120:
            last = t + int(np.argmax(np.diff(level[t:t + 12]))) + 1
            found.append(last / 1000)
    return found


def measure_sound(sound):
    s = spectrum_in_time(sound)
    loud = s.sum(1)
    on = loud > 0.25 * loud.max()
    power = (s[on] ** 2).mean(0) + 1e-12
    flat = np.exp(np.log(power[8:480]).mean()) / power[8:480].mean()
    pitch = s[on][:, :200].argmax(1) * 15.625
    steady = on.mean() > 0.8
    if steady and flat > 0.1:
        return world.SOUNDS.index("noise")
    if steady:
        third = len(pitch) // 4
        slope = np.median(pitch[-third:]) / max(np.median(pitch[:third]), 1.0)
        if slope > 1.8:
            return world.SOUNDS.index("rising")
        if slope < 1 / 1.8:
            return world.SOUNDS.index("falling")
        return int(np.abs(np.log(np.array(world.TONES) / max(np.median(pitch), 1.0))).argmin())
    return world.SOUNDS.index("beeps") if np.median(pitch) > 400 else world.IMPACT


def in_time(sound, y):
    """The share of heard thumps within one frame of a seen bounce, and how many were heard.

    An onset at time s belongs to frame floor(24 s); the first and last frames show no turn."""
    seen, heard = bounces(y), [int(s * world.FPS + 0.25) for s in onsets(sound)]
    heard = [h for h in heard if 2 <= h < len(y) - 2]
    if not heard or not seen:
        return 0.0, len(heard)
    return float(np.mean([min(abs(h - b) for b in seen) <= 1 for h in heard])), len(heard)


# ---- clips ----

def measure(frames, sound):
    wall = find_wall(frames)
    mask = find_shape(frames, wall)
    centre, area = follow(mask)
    pixels = frames[mask > 0.85]
    colour = np.median(pixels, 0) if len(pixels) else wall
    share, heard = in_time(sound, centre[:, 1])
    return {"shape": measure_shape(mask, centre, area), "colour": nearest(colour, list(world.COLOURS.values())),
            "background": nearest(wall, [b[0] for b in world.BACKGROUNDS.values()]),
            "motion": measure_motion(centre, area), "sound": measure_sound(sound),
            "in_time": share, "peak": float(np.abs(sound).max())}


def read_wav(path):
    with wave.open(path) as f:
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(float) / 32768


def generate(args, prompt, seed, folder, image=None):
    """A clip of the engine: frames [T,H,W,3] and sound."""
    path = os.path.join(folder, "clip.y4m")
    command = [args.ovi, "generate", "--models", args.models, prompt, "--steps", str(args.steps), "--seed", str(seed),
               "--threads", "1", "--quiet", "--force", "-o", path]
    if image is not None:
        first = os.path.join(folder, "first.png")
        write_png(first, image)
        command += ["--image", first]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_y4m(path), read_wav(path[:-3] + "wav")


def clips_of_parts(args, wishes, _):
    """The same without the engine, all wishes at once."""
    import sampler
    return sampler.clips(args.models, args.steps, wishes)


def first_image(row, seed):
    """A first frame of the world with the row's shape and colour."""
    generator = torch.Generator().manual_seed(seed)
    a = {k: torch.tensor([v]) for k, v in zip(KEYS, row)}
    video = world.render_video(world.draw_scene(a, generator), 0, 1)[0, :, 0]
    return ((video + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def table(rows):
    out = {k: float(np.mean([r["got"][k] == r["want"][k] for r in rows])) for k in KEYS}
    thumps = [r["got"]["in_time"] for r in rows if r["want"]["sound"] == world.IMPACT and r["want"]["motion"] == world.BOUNCE]
    out["in_time"] = float(np.mean(thumps)) if thumps else None
    out["peak"] = max(r["got"]["peak"] for r in rows)
    out["clips"] = len(rows)
    return out


def clips_of_engine(args, wishes, folder):
    """A clip for each wish (prompt, seed, first image or None), one after the other."""
    for wish in wishes:
        yield generate(args, *wish[:2], folder, wish[2])


def scores(name, args, wants, wishes, pool, folder):
    """Measures clips while the next ones are made, and prints the table of them."""
    clips = clips_of_parts if args.parts else clips_of_engine
    waiting = [pool.apply_async(measure, clip) for clip in clips(args, wishes, folder)]
    rows = [{"prompt": wish[0], "want": want, "got": w.get()} for want, wish, w in zip(wants, wishes, waiting)]
    for r in rows:
        wrong = [f"{k} {NAMES[k][r['got'][k]]} for {NAMES[k][r['want'][k]]}" for k in KEYS if r["got"][k] != r["want"][k]]
        if wrong:
            print(f"{r['prompt']}: {', '.join(wrong)}", file=sys.stderr)
    print(name, json.dumps(table(rows)), flush=True)
    return rows


def scrambled(model, keys, folder):
    """A copy of a packed model in which the numbers of every tensor of these parts are shuffled."""
    copy = os.path.join(folder, "scrambled")
    shutil.copytree(model, copy)
    generator = torch.Generator().manual_seed(1)
    for key in keys:
        state = {k: v.flatten()[torch.randperm(v.numel(), generator=generator)].view(v.shape)
                 for k, v in load_packed(model, key).items() if "filter" not in k}
        save_packed(copy, key, dict(load_packed(model, key), **state))
    return copy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ovi", default="build/ovi")
    parser.add_argument("--models", default="models/tiny")
    parser.add_argument("--parts", action="store_true", help="sample in PyTorch instead of with the engine")
    parser.add_argument("--scramble", choices=["all", "text_encoder"], help="control: shuffled weights")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--images", type=int, default=50, help="clips from a first frame")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", help="write every measurement here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prompts, result = world.held_out_prompts(args.prompts), {}
    wants = [dict(zip(KEYS, row)) for row, _ in prompts]
    wishes = [(text, args.seed + i, None) for i, (_, text) in enumerate(prompts)]
    from_image = [(text, args.seed + i, first_image(row, i)) for i, (row, text) in enumerate(prompts[:args.images])]
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("fork").Pool() as pool:
        if args.scramble:
            keys = ["text_encoder"] if args.scramble == "text_encoder" else ALL_PARTS
            args.models = scrambled(args.models, keys, folder)
        result["text"] = scores("text", args, wants, wishes, pool, folder)
        if from_image:
            result["image"] = scores("image", args, wants, from_image, pool, folder)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
