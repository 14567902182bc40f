"""Trains the audio VAE or the vocoder: out/audio_vae.pt, out/vocoder.pt (state dicts).

    python3 train/train_audio.py --part audio_vae --out DIR
    python3 train/train_audio.py --part vocoder --out DIR

The latents have no scale of their own in this model, so the VAE is held to channels of mean 0
and deviation 1. The vocoder learns from true spectra and from those that the VAE gives back;
tones need no adversary, so its losses are spectra, at four resolutions and in mel, and the very
waves of tones of one pitch. It may be started beside the audio VAE: what takes longest, compiling
it, is done when the VAE's file appears.
"""
import argparse

import torch

import world
from common import Clock, Record, Step, adam, arguments, go_on, set_rate, wait_for_parts
from config import CONFIG
from nets import vocoder as vocoder_net
from nets.audio_vae import AudioVae
from nets.mel import log_mel, mel_basis
from nets.vocoder import Vocoder
from storage import load_packed, load_part, save_part

BANK, BATCH, SEGMENT, VOCODER_BATCH = 4096, 64, 32, 64
DIVERGENCE, FLOOR, ON_WAVE, SILENCE = 2e-3, 0.05, 4.0, 3e-3
BEEPS = world.SOUNDS.index("beeps")


@torch.no_grad()
def draw_bank(clips, device):
    """Waves [clips, 32768], their spectra [clips, 80, 128] and which are tones of one pitch; every
    sound equally often, noise twice as often. Tones all begin at the same phase: they repeat with each frame of the
    spectrum, so a vocoder can be held to their very waves."""
    basis, waves, sounds = mel_basis(device), [], []
    for _ in range(clips // 64):
        a = world.draw_attributes(64, None, device)
        a["sound"] = torch.randint(9, (64,), device=device)
        a["sound"] = torch.where(a["sound"] == 8, world.SOUNDS.index("noise"), a["sound"])
        a["motion"] = torch.where(a["sound"] == world.IMPACT, world.BOUNCE, a["motion"])
        scene = world.draw_scene(a, None)
        steady = (a["sound"] < len(world.TONES)) | (a["sound"] == BEEPS)
        scene["phase"] = torch.where(steady, 0.0, scene["phase"])
        waves.append(world.render_audio(scene, None))
        sounds.append(steady)
    waves = torch.cat(waves)
    return waves, torch.cat([log_mel(w, basis) for w in waves.split(256)]), torch.cat(sounds)


def train_loop(name, net, step_of, args, rate, ready=lambda: None):
    """step_of() gives the losses, the first of which is trained. The clock starts after ready(),
    which is called when the step is compiled."""
    device = args.device
    go_on(args, name, net)
    optimiser = adam(net.parameters(), rate, device, decay=0.0)

    def step():
        optimiser.zero_grad(set_to_none=True)
        losses = step_of()
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return torch.stack([l.detach() for l in losses])

    set_rate(optimiser, 0)
    run = Step(step, device)
    ready()
    clock = Clock(args.steps or 12000, args.until, warm=200)
    record, total = Record(args.out, name), 0
    every = 250 if device == "cuda" else 5
    while clock.progress() < 1:
        set_rate(optimiser, rate * clock.rate())
        total = total + run()
        clock.step += 1
        if clock.step % every == 0:
            record.add(clock.step, **dict(zip(("loss", "spectrum", "other"), (total / every).tolist())))
            total = 0
            record.keep(net)
    save_part(args.out, name, net.state_dict())
    record.close()


def train_vae(args, mels):
    device = args.device
    net = AudioVae(CONFIG["audio_vae"]).to(device)
    net.data_mean.copy_(mels.mean((0, 2)).view(1, -1, 1))
    net.data_std.copy_(mels.std((0, 2)).view(1, -1, 1))

    def losses():
        mel = mels[torch.randint(mels.shape[0], (BATCH,), device=device)]
        mean, logvar = net.encode(mel)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        error = (net.decode(z) - mel) / net.data_std
        spectrum = error.abs().mean() + error.pow(2).mean()
        shape = mean.mean((0, 2)).pow(2).mean() + (mean.std((0, 2)) - 1).pow(2).mean()
        divergence = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).mean()
        return spectrum + DIVERGENCE * divergence + 0.1 * shape, spectrum, divergence

    train_loop("audio_vae", net, losses, args, 5e-3)


def spectra(wave):
    for n in (256, 512, 1024, 2048):
        window = torch.hann_window(n, device=wave.device)
        s = torch.stft(wave, n, n // 4, window=window, center=True, return_complex=True)
        yield torch.sqrt(s.real ** 2 + s.imag ** 2 + 1e-6)


def level(wave):
    """Logarithm of the loudness of each frame. Without it silence is a trap: a tone whose phase is
    not yet right costs more than none, and snakes have points without a slope that hold it there."""
    return torch.log((wave.unflatten(1, (-1, 256)).pow(2).mean(2) + 1e-8).sqrt() + SILENCE)


@torch.no_grad()
def through_vae(args, mels):
    """Spectra as the audio VAE gives them back, with the noise it was trained on."""
    wait_for_parts(args, "audio_vae")
    vae = AudioVae(CONFIG["audio_vae"]).to(args.device)
    vae.load_state_dict(load_part(args.out, "audio_vae", args.device))
    return torch.cat([vae.decode(m + 0.05 * torch.randn_like(m)) for m in
                      (vae.encode(x)[0] for x in mels.split(256))])


def train_vocoder(args, waves, mels, steady):
    device, basis = args.device, mel_basis(args.device)
    batch = VOCODER_BATCH if device == "cuda" else 4
    net = Vocoder(CONFIG["vocoder"]).to(device)
    if args.start:
        net.load_state_dict(load_packed(args.start, "vocoder"))
    if device == "cuda":
        torch.backends.cudnn.benchmark_limit = 4  # some hundred small convolutions
        vocoder_net.Activation.run = staticmethod(torch.compile(vocoder_net.snake_between_filters, dynamic=True))
    heard = mels.clone()
    reach = torch.arange(SEGMENT * 256, device=device)
    frames = torch.arange(SEGMENT, device=device)

    def losses():
        row = torch.randint(waves.shape[0], (batch,), device=device)
        first = torch.randint(128 - SEGMENT + 1, (batch,), device=device)
        wave = waves[row[:, None], first[:, None] * 256 + reach]
        at = (row[:, None], slice(None), first[:, None] + frames)
        mel = torch.where(torch.rand(batch, 1, 1, device=device) < 0.5, mels[at], heard[at]).transpose(1, 2)
        made = net(mel)[:, 0]
        loss = 0.0
        for a, b in zip(spectra(made), spectra(wave)):
            # Each clip for itself: a tone fills few bins, which averages over a batch would lose.
            size = b.flatten(1).norm(dim=1) + 1.0
            # A floor 60 dB below a tone: lower, and silence between its bins outweighs the tone.
            loss = loss + 0.3 * (torch.log(a + FLOOR) - torch.log(b + FLOOR)).abs().mean()
            loss = loss + 2 * ((a - b).flatten(1).norm(dim=1) / size).mean()
        amiss = (made - wave).pow(2).mean(1) / (wave.pow(2).mean(1) + 1e-3)
        loss = loss + ON_WAVE * (amiss * steady[row]).mean()
        loss = loss + (level(made) - level(wave)).abs().mean()
        mel_loss = (log_mel(made, basis, FLOOR / 50) - log_mel(wave, basis, FLOOR / 50)).abs().mean()
        return loss + 2 * mel_loss, loss, mel_loss

    train_loop("vocoder", net, losses, args, 1e-3, lambda: heard.copy_(through_vae(args, mels)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", required=True, choices=("audio_vae", "vocoder"))
    args = arguments(parser)
    if args.start and not load_part(args.out, "audio_vae"):
        save_part(args.out, "audio_vae", load_packed(args.start, "audio_vae"))
    if load_part(args.out, args.part):
        return print(f"{args.part}: already there")
    waves, mels, steady = draw_bank(BANK if args.device == "cuda" else 64, args.device)
    if args.part == "audio_vae":
        train_vae(args, mels)
    else:
        train_vocoder(args, waves, mels, steady)


if __name__ == "__main__":
    main()
