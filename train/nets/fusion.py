"""The fusion model (Ovi): two equal transformers for video and audio, joined in every block.

    video latents [B,z,F,h,w], audio latents [B,L,20], timestep [B], text [B,n,D_t] for each
    -> velocities of the same shapes. Official tensor names: video_model.*, audio_model.*
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
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


def attention(q, k, v):
    """softmax(q k' / sqrt(d)) v over [B,H,N,d]."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, -1) @ v


def plain_norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class Parameter(nn.Module):
    """Gives block modulation its doubled name."""

    def __init__(self, rows, d):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, rows, d) / d ** 0.5)


class SelfAttention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(d), RmsNorm(d)


class CrossAttention(SelfAttention):
    def __init__(self, d):
        super().__init__(d)
        self.k_fusion, self.v_fusion = nn.Linear(d, d), nn.Linear(d, d)
        self.norm_k_fusion = RmsNorm(d)
        self.pre_attn_norm_fusion = nn.LayerNorm(d, eps=1e-6)


class Block(nn.Module):
    """One stream's half of a joint block. x: this stream's tokens, y: the other's."""

    def __init__(self, d, ffn, heads):
        super().__init__()
        self.heads = heads
        self.modulation = Parameter(6, d)
        self.self_attn, self.cross_attn = SelfAttention(d), CrossAttention(d)
        self.norm3 = nn.LayerNorm(d, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(d, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, d))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B,H,N,d]

    def attend(self, x, m, rope):
        """m: rows of modulation [B or 1, N or 1, D] each."""
        a = self.self_attn
        n = (plain_norm(x) * (1 + m[1]) + m[0]).to(x.dtype)
        q, k, v = self.split(a.norm_q(a.q(n))), self.split(a.norm_k(a.k(n))), self.split(a.v(n))
        y = attention(rotate(q, rope), rotate(k, rope), v)
        return x + (m[2] * a.o(y.transpose(1, 2).flatten(2))).to(x.dtype)

    def cross(self, x, y, context, m, ropes):
        a = self.cross_attn
        q = self.split(a.norm_q(a.q(self.norm3(x))))
        r = attention(q, self.split(a.norm_k(a.k(context))), self.split(a.v(context)))
        y = a.pre_attn_norm_fusion(y)
        k, v = self.split(a.norm_k_fusion(a.k_fusion(y))), self.split(a.v_fusion(y))
        r = r + attention(rotate(q, ropes[0]), rotate(k, ropes[1]), v)
        x = x + a.o(r.transpose(1, 2).flatten(2))
        n = (plain_norm(x) * (1 + m[4]) + m[3]).to(x.dtype)
        return x + (m[5] * self.ffn(n)).to(x.dtype)


def rotate(x, rope):
    """Neighbours turn: x [B,H,N,d], rope = cos, sin [N, pairs]; pairs past those stay."""
    cos, sin = rope
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def angles(positions, pairs, scale=1.0):
    rate = scale * 10000.0 ** (-2 * torch.arange(pairs, dtype=torch.float64) / (2 * pairs))
    return positions.double()[:, None] * rate[None]


def video_rope(f, h, w, d):
    s = d // 6
    m = d // 2 - 2 * s
    t, y, x = torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij")
    turn = torch.cat([angles(t.flatten(), m), angles(y.flatten(), s), angles(x.flatten(), s)], 1)
    return torch.cos(turn).float(), torch.sin(turn).float()


def audio_rope(n, d, scale):
    m = d // 2 - 2 * (d // 6)
    turn = torch.cat([angles(torch.arange(n), m, scale), torch.zeros(n, d // 2 - m, dtype=torch.float64)], 1)
    return torch.cos(turn).float(), torch.sin(turn).float()


class ConvMlp(nn.Module):
    def __init__(self, d):
        super().__init__()
        width = 256 * -(-(8 * d // 3) // 256)
        self.w1, self.w3 = (nn.Conv1d(d, width, 7, padding=3, bias=False) for _ in range(2))
        self.w2 = nn.Conv1d(width, d, 7, padding=3, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Head(nn.Module):
    def __init__(self, d, o):
        super().__init__()
        self.head = nn.Linear(d, o)
        self.modulation = nn.Parameter(torch.randn(1, 2, d) / d ** 0.5)

    def forward(self, x, e):
        m = self.modulation[:, None].float() + e.float()[:, :, None]  # [B, N or 1, 2, D]
        return self.head((plain_norm(x) * (1 + m[:, :, 1]) + m[:, :, 0]).to(x.dtype))


class Backbone(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg["dim"]
        self.cfg = cfg
        if len(cfg["patch_size"]) == 3:
            self.patch_embedding = nn.Conv3d(cfg["in_dim"], d, (1, 2, 2), stride=(1, 2, 2))
            out = 4 * cfg["out_dim"]
        else:
            self.patch_embedding = nn.Sequential(nn.Conv1d(cfg["in_dim"], d, 7, padding=3), nn.SiLU(), ConvMlp(d))
            out = cfg["out_dim"]
        self.text_embedding = nn.Sequential(nn.Linear(cfg["text_dim"], d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(cfg["freq_dim"], d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList([Block(d, cfg["ffn_dim"], cfg["num_heads"]) for _ in range(cfg["num_layers"])])
        self.head = Head(d, out)
        nn.init.zeros_(self.head.head.weight)
        nn.init.zeros_(self.head.head.bias)

    def context(self, text):
        short = self.cfg["text_len"] - text.shape[1]
        return self.text_embedding(F.pad(text, (0, 0, 0, short)) if short else text)

    def time(self, t):
        """t [B, K]: e [B,K,D] and e0 [B,K,6,D]."""
        half = self.cfg["freq_dim"] // 2
        rate = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float64) / half)
        turn = t.double()[..., None] * rate
        z = torch.cat([torch.cos(turn), torch.sin(turn)], -1).float()
        e = self.time_embedding(z)
        return e, self.time_projection(e).unflatten(-1, (6, -1))


class Fusion(nn.Module):
    def __init__(self, video, audio):
        super().__init__()
        self.video_model, self.audio_model = Backbone(video), Backbone(audio)
        self.tables = {}

    def rope(self, f, h, w, n, device):
        key = (f, h, w, n, device)
        if key not in self.tables:
            v, a = self.video_model.cfg, self.audio_model.cfg
            made = (video_rope(f, h, w, v["dim"] // v["num_heads"]),
                    audio_rope(n, a["dim"] // a["num_heads"], a["temporal_rope_scaling_factor"]))
            self.tables[key] = tuple(tuple(t.to(device) for t in pair) for pair in made)
        return self.tables[key]

    def forward(self, video, audio, t, text_video, text_audio, clean=None, skip=-1, pair=None):
        """clean [B] bool: the first latent frame is given, its tokens are at t = 0."""
        vm, am = self.video_model, self.audio_model
        b, _, f, h, w = video.shape
        h, w = h // 2, w // 2
        ropes = self.rope(f, h, w, audio.shape[1], video.device)
        x = vm.patch_embedding(video).flatten(2).transpose(1, 2)
        y = am.patch_embedding(audio.transpose(1, 2)).transpose(1, 2)
        if clean is None:
            clean = torch.zeros(b, dtype=torch.bool, device=video.device)
        first = torch.arange(f * h * w, device=video.device) < h * w
        held = (clean[:, None] & first[None])[..., None]  # [B,N,1]
        et, et0 = vm.time(torch.stack([t, torch.zeros_like(t)], 1))
        ev = torch.where(held, et[:, 1:], et[:, :1])
        ea, ea0 = am.time(t[:, None])
        cv, ca = vm.context(text_video), am.context(text_audio)
        for i, (bv, ba) in enumerate(zip(vm.blocks, am.blocks)):
            if i == skip and i > 0:
                continue
            x, y = (pair or joint)(bv, ba, x, y, cv, ca, et0, ea0, held, ropes)
        x, y = vm.head(x, ev), am.head(y, ea)
        x = x.view(b, f, h, w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5).reshape(b, -1, f, 2 * h, 2 * w)
        return x, y


def joint(bv, ba, x, y, cv, ca, et0, ea0, held, ropes):
    """One joint block: both streams attend to the other's state after self-attention."""
    rows_v = bv.modulation.modulation[:, None].float() + et0.float()  # [B,2,6,D]
    rows_a = ba.modulation.modulation[:, None].float() + ea0.float()
    mv = [torch.where(held, rows_v[:, 1:, r], rows_v[:, :1, r]) for r in range(6)]
    ma = [rows_a[:, :, r] for r in range(6)]
    x, y = bv.attend(x, mv, ropes[0]), ba.attend(y, ma, ropes[1])
    return bv.cross(x, y, cv, mv, ropes), ba.cross(y, x, ca, ma, ropes[::-1])
