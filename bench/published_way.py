"""The fusion model and the video decoder, computed the way the published implementation does it.

The weights lie in the modules of train/nets; what is written here is the order of operations and
their types, because those are what the time goes to: a row of modulation for every token, rotation
in complex128, 512 padded text tokens whose keys and values are made anew in every step, a
comparison of the audio tokens with what they were in every block; the decoder in f32 with TF32
convolutions, one latent frame after the other, its history cloned. Under autocast to bf16, which is how
the published engine calls the fusion model, its norms and powers are in f32 and its products in bf16.
"""
import contextlib
import math
import os
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
from nets import fusion, video_vae  # noqa: E402  (found through the path above)

EPS = 1e-6
POSITIONS = 1024  # of a table of angles


def random_module(make, device, dtype):
    """Made on the device itself, with random weights and gains of one; no gradients."""
    on_device = device != "cpu"  # torch 1.13, which tests this on a CPU, cannot make on "meta"
    with torch.device("meta") if on_device else contextlib.nullcontext():
        module = make().to(dtype)
    if on_device:
        module = module.to_empty(device=device)
    for name, p in module.named_parameters():
        p.requires_grad_(False)
        if p.dim() > 1 and "gamma" not in name:
            p.normal_(0, 1 / math.sqrt(p[0].numel()))
        elif name.endswith(("gamma", "norm_q.weight", "norm_k.weight", "norm_k_fusion.weight")):
            p.fill_(1)
        else:
            p.normal_(0, 0.02)
    return module.eval()


# ---------------------------------------------------------------------- fusion model ----


def table(pairs, scale=1.0):
    """Turns [POSITIONS, pairs] in complex128."""
    turn = fusion.angles(torch.arange(POSITIONS), pairs, scale)
    return torch.polar(torch.ones_like(turn), turn)


def rotate_video(x, grid, tables):
    """x [1,N,H,d]; the turns of all tokens are put together anew in every call."""
    f, h, w = grid
    n, heads = x.shape[1:3]
    turns = torch.cat([
        tables[0][:f].view(f, 1, 1, -1).expand(f, h, w, -1),
        tables[1][:h].view(1, h, 1, -1).expand(f, h, w, -1),
        tables[2][:w].view(1, 1, w, -1).expand(f, h, w, -1),
    ], -1).reshape(n, 1, -1)
    z = torch.view_as_complex(x[0].to(torch.float64).reshape(n, heads, -1, 2))
    y = torch.view_as_real(z * turns).flatten(2)
    return torch.stack([torch.cat([y, x[0, n:]])]).to(x.dtype)


def rotate_audio(x, turns):
    n, heads = x.shape[1:3]
    z = torch.view_as_complex(x[0].to(torch.float64).reshape(n, heads, -1, 2))
    turned = z[:, :, :turns.shape[1]] * turns[:n, None]
    y = torch.view_as_real(torch.cat([turned, z[:, :, turns.shape[1]:]], 2)).flatten(2)
    return torch.stack([torch.cat([y, x[0, n:]])]).to(x.dtype)


def rms(x, weight):
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return y.type_as(x) * weight


def layer_norm(x, m=None):
    weight, bias = (m.weight, m.bias) if m is not None else (None, None)
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS).type_as(x)


def attention(q, k, v):
    """[1,N,H,d] each."""
    y = fusion.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return y.transpose(1, 2).contiguous()


class Stream:
    """One backbone with what its forward pass needs beside weights."""

    def __init__(self, model, rotate):
        self.model, self.rotate = model, rotate
        self.heads = model.cfg["num_heads"]

    def split(self, x):
        return x.view(1, -1, self.heads, x.shape[-1] // self.heads)

    def time(self, t, tokens):
        """e [1,N,D] and e0 [1,N,6,D]: a row for every token."""
        t = t.unsqueeze(1).expand(1, tokens).flatten()
        half = self.model.cfg["freq_dim"] // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float64)
        turn = torch.outer(t.double(), torch.pow(10000, -steps / half))
        z = torch.cat([torch.cos(turn), torch.sin(turn)], 1)
        e = self.model.time_embedding(z.unflatten(0, (1, tokens)).to(self.dtype))
        return e, self.model.time_projection(e).unflatten(2, (6, -1))

    @property
    def dtype(self):
        return self.model.head.head.weight.dtype

    def self_attention(self, i, x, e):
        b = self.model.blocks[i]
        a = b.self_attn
        y = layer_norm(x) * (1 + e[1].squeeze(2)) + e[0].squeeze(2)
        q, k, v = self.split(rms(a.q(y), a.norm_q.weight)), self.split(rms(a.k(y), a.norm_k.weight)), self.split(a.v(y))
        y = attention(self.rotate(q), self.rotate(k), v)
        return x + a.o(y.flatten(2)) * e[2].squeeze(2)

    def cross_attention(self, i, x, other, other_x, context):
        b = self.model.blocks[i]
        a = b.cross_attn
        q = self.split(rms(a.q(layer_norm(x, b.norm3)), a.norm_q.weight))
        k, v = self.split(rms(a.k(context), a.norm_k.weight)), self.split(a.v(context))
        y = attention(q, k, v)
        n = layer_norm(other_x, a.pre_attn_norm_fusion)
        k, v = self.split(rms(a.k_fusion(n), a.norm_k_fusion.weight)), self.split(a.v_fusion(n))
        y = y + attention(self.rotate(q), other.rotate(k), v)
        return x + a.o(y.flatten(2))

    def feed_forward(self, i, x, e):
        y = layer_norm(x) * (1 + e[4].squeeze(2)) + e[3].squeeze(2)
        return x + self.model.blocks[i].ffn(y) * e[5].squeeze(2)

    def rows(self, i, e0):
        return (self.model.blocks[i].modulation.modulation + e0).chunk(6, dim=2)

    def head(self, x, e):
        h = self.model.head
        m = (h.modulation.unsqueeze(0) + e.unsqueeze(2)).chunk(2, dim=2)
        return h.head(layer_norm(x) * (1 + m[1].squeeze(2)) + m[0].squeeze(2))


class Fusion:
    def __init__(self, model, grid):
        """model: fusion.Fusion; grid: video tokens along time, height, width."""
        video, audio = model.video_model, model.audio_model
        d = video.cfg["dim"] // video.cfg["num_heads"]
        side = d // 6
        time = d // 2 - 2 * side
        device = video.head.head.weight.device
        tables = [table(pairs).to(device) for pairs in (time, side, side)]
        turns = table(time, audio.cfg["temporal_rope_scaling_factor"]).to(device)
        self.grid = grid
        self.video = Stream(video, lambda x: rotate_video(x, grid, tables))
        self.audio = Stream(audio, lambda x: rotate_audio(x, turns))

    def __call__(self, latents, sound, t, text_video, text_audio, skip=-1):
        """latents [1,z,F,h,w], sound [1,L,20], t [1], text [1,n,D_t]; see fusion.Fusion."""
        v, a = self.video, self.audio
        x = v.model.patch_embedding(latents).flatten(2).transpose(1, 2)
        y = a.model.patch_embedding(sound.transpose(1, 2)).transpose(1, 2)
        ev, ev0 = v.time(t, x.shape[1])
        ea, ea0 = a.time(t, y.shape[1])
        cv, ca = v.model.context(text_video), a.model.context(text_audio)
        for i in range(len(v.model.blocks)):
            if skip > 0 and i == skip:
                continue
            x, y = self.joint(i, x, y, (ev0, ea0), (cv, ca))
        x, y = v.head(x, ev), a.head(y, ea)
        f, h, w = self.grid
        x = x.view(1, f, h, w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(1, -1, f, 2 * h, 2 * w), y

    def joint(self, i, x, y, e0, context):
        v, a = self.video, self.audio
        ea = a.rows(i, e0[1])
        y = a.self_attention(i, y, ea)
        ev = v.rows(i, e0[0])
        x = v.self_attention(i, x, ev)
        before = y
        y = a.feed_forward(i, a.cross_attention(i, y, v, x, context[1]), ea)
        if torch.equal(before, y):  # published as an assertion; the processor waits here
            raise ValueError(f"block {i} left the audio tokens as they were")
        x = v.feed_forward(i, v.cross_attention(i, x, a, before, context[0]), ev)
        return x, y


# --------------------------------------------------------------------- video decoder ----


def weights_of(m):
    """Kept in bf16, used in f32: cast in every call."""
    return m.weight.float(), m.bias.float()


def norm(x, gamma):
    return F.normalize(x, dim=1) * gamma.shape[0] ** 0.5 * gamma + 0.0


class Decoder:
    """Of video_vae.VideoVae: latents [1,z,F,h,w] to [1,3,4(F-1)+1,16h,16w]."""

    def __init__(self, vae):
        self.vae = vae
        self.history = {}

    def causal(self, m, x):
        """Sees the two frames before x, which are its own last input; zeros before the clip."""
        rows, columns = m.kernel_size[1] // 2, m.kernel_size[2] // 2
        missing = m.kernel_size[0] - 1
        if missing:
            old = self.remember(m, x)
            if old is not None:
                x = torch.cat([old, x], 2)
                missing -= old.shape[2]
        x = F.pad(x, (columns, columns, rows, rows, missing, 0))
        return F.conv3d(x, *weights_of(m))

    def remember(self, m, x):
        """Puts the last two frames in the place of the history, and gives that back."""
        old = self.history.get(m)
        kept = x[:, :, -2:].clone()
        if kept.shape[2] < 2 and old is not None:
            kept = torch.cat([old[:, :, -1:], kept], 2)
        self.history[m] = kept
        return old

    def residual(self, m, x):
        first, conv1, second, conv2 = (m.residual[i] for i in (0, 2, 3, 6))
        h = self.causal(m.shortcut, x) if isinstance(m.shortcut, torch.nn.Conv3d) else x
        y = self.causal(conv1, F.silu(norm(x, first.gamma)))
        return self.causal(conv2, F.silu(norm(y, second.gamma))) + h

    def attend(self, m, x):
        t, h, w = x.shape[2:]
        y = norm(video_vae.frames_of(x), m.norm.gamma)
        y = F.conv2d(y, *weights_of(m.to_qkv)).flatten(2).unsqueeze(1)
        q, k, v = y.permute(0, 1, 3, 2).contiguous().chunk(3, -1)
        y = fusion.attention(q, k, v).squeeze(1).permute(0, 2, 1).reshape(t, -1, h, w)
        return video_vae.clips_of(F.conv2d(y, *weights_of(m.proj)), t) + x

    def enlarge(self, m, x, first):
        """Frames doubled, but not the first of the clip, whose history is empty; then space."""
        if m.time and not first:
            b, c, t, h, w = x.shape
            y = self.causal(m.time_conv, x).reshape(b, 2, c, t, h, w)
            x = torch.stack((y[:, 0], y[:, 1]), 3).reshape(b, c, 2 * t, h, w)
        y = F.interpolate(video_vae.frames_of(x), scale_factor=(2.0, 2.0), mode="nearest-exact")
        y = F.conv2d(y, *weights_of(m.resample[1]), padding=1)
        return video_vae.clips_of(y, x.shape[2])

    def stage(self, m, x, first):
        y = x.clone()
        for layer in m.upsamples:
            y = self.enlarge(layer, y, first) if isinstance(layer, video_vae.Resample) else self.residual(layer, y)
        if not m.resampled:
            return y
        return y + video_vae.dup_up(x, m.o, m.time, first)

    def chunk(self, x, first):
        d = self.vae.decoder
        x = self.causal(d.conv1, x)
        x = self.residual(d.middle[2], self.attend(d.middle[1], self.residual(d.middle[0], x)))
        for m in d.upsamples:
            x = self.stage(m, x, first)
        return self.causal(d.head[2], F.silu(norm(x, d.head[0].gamma)))

    def __call__(self, latents):
        self.history = {}
        x = self.causal(self.vae.conv2, latents)
        out = None
        for i in range(x.shape[2]):
            y = self.chunk(x[:, :, i:i + 1], i == 0)
            out = y if out is None else torch.cat([out, y], 2)
        self.history = {}
        return video_vae.unpatchify(out).float().clamp_(-1, 1)
