"""Trains the video VAE: out/video_vae.pt {state, mean, std}.

    python3 train/train_video_vae.py --out DIR

First short pieces of clips, then whole ones (only those when it goes on from --start); a third
of them in colours of no palette, so that the latents cover more than the world. Loss: distance to
the picture, heavier on the shape and most on its edges, and a little divergence from the normal
distribution. Half of the latents are decoded with noise added, as much as a sampler leaves: the
decoder must not make patterns of it.
"""
import argparse

import torch

import world
from common import Clock, Record, Step, arguments, go_on, muon_and_adam, set_rate
from config import CONFIG
from nets.video_vae import VideoVae, fast
from storage import load_packed, load_part, load_statistics, save_part

PHASES = [(17, 8, 0.5), (49, 4, 1.0)]  # frames, clips, until which progress
DIVERGENCE, NOISE = 2e-4, 0.25
ON_SHAPE, ON_EDGE = 8, 16
MUON_RATE, RATE = 2e-3, 1e-3


def wide_colours(scene):
    """The palette's colours in most clips, any colours in the others."""
    fore, walls, floors = world.palette(scene["shape"].device)
    n, device = scene["shape"].numel(), scene["shape"].device
    any_of = 2 * torch.rand(3, n, 3, device=device) - 1
    wild = torch.rand(n, 1, device=device) < 0.3
    own = [(fore[scene["colour"]] + scene["hue"]).clamp(-1, 1), walls[scene["background"]], floors[scene["background"]]]
    return tuple(torch.where(wild, a, b) for a, b in zip(any_of, own))


def draw_clips(n, length, device):
    """Pictures [n,3,length,H,W] and how much of the shape is in each pixel."""
    attributes = world.draw_attributes(n, None, device)
    more = torch.rand(n, device=device) < 0.2  # bounces are the fastest thing there is
    attributes["motion"] = torch.where(more, world.BOUNCE, attributes["motion"])
    scene = world.draw_scene(attributes, None)
    start = int(torch.randint(world.FRAMES - length + 1, (1,)))
    video = world.render_video(scene, start, length, wide_colours(scene))
    span = slice(start, start + length)
    return video, world.coverage(scene["shape"], scene["centre"][:, span], scene["size"][:, span])[:, None]


def widen(alpha, by):
    """The largest value within so many pixels."""
    return torch.nn.functional.max_pool2d(alpha.flatten(0, 2)[:, None], 2 * by + 1, 1, by).view_as(alpha)


def loss_of(net, video, alpha):
    with torch.set_grad_enabled(net.encoder.conv1.weight.requires_grad):
        mean, logvar = (x.float() for x in net.encode(video))
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
    amount = NOISE * (2 * torch.rand(z.shape[0], 1, 1, 1, 1, device=z.device) - 1).clamp(min=0)
    z = z + amount * mean.detach().std((0, 2, 3, 4), keepdim=True) * torch.randn_like(z)
    error = net.decode(z).float() - video
    weight = 1 + ON_SHAPE * widen(alpha, 2) + ON_EDGE * widen(4 * alpha * (1 - alpha), 1)
    picture = (weight * (error.abs() + 2 * error ** 2)).mean()
    divergence = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).mean()
    return picture + DIVERGENCE * divergence, picture, divergence


def is_hidden(name, p):
    """Convolutions between hidden layers."""
    return p.dim() > 3 and p.shape[1] > 1 and "head" not in name and "coder.conv1" not in name


@torch.no_grad()
def statistics(net, device, clips=256):
    """Mean and deviation of each latent channel over whole clips of the world."""
    latents = []
    for _ in range(clips // 8):
        scene = world.draw_scene(world.draw_attributes(8, None, device), None)
        latents.append(net.encode(world.render_video(scene))[0].float())
    z = torch.cat(latents).transpose(0, 1).flatten(1)
    return z.mean(1).cpu(), z.std(1).clamp(min=0.1).cpu()


def train_phase(net, optimisers, phase, clock, record, device):
    length, clips, until = phase
    video, alpha = draw_clips(clips, length, device)

    def step():
        for o, _ in optimisers:
            o.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            losses = loss_of(net, video, alpha)
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for o, _ in optimisers:
            o.step()
        return torch.stack([l.detach() for l in losses])

    for o, _ in optimisers:
        set_rate(o, 0)
    run, total = Step(step, device), torch.zeros(3, device=device)
    while clock.progress() < until:
        for into, new in zip((video, alpha), draw_clips(clips, length, device)):
            into.copy_(new)
        for o, rate in optimisers:
            set_rate(o, rate * clock.rate())
        total += run()
        clock.step += 1
        if clock.step % 100 == 0:
            _, picture, divergence = (total / 100).tolist()
            record.add(clock.step, picture=picture, divergence=divergence)
            total.zero_()
            record.keep(net)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--decoder-only", action="store_true", help="the latents of --start stay as they are")
    args = arguments(parser)
    if load_part(args.out, "video_vae"):
        return print("video_vae: already there")
    device = args.device
    fast(device)
    net = VideoVae(CONFIG["video_vae"]).to(device)
    if args.start:
        net.load_state_dict(load_packed(args.start, "video_vae"))
    go_on(args, "video_vae", net)
    for p in [*net.encoder.parameters(), *net.conv1.parameters()]:
        p.requires_grad_(not args.decoder_only)
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    optimisers = muon_and_adam(named, is_hidden, (MUON_RATE, RATE), device)
    clock, record = Clock(args.steps or 6000, args.until, warm=200), Record(args.out, "video_vae")
    for length, clips, until in PHASES[1 if args.start else 0:]:
        train_phase(net, optimisers, (length, clips, until), clock, record, device)
    if args.decoder_only:
        mean, std = load_statistics(args.start)
    else:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            mean, std = statistics(net, device)
    save_part(args.out, "video_vae", {"state": net.state_dict(), "mean": mean, "std": std})
    record.close()
    print("video_vae: std of the latents", [round(v, 2) for v in std.tolist()])


if __name__ == "__main__":
    main()
