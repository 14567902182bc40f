"""Generation in PyTorch as the engine does it: unipc of order 2, shift, two negatives, guidance.
For checks where the engine does not run; models/tiny is judged with clips of the engine."""
import math

import torch


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
