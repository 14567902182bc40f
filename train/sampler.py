"""Generation in PyTorch as the engine does it: unipc of order 2, shift, two negatives, guidance.
For checks where the engine does not run (train/evaluate.py --parts, right after the training);
models/tiny is judged with clips of the engine."""
import math

import torch

import world
from config import CONFIG
from nets.audio_vae import AudioVae
from nets.fusion import Fusion
from nets.umt5 import Umt5
from nets.video_vae import VideoVae
from nets.vocoder import Vocoder
from storage import load_packed, load_statistics
from train_fusion import encode_texts


def schedule(steps, shift):
    """Sigmas with a last zero, and whole timesteps."""
    top = 0.9990000128746033
    us = [top + (0.0 - top) / steps * k for k in range(steps)]
    sigmas = [shift * u / (1 + (shift - 1) * u) for u in us]
    return sigmas + [0.0], [int(s * 1000) for s in sigmas]


class UniPc:
    def __init__(self, sigmas):
        self.s = sigmas
        self.l = [math.log((1 - s) / s) if s > 0 else math.inf for s in sigmas]
        self.x, self.m = None, []

    def step(self, i, v, x):
        s, l, n = self.s, self.l, len(self.s) - 1
        m = x - s[i] * v
        if i > 0:
            x = self.correct(i, m)
        self.x = x
        self.m = [m] + self.m[:2]
        r = s[i + 1] / s[i]
        p = m
        if 0 < i < n - 1:
            p = m + 0.5 * (m - self.m[1]) * (l[i + 1] - l[i]) / (l[i] - l[i - 1])
        return r * x + (1 - r) * p

    def correct(self, i, m):
        s, l = self.s, self.l
        q, m1 = s[i] / s[i - 1], self.m[0]
        if i == 1:
            return q * self.x + (1 - q) * (m1 + (m - m1) / 2)
        h = l[i] - l[i - 1]
        rho, e = (l[i - 2] - l[i - 1]) / h, math.expm1(-h)
        b0, b1 = -1 / h - 1 / e, 2 / h ** 2 + (2 / h - 1) / e
        p1 = (b0 - b1) / (1 - rho)
        return q * self.x + (1 - q) * (m1 + p1 / rho * (self.m[1] - m1) + (b0 - p1) * (m - m1))


@torch.no_grad()
def sample(velocity, video, audio, steps=20, shift=5.0, guidance=(4.0, 3.0), first=None):
    """velocity(x, a, t, negative) -> two velocities; video and audio are noise."""
    sigmas, times = schedule(steps, shift)
    solvers = UniPc(sigmas), UniPc(sigmas)
    for i in range(steps):
        if first is not None:
            video[:, :, :1] = first
        t = torch.full((video.shape[0],), float(times[i]), device=video.device)
        yes, no = velocity(video, audio, t, False), velocity(video, audio, t, True)
        guided = [n.float() + g * (y.float() - n.float()) for y, n, g in zip(yes, no, guidance)]
        video, audio = (s.step(i, v, x) for s, v, x in zip(solvers, guided, (video, audio)))
    if first is not None:
        video[:, :, :1] = first
    return video, audio


class Parts:
    """The networks of a packed model."""

    def __init__(self, model, device):
        self.device = device
        self.mean, self.std = (x.to(device).view(1, -1, 1, 1, 1) for x in load_statistics(model))
        self.text = self.load(Umt5(CONFIG["text"]), model, "text_encoder")
        self.fusion = self.load(Fusion(CONFIG["video"], CONFIG["audio"]), model, "fusion")
        self.video, self.audio, self.voice = (self.load(kind(CONFIG[key]), model, key) for kind, key in (
            (VideoVae, "video_vae"), (AudioVae, "audio_vae"), (Vocoder, "vocoder")))

    def load(self, net, model, key):
        net.load_state_dict(load_packed(model, key))
        return net.to(self.device).eval()

    def features(self, texts):
        ids, lengths = encode_texts(texts)
        return self.text(ids.long().to(self.device), lengths.long().to(self.device))

    @torch.no_grad()
    def latents(self, texts, seed, steps, first=None):
        n, generator = len(texts), torch.Generator().manual_seed(seed)
        video = torch.randn(n, CONFIG["video"]["in_dim"], 13, 8, 8, generator=generator).to(self.device)
        audio = torch.randn(n, 64, CONFIG["audio"]["in_dim"], generator=generator).to(self.device)
        own, not_video, not_audio = (self.features(t) for t in (
            texts, [world.NEGATIVE_VIDEO] * n, [world.NEGATIVE_AUDIO] * n))
        clean = torch.full((n,), first is not None, device=self.device)

        def velocity(x, a, t, negative):
            return self.fusion(x, a, t, not_video if negative else own, not_audio if negative else own, clean)
        return sample(velocity, video, audio, steps, first=first)

    @torch.no_grad()
    def first_latents(self, images):
        x = torch.stack([torch.from_numpy(i).permute(2, 0, 1) for i in images]).to(self.device)
        return (self.video.encode(x[:, :, None].float() / 127.5 - 1)[0] - self.mean) / self.std

    @torch.no_grad()
    def decoded(self, video, audio):
        """Frames [T,H,W,3] in 0..255 and sound of one clip."""
        frames = self.video.decode(video[None] * self.std + self.mean)[0].clamp(-1, 1)
        sound = self.voice(self.audio.decode(audio.T[None]))[0, 0]
        return ((frames + 1) * 127.5).round().permute(1, 2, 3, 0).cpu().numpy(), sound.double().cpu().numpy()


def clips(model, steps, wishes):
    """A clip for each wish (prompt, seed, first image or None); the noise is that of the first seed."""
    parts = Parts(model, "cuda" if torch.cuda.is_available() else "cpu")
    first = None if wishes[0][2] is None else parts.first_latents([w[2] for w in wishes])
    video, audio = parts.latents([w[0] for w in wishes], wishes[0][1], steps, first)
    for v, a in zip(video, audio):
        yield parts.decoded(v, a)
