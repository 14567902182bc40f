"""Safetensors, checkpoints in shards, and pictures of curves, with nothing but torch and zlib."""
import json
import os
import struct
import zlib

import numpy as np
import torch

from config import CONFIG

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64,
          "I32": torch.int32, "U8": torch.uint8, "F64": torch.float64}


def read_safetensors(path):
    """(tensors, metadata)"""
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, row in header.items():
        a, b = row["data_offsets"]
        raw = torch.from_numpy(np.frombuffer(data[8 + n + a:8 + n + b], np.uint8).copy())
        tensors[name] = raw.view(DTYPES[row["dtype"]]).view(row["shape"])
    return tensors, meta


def write_safetensors(path, tensors, meta):
    names = {v: k for k, v in DTYPES.items()}
    header, at = {"__metadata__": meta}, 0
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def save_part(folder, name, value):
    """One file per part of the training, written whole or not at all."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + ".pt")
    torch.save(value, path + ".new")
    os.replace(path + ".new", path)


def load_part(folder, name, device="cpu"):
    path = os.path.join(folder, name + ".pt")
    return torch.load(path, map_location=device) if os.path.exists(path) else None


def load_packed(model, key):
    """The f32 state of one part of a packed model directory; key as in CONFIG["files"]."""
    path = os.path.join(model, CONFIG["files"][key])
    state = read_safetensors(path)[0] if path.endswith(".safetensors") else torch.load(path, map_location="cpu")
    state = state.get("generator", state)
    return {k: v.float() for k, v in state.items()}


def load_statistics(model):
    """Mean and deviation of the latent channels of a packed model."""
    with open(os.path.join(model, "ovi.json")) as f:
        vae = json.load(f)["video_vae"]
    return torch.tensor(vae["mean"]), torch.tensor(vae["std"])


def half(state, exact_below=0):
    """Weights in bf16; tensors of fewer elements than that as they are."""
    return {k: v.detach().cpu().contiguous().to(torch.float32 if v.numel() < exact_below else torch.bfloat16).clone()
            for k, v in state.items()}


def save_packed(model, key, state):
    """One part as the published files are packed, weights in bf16. The small tensors of the
    audio models (filters, slopes, statistics) stay f32: they cost nothing."""
    path = os.path.join(model, CONFIG["files"][key])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    state = half(state, 256 if key in ("audio_vae", "vocoder") else 0)
    if path.endswith(".safetensors"):
        write_safetensors(path, state, {"format": "pt"})
    else:
        torch.save({"generator": state} if key == "vocoder" else state, path)


SHARD = 15 * 1024 * 1024


def split_file(path, folder):
    """Shards of at most 15 MiB, path.00, path.01, ...; joined again with cat."""
    with open(path, "rb") as f:
        for k in range(1000):
            piece = f.read(SHARD)
            if not piece:
                return
            with open(os.path.join(folder, "%s.%02d" % (os.path.basename(path), k)), "wb") as out:
                out.write(piece)


# ---- pictures ----

def write_png(path, image):
    """image: [H, W, 3] uint8 array."""
    image = np.ascontiguousarray(image, np.uint8)
    h, w, _ = image.shape
    rows = np.concatenate([np.zeros((h, 1), np.uint8), image.reshape(h, w * 3)], 1).tobytes()

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


INKS = [(31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14)]


def write_curves(path, curves, size=(240, 480)):
    """Curves on a logarithmic scale, each a list of positive numbers, lightly smoothed.
    Grey lines stand at powers of ten."""
    h, w = size
    image = np.full((h, w, 3), 255, np.uint8)
    lines = [np.log10(np.maximum(smooth(np.array(c, float)), 1e-8)) for c in curves.values() if len(c) > 1]
    if lines:
        low, high = min(l.min() for l in lines), max(l.max() for l in lines)
        span = max(high - low, 0.1)

        def row(v):
            return np.clip(((high - v) / span * (h - 9)).astype(int) + 4, 0, h - 1)
        for power in range(int(np.floor(low)), int(np.ceil(high)) + 1):
            if low <= power <= high:
                image[row(np.array([float(power)]))[0], :] = 200
        for ink, line in zip(INKS, lines):
            x = np.linspace(0, w - 1, 4 * w)
            y = row(np.interp(x / (w - 1) * (len(line) - 1), np.arange(len(line)), line))
            image[y, x.astype(int)] = ink
            image[np.minimum(y + 1, h - 1), x.astype(int)] = ink
    write_png(path, image)


def smooth(values):
    k = max(1, len(values) // 100)
    return np.convolve(values, np.ones(k) / k, "valid") if k > 1 else values


# ---- clips ----

def read_y4m(path):
    """[T, H, W, 3] floats in 0..255 from a 4:4:4 file (BT.709 or BT.601 by its header, limited range)."""
    with open(path, "rb") as f:
        header = f.readline().split()
        w = next(int(x[1:]) for x in header if x[:1] == b"W")
        h = next(int(x[1:]) for x in header if x[:1] == b"H")
        frames = []
        while f.readline():
            frames.append(np.frombuffer(f.read(3 * w * h), np.uint8).reshape(3, h, w))
    y, u, v = (np.stack(frames).astype(float)[:, c] for c in range(3))
    y, u, v = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    r, b = y + 1.5748 * v, y + 1.8556 * u
    g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.clip(np.stack([r, g, b], -1), 0, 255)
