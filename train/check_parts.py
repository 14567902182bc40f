"""How well the two autoencoders and the vocoder give clips of the world back, fusion model apart.

    python3 train/check_parts.py --out DIR [--clips 24]

Measures as train/evaluate.py does, on true clips, on clips through the video VAE (also with noise
on the latents) and on sounds through audio VAE and vocoder; out/parts.png shows some of them.
"""
import argparse
import os

import numpy as np
import torch

import world
from config import CONFIG
from evaluate import KEYS, find_shape, find_wall, follow, in_time, measure
from nets.audio_vae import AudioVae
from nets.mel import log_mel, mel_basis
from nets.video_vae import VideoVae
from nets.vocoder import Vocoder
from storage import load_packed, load_part, write_png


def part(args, key, net):
    state = load_part(args.out, key, "cpu") or load_packed(args.start, key)
    net.load_state_dict(state.get("state", state))
    return net.to(args.device).eval()


def pictures(video):
    return [((v.float().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).cpu().numpy() for v in video]


def through_vae(net, video, noise):
    made = []
    for clip in video.split(4):
        z = net.encode(clip)[0]
        made.append(net.decode(z + noise * z.std((0, 2, 3, 4), keepdim=True) * torch.randn_like(z)))
    return torch.cat(made)


def report(name, frames, sounds, rows):
    got = [measure(f, s) for f, s in zip(frames, sounds)]
    share = [np.mean([g[k] == row[i] for g, row in zip(got, rows)]) for i, k in enumerate(KEYS)]
    thump = [in_time(s, follow(find_shape(f, find_wall(f)))[0][:, 1])[0]
             for f, s, row in zip(frames, sounds, rows) if row[3] == world.BOUNCE and row[4] == world.IMPACT]
    print(name, " ".join(f"{k} {v:.2f}" for k, v in zip(KEYS, share)),
          f"in_time {np.mean(thump) if thump else 0:.2f} peak {max(g['peak'] for g in got):.2f}", flush=True)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", default="models/tiny")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(11)
    a = world.draw_attributes(args.clips, generator, "cpu", held_out=True)
    scene = world.draw_scene(a, generator)
    rows = torch.stack([a[k] for k in KEYS], 1).tolist()
    video, sound = (x.to(args.device) for x in (world.render_video(scene), world.render_audio(scene, generator)))
    vae = part(args, "video_vae", VideoVae(CONFIG["video_vae"]))
    ear = part(args, "audio_vae", AudioVae(CONFIG["audio_vae"]))
    voice = part(args, "vocoder", Vocoder(CONFIG["vocoder"]))
    mel = log_mel(sound, mel_basis(args.device))
    heard = voice(ear.decode(ear.encode(mel)[0]))[:, 0]
    for i, name in enumerate(world.SOUNDS):
        kind = [k for k, row in enumerate(rows) if row[4] == i]
        if kind:
            print(name, "rms true %.3f made %.3f" % tuple(float(x[kind].pow(2).mean().sqrt()) for x in (sound, heard)))
    sounds, heard = (list(x.cpu().numpy().astype(float)) for x in (sound, heard))
    shown = [pictures(video)]
    report("true", shown[0], sounds, rows)
    for noise in (0.0, 0.2):
        made = through_vae(vae, video, noise)
        print(f"noise {noise}: mean difference {float((made - video).abs().mean()):.4f}")
        shown.append(pictures(made))
        report(f"noise {noise}", shown[-1], heard, rows)
    strips = [np.concatenate(list(f[i][::6]), 1) for i in range(min(8, args.clips)) for f in shown]
    write_png(os.path.join(args.out, "parts.png"), np.concatenate(strips).astype(np.uint8))


if __name__ == "__main__":
    main()
