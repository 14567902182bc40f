"""The vocoder (class of BigVGAN): log10-mel [B,80,M] -> wave [B,1,256 M]. Official tensor names:
weight norm stays unfolded, snake activations stand between two twelve-tap filters.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def low_pass():
    """Kaiser-windowed sinc: cutoff 0.25, half-width 0.3."""
    beta = 0.1102 * (2.285 * 5 * math.pi * 1.2 + 7.95 - 8.7)
    k = torch.arange(12, dtype=torch.float64)
    taps = torch.special.i0(beta * torch.sqrt(1 - (2 * k / 11 - 1) ** 2)) * torch.sinc((k - 5.5) / 2)
    return (taps / taps.sum()).float().view(1, 1, 12)


class Weighted(nn.Module):
    """A convolution with weight norm: one norm per index of dimension 0."""

    def __init__(self, shape, bias, size=1.0):
        super().__init__()
        fan = shape[1] * shape[2]
        v = torch.randn(shape) * size / fan ** 0.5
        self.weight_g = nn.Parameter(v.flatten(1).norm(dim=1).view(-1, 1, 1))
        self.weight_v = nn.Parameter(v)
        self.bias = nn.Parameter(torch.zeros(bias))

    def weight(self):
        return torch._weight_norm(self.weight_v, self.weight_g, 0)


class Conv(Weighted):
    def __init__(self, i, o, k, dilation=1, size=1.0):
        super().__init__((o, i, k), o, size)
        self.dilation = dilation

    def forward(self, x):
        pad = (self.weight_v.shape[2] - 1) * self.dilation // 2
        return F.conv1d(x, self.weight(), self.bias, padding=pad, dilation=self.dilation)


class Transposed(Weighted):
    def __init__(self, i, o, k):
        super().__init__((i, o, k), o)

    def forward(self, x):
        stride = self.weight_v.shape[2] // 2
        return F.conv_transpose1d(x, self.weight(), self.bias, stride=stride, padding=stride // 2)


class Filter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("filter", low_pass())


class Downsampler(nn.Module):
    def __init__(self):
        super().__init__()
        self.lowpass = Filter()


class Snake(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))


def snake_between_filters(x, a, b, f):
    """Twice as many samples, snake, half as many; f is the list of twelve taps."""
    p = F.pad(x, (3, 3), mode="replicate")
    n = x.shape[2]
    at = [p[:, :, k:k + n] for k in range(7)]  # x[m + d] is at[d + 3]
    even = 2 * sum(f[5 - 2 * d] * at[d + 3] for d in range(-3, 3))
    odd = 2 * sum(f[6 - 2 * d] * at[d + 3] for d in range(-2, 4))
    even = even + b * torch.sin(even * a) ** 2
    odd = odd + b * torch.sin(odd * a) ** 2
    first, last = even[:, :, :1], odd[:, :, -1:]
    ev = torch.cat([first, first, even, last, last, last], 2)   # index m - 2
    od = torch.cat([first, first, first, odd, last, last], 2)   # index m - 3
    y = sum(f[k] * ev[:, :, (k - 5) // 2 + 2:(k - 5) // 2 + 2 + n] for k in range(1, 12, 2))
    return y + sum(f[k] * od[:, :, (k - 6) // 2 + 3:(k - 6) // 2 + 3 + n] for k in range(0, 12, 2))


class Activation(nn.Module):
    run = staticmethod(snake_between_filters)  # training may put a compiled one here

    def __init__(self, c):
        super().__init__()
        self.act, self.upsample, self.downsample = Snake(c), Filter(), Downsampler()

    def forward(self, x):
        a, b = torch.exp(self.act.alpha)[:, None], 1 / (torch.exp(self.act.beta)[:, None] + 1e-9)
        return Activation.run(x, a, b, TAPS)


TAPS = low_pass().flatten().tolist()


class Block(nn.Module):
    def __init__(self, c, k, dilations):
        super().__init__()
        self.convs1 = nn.ModuleList([Conv(c, c, k, d) for d in dilations])
        self.convs2 = nn.ModuleList([Conv(c, c, k, size=0.1) for _ in dilations])  # blocks near identity
        self.activations = nn.ModuleList([Activation(c) for _ in range(2 * len(dilations))])

    def forward(self, x):
        for l, (c1, c2) in enumerate(zip(self.convs1, self.convs2)):
            x = x + c2(self.activations[2 * l + 1](c1(self.activations[2 * l](x))))
        return x


class Vocoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        c = cfg["upsample_initial_channel"]
        kernels, self.n = cfg["resblock_kernel_sizes"], len(cfg["resblock_kernel_sizes"])
        self.conv_pre = Conv(cfg["num_mels"], c, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate in cfg["upsample_rates"]:
            self.ups.append(nn.ModuleList([Transposed(c, c // 2, 2 * rate)]))
            c //= 2
            for k, d in zip(kernels, cfg["resblock_dilation_sizes"]):
                self.resblocks.append(Block(c, k, d))
        self.activation_post, self.conv_post = Activation(c), Conv(c, 1, 7, size=0.1)

    def forward(self, mel):
        x = self.conv_pre(mel)
        for i, up in enumerate(self.ups):
            x = up[0](x)
            x = sum(self.resblocks[self.n * i + j](x) for j in range(self.n)) / self.n
        return torch.tanh(self.conv_post(self.activation_post(x)))
