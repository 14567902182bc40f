#!/usr/bin/env python3
"""The published model on a GPU in PyTorch: the reference that ours is measured against.

Sizes as published, random bf16 weights made on the device, attention by cuDNN. Times a forward
pass of the fusion model, a guided step (the second forward leaves a block out) and the decoding
of the video latents, and says how far forward and decoding are from the figures measured with the
published code on the same device (recorded.py). A time further than 5 % from its figure does not count
as a reference: `counts` of its row is false.

The published engine calls the model under autocast to bf16, which moves norms to f32; both ways
are timed, and both forwards are judged. Where a copy of the published repository lies in
bench/published, that code is timed (`code` of a row: published) and then, in fewer rounds, our
writing of it (ours), which gives the same values (--check); else our writing alone.

    compare_gpu.py [--presets 720x720_5s,960x960_10s] [--json FILE] [--seconds N]
    compare_gpu.py --check      # small sizes on a CPU: the same values as train/nets
"""
import argparse
import json
import statistics
import sys
import time

import published_code
import recorded
import torch
from published_way import Decoder, Fusion, fusion, random_module, video_vae

STREAM = {"dim": 3072, "num_heads": 24, "num_layers": 30, "ffn_dim": 14336, "freq_dim": 256,
          "text_dim": 4096, "text_len": 512}
VIDEO = {**STREAM, "in_dim": 48, "out_dim": 48, "patch_size": [1, 2, 2]}
AUDIO = {**STREAM, "in_dim": 20, "out_dim": 20, "patch_size": [1], "temporal_rope_scaling_factor": 0.19676}
VAE = {"dim": 160, "dec_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
       "temporal_downsample": [False, True, True]}
# Latent frames, height and width; audio tokens.
PRESETS = {"720x720_5s": (31, 44, 44, 157), "960x960_5s": (31, 60, 60, 157), "960x960_10s": (61, 60, 60, 314)}
SKIPPED = 11
TEXT = (80, 60)  # tokens of the prompt and of the negative one: both are padded
NEAR = 0.05
AUTOCAST = ", under autocast"


def seconds_of(run):
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def rounds(run, wanted, until):
    """Seconds of each of `wanted` rounds, of one at least; fewer when it is late."""
    samples = [seconds_of(run)]
    while len(samples) < wanted and time.monotonic() < until:
        samples.append(seconds_of(run))
    return samples


def row(preset, what, samples):
    return {"preset": preset, "what": what, "code": "", "seconds": statistics.median(samples), "least": min(samples),
            "rounds": len(samples), "peak_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved()}


def guided(model, args, negative):
    """Both forwards and the guidance; what the solver adds is a thousandth."""
    v, a = model(*args)
    nv, na = model(*args[:3], *negative, skip=SKIPPED)
    return nv + 4 * (v - nv), na + 3 * (a - na)


def cudnn_attention():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION])


def make_fusion(code):
    """(a function of the grid that gives a model, its parameters)"""
    if code == "published":
        model = published_code.Fusion(VIDEO, AUDIO, "cuda", torch.bfloat16)
        return lambda grid: model, model.net
    net = random_module(lambda: fusion.Fusion(VIDEO, AUDIO), "cuda", torch.bfloat16)
    return lambda grid: Fusion(net, grid), net


def make_decoder(code):
    if code == "published":
        return published_code.Decoder(VAE, "cuda", torch.bfloat16)
    net = random_module(lambda: video_vae.VideoVae(VAE), "cuda", torch.bfloat16)
    del net.encoder
    return Decoder(net)


def inputs(preset):
    """Latents, sound, time, text of the positive branch twice; and of the negative one."""
    f, h, w, n = PRESETS[preset]
    like = {"device": "cuda", "dtype": torch.bfloat16}
    text = [torch.randn(1, k, VIDEO["text_dim"], **like) for k in TEXT]
    args = (torch.randn(1, VIDEO["in_dim"], f, h, w, **like), torch.randn(1, n, AUDIO["in_dim"], **like),
            torch.full((1,), 700.0, device="cuda"), text[0], text[0])
    return args, (text[1], text[1])


def time_model(model, preset, steps, until):
    """Rows of one way of calling it; the first forward meets cold caches and does not count."""
    args, negative = inputs(preset)
    torch.cuda.reset_peak_memory_stats()
    seconds_of(lambda: model(*args))
    return [row(preset, "forward", rounds(lambda: model(*args), steps, until)),
            row(preset, "guided step", rounds(lambda: guided(model, args, negative), steps, until))]


def time_fusion(code, presets, steps, until):
    make, net = make_fusion(code)
    print(f"fusion model: {sum(p.numel() for p in net.parameters()):,} parameters", flush=True)
    rows = []
    for preset in presets:
        f, h, w, _ = PRESETS[preset]
        model = make((f, h // 2, w // 2))
        with cudnn_attention(), torch.inference_mode():
            with torch.autocast("cuda", torch.bfloat16):
                called = time_model(model, preset, steps, until)
            rows += [{**r, "what": r["what"] + AUTOCAST} for r in called] + time_model(model, preset, steps, until)
    return rows


def time_decode(code, presets, wanted, until):
    """Three latent frames have every shape of a clip: they warm it."""
    rows, decoder = [], make_decoder(code)
    for preset in presets:
        f, h, w, _ = PRESETS[preset]
        z = torch.randn(1, VAE["z_dim"], f, h, w, device="cuda")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            decoder(z[:, :, :3])
            rows.append(row(preset, "decode", rounds(lambda: decoder(z), wanted, until)))
    return rows


def time_code(code, presets, wanted, until):
    """wanted: rounds of steps and of decodings. Every model is gone before the next is made."""
    steps, decodes = wanted
    rows = time_decode(code, presets[:1], decodes, until)
    torch.cuda.empty_cache()
    rows += time_fusion(code, presets, steps, until)
    torch.cuda.empty_cache()
    return [{**r, "code": code} for r in rows]


def ceilings(until):
    """What the device does at best here: a large product and a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    from_, to = (torch.empty(1 << 31, device="cuda", dtype=torch.uint8) for _ in range(2))
    product = min(rounds(lambda: [a @ b for _ in range(10)], 9, until)) / 10
    copy = min(rounds(lambda: [to.copy_(from_) for _ in range(10)], 5, until)) / 10
    found = {"flops": 2 * 8192.0**3 / product, "bytes": 2 * float(1 << 31) / copy}
    print(f"ceilings: {found['flops'] / 1e12:.0f} TFLOP/s, {found['bytes'] / 1e12:.2f} TB/s", flush=True)
    return found


def judge(rows, device):
    """Puts the published figure beside each time that has one, and whether it is near."""
    for r in rows:
        published = recorded.seconds(device, r["what"].removesuffix(AUTOCAST), r["preset"])
        if published:
            r["published_seconds"] = published
            r["off"] = r["seconds"] / published - 1
            r["counts"] = abs(r["off"]) <= NEAR


def tell(rows):
    for r in rows:
        line = f"{r['preset']:12} {r['code']:9} {r['what']:27} {r['seconds']:8.3f} s (least {r['least']:.3f}, " \
               f"{r['rounds']} rounds), {r['peak_bytes'] / 1e9:.1f} GB, reserved {r['reserved_bytes'] / 1e9:.1f}"
        if "off" in r:
            line += f"; recorded {r['published_seconds']:.3f} s, {r['off'] * 100:+.1f} %: " + \
                    ("counts" if r["counts"] else "does not count")
        print(line, flush=True)


# ------------------------------------------------------------------------------ check ----


def difference(a, b):
    return float((a - b).norm() / b.norm())


def check():
    """Against the networks of train/nets, which golden files hold: same values from other ways."""
    torch.manual_seed(1)
    small = {"dim": 96, "num_heads": 2, "num_layers": 3, "ffn_dim": 128, "freq_dim": 32, "text_dim": 24, "text_len": 16}
    net = random_module(lambda: fusion.Fusion({**VIDEO, **small}, {**AUDIO, **small}), "cpu", torch.float32)
    args = (torch.randn(1, 48, 3, 4, 6), torch.randn(1, 11, 20), torch.tensor([700.0]),
            torch.randn(1, 5, 24), torch.randn(1, 5, 24))
    with torch.no_grad():
        ours, theirs = Fusion(net, (3, 2, 3))(*args, skip=1), net(*args, skip=1)
    worst = max(difference(a, b) for a, b in zip(ours, theirs))
    vae = random_module(lambda: video_vae.VideoVae({**VAE, "dim": 8, "dec_dim": 8, "z_dim": 6}), "cpu", torch.float32)
    z = torch.randn(1, 6, 4, 3, 2)
    with torch.no_grad():
        frames, whole = Decoder(vae)(z), vae.decode(z).clamp(-1, 1)
    worst = max(worst, difference(frames, whole))
    print(f"largest difference from train/nets: {worst:.1e}; frames {tuple(frames.shape)}")
    return 0 if worst < 1e-5 else 1


def measure(args):
    """Writes the JSON after every code, so that what fails later loses nothing."""
    until = time.monotonic() + args.seconds
    device = torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {device}", flush=True)
    found = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "device": device,
             "ceilings": ceilings(until), "rows": []}
    torch.cuda.empty_cache()
    first = "published" if published_code.is_there() else "ours"
    again = [] if first == "ours" or args.one_code else [("ours", 1, 1)]
    for code, steps, decodes in [(first, args.steps, args.decodes)] + again:
        rows = time_code(code, args.presets.split(","), (steps, decodes), until)
        judge(rows, device)
        tell(rows)
        found["rows"] += rows
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(found, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="720x720_5s")
    parser.add_argument("--steps", type=int, default=3, help="rounds of a forward and of a guided step")
    parser.add_argument("--decodes", type=int, default=2, help="rounds of a decoding, of the first preset")
    parser.add_argument("--seconds", type=float, default=60, help="no further rounds after that")
    parser.add_argument("--one-code", action="store_true", help="our writing only where there is no other")
    parser.add_argument("--json")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        return check()
    measure(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
