"""The audio VAE (class of MMAudio's 16 kHz autoencoder): log-mel [B,80,M] <-> latents [B,20,M/2].

Magnitude-preserving: weights are folded to unit rows at every use, activations are normalised
per frame, sums keep their size. Official tensor names.
"""
import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):
    def __init__(self, i, o, k):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i, k))

    def folded(self):
        n = self.weight[0].numel()
        rms = self.weight.float().pow(2).mean((1, 2), keepdim=True).sqrt()
        return self.weight / (rms + 1e-4) / n ** 0.5

    def forward(self, x, gain=1.0):
        weight = (self.folded() * gain).to(x.dtype)
        return F.conv1d(x, weight, padding=self.weight.shape[2] // 2)


def mp_silu(x):
    return F.silu(x) / 0.596


def mp_sum(a, b):
    return (0.7 * a + 0.3 * b) / 0.58 ** 0.5


def pixel_norm(x):
    return x / (x.pow(2).mean(1, keepdim=True).sqrt() + 1e-4)


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.conv2 = Conv(i, o, 3), Conv(o, o, 3)
        if i != o:
            self.nin_shortcut = Conv(i, o, 1)

    def forward(self, x):
        x = pixel_norm(x)
        h = self.conv2(mp_silu(self.conv1(mp_silu(x))))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return mp_sum(x, h)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.qkv, self.proj_out = Conv(c, 3 * c, 1), Conv(c, c, 1)

    def forward(self, x):
        b, c, t = x.shape
        q, k, v = (pixel_norm(y) for y in self.qkv(x).view(b, c, 3, t).unbind(2))
        weight = torch.softmax(q.transpose(1, 2) @ k * c ** -0.5, 2)
        return mp_sum(x, self.proj_out(v @ weight.transpose(1, 2)))


class Middle(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Block(c, c), Attention(c), Block(c, c)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2 = Conv(c, c, 1), Conv(c, c, 1)

    def forward(self, x):
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Upsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = Conv(c, c, 3)

    def forward(self, x):
        return self.conv(x.repeat_interleave(2, 2))


class Level(nn.Module):
    def __init__(self, i, o, blocks):
        super().__init__()
        self.block = nn.ModuleList([Block(i if k == 0 else o, o) for k in range(blocks)])

    def forward(self, x):
        for block in self.block:
            x = block(x).clamp(-256, 256)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg["hidden_dim"]
        w = [d, d, 2 * d, 4 * d]
        self.conv_in = Conv(cfg["data_dim"], d, 3)
        self.down = nn.ModuleList([Level(w[k], w[k + 1], 2) for k in range(3)])
        self.down[0].downsample = Downsample(d)
        self.mid = Middle(4 * d)
        self.conv_out = Conv(4 * d, 2 * cfg["embed_dim"], 3)
        self.learnable_gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x).clamp(-256, 256)
        return self.conv_out(mp_silu(x), 1 + self.learnable_gain)


class Decoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg["hidden_dim"]
        self.conv_in = Conv(cfg["embed_dim"], 4 * d, 3)
        self.mid = Middle(4 * d)
        self.up = nn.ModuleList([Level(2 * d, d, 3), Level(4 * d, 2 * d, 3), Level(4 * d, 4 * d, 3)])
        self.up[1].upsample = Upsample(2 * d)
        self.conv_out = Conv(d, cfg["data_dim"], 3)
        self.learnable_gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, z):
        x = self.mid(self.conv_in(z)).clamp(-256, 256)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(mp_silu(x), 1 + self.learnable_gain)


class AudioVae(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.encoder, self.decoder = Encoder(cfg), Decoder(cfg)
        self.register_buffer("data_mean", torch.zeros(1, cfg["data_dim"], 1))
        self.register_buffer("data_std", torch.ones(1, cfg["data_dim"], 1))

    def encode(self, mel):
        mean, logvar = self.encoder((mel - self.data_mean) / self.data_std).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(z) * self.data_std + self.data_mean
