"""Log10-mel of the 16 kHz converter: waves [B,N] -> [B,80,N/256]. Slaney scale and areas."""
import math

import torch
import torch.nn.functional as F


def mel_basis(device="cpu"):
    def hertz(mel):
        return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)
    top = 15 + 27 * math.log(8) / math.log(6.4)
    edge = torch.tensor([hertz(top * i / 81) for i in range(82)], dtype=torch.float64)[:, None]
    bins = torch.arange(513, dtype=torch.float64)[None] * 15.625
    low, mid, high = edge[:-2], edge[1:-1], edge[2:]
    rows = torch.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)).clamp(min=0)
    return (rows * 2 / (high - low)).float().to(device)


def log_mel(wave, basis, floor=0.0):
    """A floor above 0 keeps gradients alive in silence."""
    x = F.pad(wave.clamp(-1, 1)[:, None], (384, 384), mode="reflect")[:, 0]
    window = torch.hann_window(1024, device=wave.device)
    spectrum = torch.stft(x, 1024, 256, window=window, center=False, return_complex=True)
    power = spectrum.real ** 2 + spectrum.imag ** 2
    return torch.log10((basis @ torch.sqrt(power + 1e-9) + floor).clamp(min=1e-5))
