"""The text encoder (class of umT5): ids [B,L] -> features [B,L,D]. Official tensor names.

No scaling of scores, a table of relative positions in every layer, RMS norms, gated tanh-GELU.
Padded keys are masked; the engine runs the true tokens alone, which is the same.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return (x.float() * scale * self.weight.float()).to(x.dtype)


class SelfAttention(nn.Module):
    def __init__(self, d, a, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(d, a, bias=False) for _ in range(3))
        self.o = nn.Linear(a, d, bias=False)

    def forward(self, x, bias):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weight = torch.softmax((q @ k.transpose(2, 3)).float() + bias, -1).to(v.dtype)
        return self.o((weight @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(d, f, bias=False))
        self.fc1, self.fc2 = nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.fc2(self.fc1(x) * F.gelu(self.gate(x), approximate="tanh"))


class PositionBias(nn.Module):
    def __init__(self, buckets, heads, furthest):
        super().__init__()
        self.embedding = nn.Embedding(buckets, heads)
        self.buckets, self.furthest = buckets, furthest

    def forward(self, n):
        """[heads, n, n]"""
        place = torch.arange(n, device=self.embedding.weight.device)
        table = bucket(place[None] - place[:, None], self.buckets, self.furthest)
        return self.embedding(table).permute(2, 0, 1).float()


def bucket(r, buckets, furthest):
    half = buckets // 2
    exact = half // 2
    far = exact + (torch.log(r.abs().clamp(min=1).float() / exact) / math.log(furthest / exact)
                   * (half - exact)).long()
    return (r > 0).long() * half + torch.where(r.abs() < exact, r.abs(), far.clamp(max=half - 1))


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg["dim"]
        self.norm1, self.norm2 = RmsNorm(d), RmsNorm(d)
        self.attn = SelfAttention(d, cfg["dim_attn"], cfg["num_heads"])
        self.ffn = FeedForward(d, cfg["dim_ffn"])
        self.pos_embedding = PositionBias(cfg["num_buckets"], cfg["num_heads"], cfg["max_dist"])

    def forward(self, x, mask):
        x = x + self.attn(self.norm1(x), self.pos_embedding(x.shape[1]) + mask)
        return x + self.ffn(self.norm2(x))


class Umt5(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.token_embedding = nn.Embedding(cfg["vocab"], cfg["dim"])
        self.blocks = nn.ModuleList([Layer(cfg) for _ in range(cfg["num_layers"])])
        self.norm = RmsNorm(cfg["dim"])
        for layer in self.blocks:  # small scores at first, since they are not scaled
            nn.init.normal_(layer.attn.q.weight, std=(cfg["dim"] * cfg["dim_attn"] / cfg["num_heads"]) ** -0.5)
            nn.init.normal_(layer.pos_embedding.embedding.weight, std=0.1)

    def forward(self, ids, lengths):
        """Rows past each length come out as zeros."""
        true = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        mask = torch.where(true, 0.0, -1e9)[:, None, None]
        x = self.token_embedding(ids)
        for layer in self.blocks:
            x = layer(x, mask)
        return self.norm(x) * true[..., None]
