#!/usr/bin/python3
"""The pieces of bench_models.c in PyTorch, timed beside ours (Debian: python3-torch).

Same shapes, same type, same number of threads, random weights, without autograd. For each
piece PyTorch runs, then ovi-bench-models, then PyTorch again; the medians are compared.
Written as one would write it in PyTorch, with the work that ours leaves out left out here
too: text keys and values stand ready, modulation is one row, history is kept.

    compare_pytorch.py [--ours build/bench/ovi-bench-models] [--type F32|BF16]
                       [--threads N] [--repeat N] [--clock wall|cpu] [--json]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

# ----------------------------------------------------------------------- fused block ----

WIDTH, HEADS, HIDDEN, BRANCHES, GRID, AUDIO, TEXT = 1024, 8, 4096, 2, 10, 157, 64
HEAD = WIDTH // HEADS
EPS = 1e-6


class Half:
    """One stream: weights, tokens, modulation, angles, text keys and values."""

    def __init__(self, tokens, dtype):
        def linear(n, k):
            return (torch.randn(n, k) / k**0.5).to(dtype), torch.randn(n).to(dtype)

        def gain():
            return torch.ones(WIDTH, dtype=dtype)

        names = "q k v o cross_q cross_o k_fusion v_fusion".split()
        self.linear = {name: linear(WIDTH, WIDTH) for name in names}
        self.up, self.down = linear(HIDDEN, WIDTH), linear(WIDTH, HIDDEN)
        self.gain = {name: gain() for name in ("q", "k", "cross_q", "k_fusion")}
        self.norm3 = self.pre_norm = (gain(), torch.zeros(WIDTH, dtype=dtype))
        self.x = torch.randn(BRANCHES, tokens, WIDTH).to(dtype)
        self.modulation = torch.randn(6, WIDTH).to(dtype)
        angles = torch.rand(tokens, 1, HEAD // 2) * 6.28
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self.text_k = torch.randn(BRANCHES, HEADS, TEXT + 1, HEAD).to(dtype)
        self.text_v = torch.randn(BRANCHES, HEADS, TEXT + 1, HEAD).to(dtype)
        self.text_bias = torch.zeros(TEXT + 1, dtype=dtype)


def rms(x, gain):
    scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + EPS)
    return x * scale.to(x.dtype) * gain


def heads(x):
    return x.unflatten(-1, (HEADS, HEAD))


def rotate(x, half):
    """Neighbours of [B, N, H, d] turn as pairs."""
    a, b = x.unflatten(-1, (HEAD // 2, 2)).unbind(-1)
    turned = (a * half.cos - b * half.sin, a * half.sin + b * half.cos)
    return torch.stack(turned, -1).flatten(-2)


def attend(q, k, v, bias=None):
    """q [B, N, H, d], k and v [B, H, M, d]"""
    scores = q.transpose(1, 2) @ k.transpose(-1, -2) * HEAD**-0.5
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)


def layer_norm(x, affine=(None, None)):
    return F.layer_norm(x, (WIDTH,), *affine, eps=EPS)


def self_attention(h, x):
    shift, scale, gate = h.modulation[:3]
    y = layer_norm(x) * (1 + scale) + shift
    q = rotate(heads(rms(F.linear(y, *h.linear["q"]), h.gain["q"])), h)
    k = rotate(heads(rms(F.linear(y, *h.linear["k"]), h.gain["k"])), h)
    v = heads(F.linear(y, *h.linear["v"]))
    y = attend(q, k.transpose(1, 2), v.transpose(1, 2))
    return x + gate * F.linear(y, *h.linear["o"])


def cross_attention(h, x, other, other_x):
    y = layer_norm(other_x, h.pre_norm)
    k = rotate(heads(rms(F.linear(y, *h.linear["k_fusion"]), h.gain["k_fusion"])), other)
    v = heads(F.linear(y, *h.linear["v_fusion"]))
    y = layer_norm(x, h.norm3)
    q = heads(rms(F.linear(y, *h.linear["cross_q"]), h.gain["cross_q"]))
    y = attend(q, h.text_k, h.text_v, h.text_bias)
    y = y + attend(rotate(q, h), k.transpose(1, 2), v.transpose(1, 2))
    return x + F.linear(y, *h.linear["cross_o"])


def feed_forward(h, x):
    shift, scale, gate = h.modulation[3:]
    y = layer_norm(x) * (1 + scale) + shift
    y = F.gelu(F.linear(y, *h.up), approximate="tanh")
    return x + gate * F.linear(y, *h.down)


def make_block(dtype):
    video, audio = Half(GRID**3, dtype), Half(AUDIO, dtype)

    def run():
        v, a = self_attention(video, video.x), self_attention(audio, audio.x)
        a_next = feed_forward(audio, cross_attention(audio, a, video, v))
        v_next = feed_forward(video, cross_attention(video, v, audio, a))
        return v_next, a_next

    return run


# --------------------------------------------------------------------- video decoder ----

LATENTS, SIDE, FRAMES, DEC_DIM, BLOCKS = 48, 16, 3, 64, 3
# Widths in and out (times DEC_DIM), does height and width double, does time?
STAGES = [
    (4, 4, True, True),
    (4, 4, True, True),
    (4, 2, True, False),
    (2, 1, False, False),
]


class Conv:
    """A convolution over [1, C, T, H, W] in channels-last order; causal ones remember."""

    def __init__(self, i, o, kernel, dtype):
        fan_in = i * kernel[0] * kernel[1] * kernel[2]
        weight = torch.randn(o, i, *kernel).to(dtype) / fan_in**0.5
        self.weight = weight.contiguous(memory_format=torch.channels_last_3d)
        self.bias = torch.zeros(o, dtype=dtype)
        self.pad = (0, kernel[1] // 2, kernel[2] // 2)
        self.history, self.memory = kernel[0] - 1, None

    def __call__(self, x):
        if self.history:
            if self.memory is None:
                self.memory = x.new_zeros(1, x.shape[1], self.history, *x.shape[3:])
            x = torch.cat((self.memory, x), 2)
            x = x.contiguous(memory_format=torch.channels_last_3d)
            self.memory = x[:, :, -self.history :]
        return F.conv3d(x, self.weight, self.bias, padding=self.pad)


def norm(x):
    return F.normalize(x, dim=1) * x.shape[1] ** 0.5


class Res:
    def __init__(self, i, o, dtype):
        self.first = Conv(i, o, (3, 3, 3), dtype)
        self.second = Conv(o, o, (3, 3, 3), dtype)
        self.shortcut = Conv(i, o, (1, 1, 1), dtype) if i != o else None

    def __call__(self, x):
        y = self.second(F.silu(norm(self.first(F.silu(norm(x))))))
        return y + (self.shortcut(x) if self.shortcut else x)


class Attention:
    def __init__(self, n, dtype):
        self.qkv = Conv(n, 3 * n, (1, 1, 1), dtype)
        self.out = Conv(n, n, (1, 1, 1), dtype)

    def __call__(self, x):
        q, k, v = self.qkv(norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        y = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).view_as(x))


def dup_up(x, out, time_factor, drop):
    """Channels of x, repeated, become frames, rows and columns of the result."""
    t, h, w = x.shape[2:]
    y = x.repeat_interleave(out * time_factor * 4 // x.shape[1], 1)
    y = y.view(1, out, time_factor, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return y.reshape(1, out, t * time_factor, 2 * h, 2 * w)[:, :, drop:]


class Stage:
    def __init__(self, i, o, space, time_too, dtype):
        self.blocks = [Res(o if n else i, o, dtype) for n in range(BLOCKS)]
        self.space = Conv(o, o, (1, 3, 3), dtype) if space else None
        self.time = Conv(o, 2 * o, (3, 1, 1), dtype) if time_too else None
        self.out = o

    def __call__(self, x, first_chunk):
        y = x
        for block in self.blocks:
            y = block(y)
        if not self.space:
            return y
        if self.time and not first_chunk:
            y = self.time(y).unflatten(1, (2, self.out))
            y = y.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        t, h, w = y.shape[2:]
        y = y[..., None, :, None].expand(1, self.out, t, h, 2, w, 2)
        y = y.reshape(1, self.out, t, 2 * h, 2 * w)
        y = self.space(y.contiguous(memory_format=torch.channels_last_3d))
        factor = 2 if self.time else 1
        return y + dup_up(x, self.out, factor, factor - 1 if first_chunk else 0)


class Decoder:
    def __init__(self, dtype):
        n = 4 * DEC_DIM
        self.latents = torch.randn(1, LATENTS, FRAMES, SIDE, SIDE).to(dtype)
        self.product = Conv(LATENTS, LATENTS, (1, 1, 1), dtype)
        self.front = Conv(LATENTS, n, (3, 3, 3), dtype)
        self.middle = [Res(n, n, dtype), Attention(n, dtype), Res(n, n, dtype)]
        self.stages = [
            Stage(i * DEC_DIM, o * DEC_DIM, space, time_too, dtype)
            for i, o, space, time_too in STAGES
        ]
        self.head = Conv(DEC_DIM, 12, (3, 3, 3), dtype)

    def convolutions(self):
        yield from (self.front, self.head)
        for block in self.middle + [b for s in self.stages for b in s.blocks]:
            if isinstance(block, Res):
                yield from (block.first, block.second)
        yield from (s.time for s in self.stages if s.time)

    def __call__(self):
        for conv in self.convolutions():
            conv.memory = None
        clip = self.product(self.latents)
        for i in range(FRAMES):
            x = self.front(clip[:, :, i : i + 1])
            for layer in self.middle:
                x = layer(x)
            for stage in self.stages:
                x = stage(x, i == 0)
            x = self.head(F.silu(norm(x)))
            x = F.pixel_shuffle(x[0].transpose(0, 1), 2).float().clamp(-1, 1)
        return x


# ------------------------------------------------------------------------- measuring ----


def seconds_of(run, repeat, clock):
    """Each of repeat rounds, after one that warms up."""
    run()
    samples = []
    for _ in range(repeat):
        start = clock()
        run()
        samples.append(clock() - start)
    return samples


def native_type(ours):
    """BF16 where ours has rows of it."""
    command = [ours, "--json", "--type", "BF16", "--only", "no such row"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return "F32" if subprocess.run(command, check=False, **quiet).returncode else "BF16"


def run_ours(args, name):
    command = [args.ours, "--json", "--only", name, "--type", args.type]
    command += ["--threads", str(args.threads), "--repeat", str(args.repeat)]
    command += ["--clock", args.clock]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)["rows"][0]


def compare(args, name, run):
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    half = (args.repeat + 1) // 2
    samples = seconds_of(run, half, clock)
    ours = run_ours(args, name)
    samples += seconds_of(run, half, clock)
    seconds, least = statistics.median(samples), min(samples)
    return {
        "name": name,
        "type": args.type,
        "pytorch_s": seconds,
        "pytorch_min_s": least,
        "ours_s": ours["ours_s"],
        "ours_min_s": ours["ours_min_s"],
        "ratio": seconds / ours["ours_s"],
        "ratio_of_min": least / ours["ours_min_s"],
    }


def parse():
    here = os.path.dirname(os.path.abspath(__file__))
    ours = os.path.join(here, "..", "build", "bench", "ovi-bench-models")
    parser = argparse.ArgumentParser(description="PyTorch beside ovi-bench-models")
    parser.add_argument("--ours", default=ours)
    parser.add_argument("--type", choices=("F32", "BF16"), help="default: BF16 if native")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", default="", help="pieces whose name holds this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu goes with --threads 1")
    args.type = args.type or native_type(args.ours)
    return args


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dtype = torch.bfloat16 if args.type == "BF16" else torch.float32
    pieces = {"fused block": make_block, "video decoder": Decoder}
    rows = []
    with torch.inference_mode():
        for name, make in pieces.items():
            if args.only in name:
                rows.append(compare(args, name, make(dtype)))
    if args.json:
        head = {"torch": torch.__version__, "threads": args.threads, "clock": args.clock}
        json.dump({**head, "rows": rows}, sys.stdout, indent=1)
        print()
        return
    for r in rows:
        print(
            f"{r['name']:16} {r['type']:5} ours {r['ours_s'] * 1e3:9.1f} ms   "
            f"PyTorch {torch.__version__} {r['pytorch_s'] * 1e3:9.1f} ms   "
            f"ratio {r['ratio']:.2f}, of least {r['ratio_of_min']:.2f}"
        )


if __name__ == "__main__":
    main()
