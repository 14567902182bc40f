"""The video VAE (class of Wan 2.2) under its official tensor names.

Video [B,3,T,H,W] in [-1,1] <-> latents [B,z,1+(T-1)/4,H/16,W/16]. The engine works through a
clip in chunks of one latent frame with feature caches; here the whole clip is computed at once.
The two are equal because every layer is causal; what the first chunk does differently is done to
the first frame: it passes the time convolutions of both halves untouched (and the decoder's
leave no trace of it), and DupUp gives one frame for it instead of two.
"""
import torch
import torch.nn.functional as F
from torch import nn


class CausalConv3d(nn.Conv3d):
    """A kernel of three frames that sees two past frames, zeros before the clip.

    In bf16 on a GPU the three frames are laid side by side in the channels of one 2-D
    convolution, which is several times faster there than a 3-D one of few channels."""
    as_2d = False

    def __init__(self, i, o, k=3):
        super().__init__(i, o, (k, k, k) if isinstance(k, int) else k)

    def forward(self, x):
        kt, kh, kw = self.kernel_size
        if kt == 1:
            return clips_of(F.conv2d(frames_of(x), self.weight[:, :, 0], self.bias), x.shape[2])
        pad = (kw // 2, kw // 2, kh // 2, kh // 2)
        x = F.pad(x, (0, 0, 0, 0, kt - 1, 0))
        if not self.as_2d:
            return F.conv3d(F.pad(x, pad), self.weight, self.bias)
        t = x.shape[2] - kt + 1
        side = torch.cat([x[:, :, k:k + t] for k in range(kt)], 1)
        weight = self.weight.transpose(1, 2).flatten(1, 2)  # [O, kt*I, kh, kw]
        y = F.conv2d(frames_of(side), weight, self.bias, padding=(kh // 2, kw // 2))
        return clips_of(y, t)


def frames_of(x):
    """[B,C,T,H,W] -> [B*T,C,H,W]"""
    return x.transpose(1, 2).flatten(0, 1)


def clips_of(x, t):
    return x.unflatten(0, (-1, t)).transpose(1, 2)


def scaled(rows, gain):
    """RMS norm of [N, C] without epsilon inside the root."""
    x = rows.float()
    length = x.pow(2).sum(1, keepdim=True).clamp(min=1e-24).sqrt()
    return (x / length * gain).to(rows.dtype)


def scaled_silu(rows, gain):
    return F.silu(scaled(rows, gain))


class Norm(nn.Module):
    run, run_silu = staticmethod(scaled), staticmethod(scaled_silu)  # fast() puts compiled ones here

    def __init__(self, c, dims, silu=False):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c, *[1] * dims))
        self.silu = silu

    def forward(self, x):
        gain = self.gamma.flatten() * self.gamma.shape[0] ** 0.5
        last = x.movedim(1, -1)
        rows = last.reshape(-1, x.shape[1])
        if rows.is_cuda:
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return (Norm.run_silu if self.silu else Norm.run)(rows, gain).view(last.shape).movedim(-1, 1)


def fast(device):
    """On a GPU: 2-D convolutions, and norms as one kernel each way."""
    if device == "cuda":
        CausalConv3d.as_2d = True
        Norm.run_silu = staticmethod(torch.compile(scaled_silu))


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.residual = nn.Sequential(Norm(i, 3, silu=True), nn.Identity(), CausalConv3d(i, o),
                                      Norm(o, 3, silu=True), nn.Identity(), nn.Identity(), CausalConv3d(o, o))
        self.shortcut = CausalConv3d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class Attention(nn.Module):
    """Each frame alone, one head."""

    def __init__(self, c):
        super().__init__()
        self.norm = Norm(c, 2)
        self.to_qkv, self.proj = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x):
        t, (h, w) = x.shape[2], x.shape[3:]
        y = frames_of(x)
        q, k, v = self.to_qkv(self.norm(y)).flatten(2).transpose(1, 2).chunk(3, 2)
        score = torch.softmax(q @ k.transpose(1, 2) * q.shape[2] ** -0.5, 2)
        y = (score @ v).transpose(1, 2).unflatten(2, (h, w))
        return x + clips_of(self.proj(y), t)


class Resample(nn.Module):
    """Down: space halved by a strided convolution, then perhaps time; up: time, then space."""

    def __init__(self, c, up, time):
        super().__init__()
        self.up = up
        conv = nn.Conv2d(c, c, 3, padding=1) if up else nn.Conv2d(c, c, 3, stride=2)
        self.resample = nn.Sequential(nn.Identity(), conv)
        if time:
            self.time_conv = CausalConv3d(c, 2 * c if up else c, (3, 1, 1))
        self.time = time

    def forward(self, x):
        return self.enlarge(x) if self.up else self.shrink(x)

    def enlarge(self, x):
        if self.time and x.shape[2] > 1:
            y = self.time_conv(x[:, :, 1:])
            y = torch.stack(y.chunk(2, 1), 3).flatten(2, 3)  # [B,C,2(T-1),H,W]
            x = torch.cat([x[:, :, :1], y], 2)
        t = x.shape[2]
        y = frames_of(x)
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return clips_of(self.resample(y), t)

    def shrink(self, x):
        t = x.shape[2]
        x = clips_of(self.resample(F.pad(frames_of(x), (0, 1, 0, 1))), t)
        if self.time and t > 1:
            conv = self.time_conv
            y = F.conv3d(x, conv.weight, conv.bias, stride=(2, 1, 1))
            x = torch.cat([x[:, :, :1], y], 2)
        return x


def dup_up(x, o, time, begins=True):
    """out[o, f t+a, 2h+b, 2w+c] = in[((o f + a) 4 + 2b + c) div r]; x begins the clip or not."""
    b, i, t, h, w = x.shape
    f = 2 if time else 1
    y = x.repeat_interleave(4 * f * o // i, 1).view(b, o, f, 2, 2, t, h, w)
    y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, o, t * f, 2 * h, 2 * w)
    return y[:, :, f - 1:] if begins else y


def avg_down(x, o, time, space):
    f, s = (2 if time else 1), (2 if space else 1)
    if f == 2 and x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, 0, 1, 0))
    b, i, t, h, w = x.shape
    y = x.view(b, i, t // f, f, h // s, s, w // s, s).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return y.reshape(b, o, i * f * s * s // o, t // f, h // s, w // s).mean(2)


class Stage(nn.Module):
    def __init__(self, i, o, blocks, up, time, resample):
        super().__init__()
        layers = [Residual(i if k == 0 else o, o) for k in range(blocks)]
        if resample:
            layers.append(Resample(o, up, time))
        setattr(self, "upsamples" if up else "downsamples", nn.Sequential(*layers))
        self.up, self.time, self.resampled, self.o = up, time, resample, o

    def forward(self, x):
        y = (self.upsamples if self.up else self.downsamples)(x)
        if self.up:
            return y + dup_up(x, self.o, self.time) if self.resampled else y
        return y + avg_down(x, self.o, self.time, self.resampled)


def middle(c):
    return nn.Sequential(Residual(c, c), Attention(c), Residual(c, c))


def head(c, o):
    return nn.Sequential(Norm(c, 3, silu=True), nn.Identity(), CausalConv3d(c, o))


class Encoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        w = [cfg["dim"] * m for m in [1] + cfg["dim_mult"]]
        time = cfg["temporal_downsample"] + [False]
        self.conv1 = CausalConv3d(12, w[0])
        self.downsamples = nn.Sequential(*[
            Stage(w[k], w[k + 1], cfg["num_res_blocks"], False, time[k], k < 3) for k in range(4)])
        self.middle = middle(w[4])
        self.head = head(w[4], 2 * cfg["z_dim"])

    def forward(self, x):
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        m = cfg["dim_mult"]
        w = [cfg["dec_dim"] * k for k in [m[-1]] + m[::-1]]
        time = cfg["temporal_downsample"][::-1] + [False]
        self.conv1 = CausalConv3d(cfg["z_dim"], w[0])
        self.middle = middle(w[0])
        self.upsamples = nn.Sequential(*[
            Stage(w[k], w[k + 1], cfg["num_res_blocks"] + 1, True, time[k], k < 3) for k in range(4)])
        self.head = head(w[4], 12)

    def forward(self, x):
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class VideoVae(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.encoder, self.decoder = Encoder(cfg), Decoder(cfg)
        z = cfg["z_dim"]
        self.conv1, self.conv2 = CausalConv3d(2 * z, 2 * z, 1), CausalConv3d(z, z, 1)

    def encode(self, video):
        """Mean and log-variance, not normalised."""
        x = patchify(video).contiguous(memory_format=torch.channels_last_3d)
        mean, logvar = self.conv1(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        """Not clamped."""
        return unpatchify(self.decoder(self.conv2(z.contiguous(memory_format=torch.channels_last_3d))))


def patchify(x):
    """Channel 4c + 2r + s is pixel (2h+s, 2w+r) of colour c."""
    b, c, t, h, w = x.shape
    x = x.view(b, c, t, h // 2, 2, w // 2, 2).permute(0, 1, 6, 4, 2, 3, 5)
    return x.reshape(b, 4 * c, t, h // 2, w // 2)


def unpatchify(x):
    b, c, t, h, w = x.shape
    x = x.reshape(b, c // 4, 2, 2, t, h, w).permute(0, 1, 4, 5, 3, 6, 2)
    return x.reshape(b, c // 4, t, 2 * h, 2 * w)
