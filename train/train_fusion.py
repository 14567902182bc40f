"""Trains the fusion model and the text encoder together: out/fusion.pt {fusion, text}.

    python3 train/train_fusion.py --out DIR

Flow matching on latents: x = (1 - sigma) data + sigma noise, velocity = noise - data. The clips
are encoded once into a bank; each has several captions. One clip in eight loses its caption to
an empty text or to the default negative prompts, which guidance needs; in one of four the first
latent frame is given and clean (image to video). Some words of a caption are replaced by any others,
so that a prompt with unknown words is still read. Blocks that hold the shape weigh three times.
With --wait it may be started beside the training of the autoencoders: captions, compilation and
the graph of a step are ready when their files appear.
"""
import argparse
import multiprocessing
import os
import random
import time

import torch

import world
from common import Clock, Record, Step, arguments, go_on, muon_and_adam, set_rate, wait_for_parts
from config import CONFIG, TOKENIZER
from nets.audio_vae import AudioVae
from nets.fusion import Fusion, joint
from nets.mel import log_mel, mel_basis
from nets.umt5 import Umt5
from nets.video_vae import VideoVae, fast
from storage import load_packed, load_part, load_statistics, save_part

RATE, MUON_RATE = 2e-3, 2e-3
DROPPED, WITH_IMAGE = 0.125, 0.25
REPLACED, ON_SHAPE, CHUNK = 0.04, 2.0, 64
SHIFT, PIECES = 4.0, 901
TEXT_LEN = CONFIG["video"]["text_len"]


def encode_texts(texts):
    """ids [n, 64] and lengths [n], as the engine has them: pieces, then the end."""
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=TOKENIZER)
    ids = torch.zeros(len(texts), TEXT_LEN, dtype=torch.int16)
    lengths = torch.zeros(len(texts), dtype=torch.int16)
    for i, pieces in enumerate(tokenizer.encode(texts)):
        pieces = pieces[:TEXT_LEN - 1] + [1]
        ids[i, :len(pieces)] = torch.tensor(pieces, dtype=torch.int16)
        lengths[i] = len(pieces)
    return ids, lengths


class Encoders:
    """Both autoencoders, with random weights until load()."""

    def __init__(self, device):
        fast(device)
        self.device, self.basis = device, mel_basis(device)
        self.video, self.audio = VideoVae(CONFIG["video_vae"]).to(device), AudioVae(CONFIG["audio_vae"]).to(device)
        self.mean, self.std = torch.zeros(1, device=device), torch.ones(1, device=device)

    def load(self, args):
        """The weights that were trained in this run, or else those of the packed model."""
        part = load_part(args.out, "video_vae") or dict(
            zip(("mean", "std"), load_statistics(args.start)), state=load_packed(args.start, "video_vae"))
        self.video.load_state_dict(part["state"])
        self.audio.load_state_dict(load_part(args.out, "audio_vae") or load_packed(args.start, "audio_vae"))
        self.mean, self.std = (part[k].to(self.device).view(1, -1, 1, 1, 1) for k in ("mean", "std"))

    @torch.no_grad()
    def latents(self, scene):
        """[B,24,13,8,8] and [B,64,20], normalised."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            video = self.video.encode(world.render_video(scene))[0]
        audio = self.audio.encode(log_mel(world.render_audio(scene, None), self.basis))[0]
        return (video.float() - self.mean) / self.std, audio.transpose(1, 2)


def write_captions(job):
    """Ids and lengths of some captions for each row of attributes."""
    rows, captions, seed = job
    rng = random.Random(seed)
    ids, lengths = encode_texts([world.caption(row, rng) for row in rows for _ in range(captions)])
    return ids.numpy(), lengths.numpy()


def start_captions(pool, attributes, captions, seed):
    rows = torch.stack([attributes[k] for k in ("shape", "colour", "background", "motion", "sound")], 1).tolist()
    jobs = [(rows[i:i + 512], captions, 100000 * seed + i) for i in range(0, len(rows), 512)]
    return pool.map_async(write_captions, jobs)


def blocks_of_shape(scene):
    """[B,1,13,8,8] bool: which latent blocks hold some of the shape."""
    edges = torch.arange(0, world.SIZE, 16, device=scene["size"].device)
    reach = 1.3 * scene["size"][..., None]
    x, y = scene["centre"][..., :1], scene["centre"][..., 1:]
    wide, high = ((c + reach > edges) & (c - reach < edges + 16) for c in (x, y))  # [B,T,8]
    held = high[..., :, None] & wide[..., None, :]
    later = held[:, 1:].unflatten(1, (-1, 4)).any(2)
    return torch.cat([held[:, :1], later], 1)[:, None]


def empty_bank(args):
    """Normalised video latents, audio latents, caption ids and lengths, and blocks of the shape."""
    n, z = args.clips, CONFIG["video"]["in_dim"]
    shapes = (((n, z, 13, 8, 8), torch.bfloat16), ((n, 64, CONFIG["audio"]["in_dim"]), torch.float32),
              ((n, args.captions, TEXT_LEN), torch.int16), ((n, args.captions), torch.int16),
              ((n, 1, 13, 8, 8), torch.bool))
    bank = [torch.zeros(shape, dtype=dtype, device=args.device) for shape, dtype in shapes]
    bank[3].fill_(1)
    return bank


def fill_bank(encoders, bank, attributes, clips):
    videos, audios, _, _, blocks = bank
    for i in range(0, clips, CHUNK):
        scene = world.draw_scene({k: v[i:i + CHUNK].to(encoders.device) for k, v in attributes.items()}, None)
        videos[i:i + CHUNK], audios[i:i + CHUNK] = encoders.latents(scene)
        blocks[i:i + CHUNK] = blocks_of_shape(scene)


def fill_captions(bank, written):
    for rows, parts in zip(bank[2:4], zip(*written.get())):
        rows.copy_(torch.cat([torch.from_numpy(x) for x in parts]).view_as(rows))


def make_models(args):
    fusion, text = Fusion(CONFIG["video"], CONFIG["audio"]), Umt5(CONFIG["text"])
    if args.start:
        fusion.load_state_dict(load_packed(args.start, "fusion"))
        text.load_state_dict(load_packed(args.start, "text_encoder"))
    return fusion.to(args.device), text.to(args.device)


def make_losses(fusion, text, bank, batch, device):
    videos, audios, ids, lengths, blocks = bank
    fixed_ids, fixed_lengths = (x.to(device) for x in encode_texts(["", world.NEGATIVE_VIDEO, world.NEGATIVE_AUDIO]))
    strata = torch.arange(batch, device=device)
    encode = torch.compile(text) if device == "cuda" else text
    pair = torch.compile(joint) if device == "cuda" else joint

    def losses():
        row = torch.randint(videos.shape[0], (batch,), device=device)
        wording = torch.randint(ids.shape[1], (batch,), device=device)
        video, audio = videos[row].float(), audios[row]
        words = ids[row, wording]
        other = torch.randint(4, PIECES, words.shape, device=device, dtype=words.dtype)
        words = torch.where(torch.rand(words.shape, device=device) < REPLACED, other, words)
        features = encode(torch.cat([words, fixed_ids]).long(),
                          torch.cat([lengths[row, wording], fixed_lengths]).long())
        caption, empty, not_video, not_audio = features[:-3], features[-3:-2], features[-2:-1], features[-1:]
        fate = torch.rand(batch, 1, 1, device=device)
        for_video = torch.where(fate < DROPPED / 3, empty, torch.where(fate < DROPPED, not_video, caption))
        for_audio = torch.where(fate < DROPPED / 3, empty, torch.where(fate < DROPPED, not_audio, caption))
        u = (strata + torch.rand(batch, device=device)) / batch
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        clean = torch.rand(batch, device=device) < WITH_IMAGE
        noise_v, noise_a = torch.randn_like(video), torch.randn_like(audio)
        sv, sa = sigma.view(-1, 1, 1, 1, 1), sigma.view(-1, 1, 1)
        noisy = (1 - sv) * video + sv * noise_v
        first = (torch.arange(video.shape[2], device=device) == 0).view(1, 1, -1, 1, 1)
        held = clean.view(-1, 1, 1, 1, 1) & first
        noisy = torch.where(held, video, noisy)
        v, a = fusion(noisy, (1 - sa) * audio + sa * noise_a, 1000 * sigma, for_video, for_audio, clean, pair=pair)
        error = (v.float() - (noise_v - video)).pow(2) * ~held * (1 + ON_SHAPE * blocks[row])
        loss_v, loss_a = error.mean(), (a.float() - (noise_a - audio)).pow(2).mean()
        return loss_v + loss_a, loss_v, loss_a

    return losses


def is_hidden(name, p):
    return p.dim() == 2 and "blocks." in name and "pos_embedding" not in name


def make_step(args, fusion, text, bank):
    """The step, captured with rate 0, and [(optimiser, rate)]."""
    device = args.device
    losses = make_losses(fusion, text, bank, args.batch, device)
    named = list(fusion.named_parameters()) + list(text.named_parameters())
    optimisers = muon_and_adam(named, is_hidden, (MUON_RATE, RATE), device)
    params = [p for _, p in named]

    def step():
        for o, _ in optimisers:
            o.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            three = losses()
        three[0].backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for o, _ in optimisers:
            o.step()
        return torch.stack([l.detach() for l in three])

    for o, _ in optimisers:
        set_rate(o, 0)
    return Step(step, device), optimisers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=65536)
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--wait", action="store_true", help="for the autoencoders of a training beside it")
    args = arguments(parser)
    if load_part(args.out, "fusion"):
        return print("fusion: already there")
    begin = time.time()
    with multiprocessing.get_context("fork").Pool(min(12, os.cpu_count())) as pool:  # before the GPU is in use
        attributes = world.draw_attributes(args.clips, None, "cpu")
        written = start_captions(pool, attributes, args.captions, args.seed)
        fusion, text = make_models(args)
        bank = empty_bank(args)
        fill_captions(bank, written)
    go_on(args, "fusion", fusion, text)
    run, optimisers = make_step(args, fusion, text, bank)
    encoders = Encoders(args.device)
    fill_bank(encoders, bank, attributes, min(CHUNK, args.clips))  # compiles it
    if args.wait:
        wait_for_parts(args, "video_vae", "audio_vae")
    ready = time.time()
    encoders.load(args)
    fill_bank(encoders, bank, attributes, args.clips)
    if args.device == "cuda":
        torch.cuda.synchronize()
    print(f"fusion: ready after {ready - begin:.0f} s, bank in {time.time() - ready:.0f} s, "
          f"audio deviation {float(bank[1].std()):.3f}", flush=True)
    clock = Clock(args.steps or 30000, args.until, warm=500)
    record, total, every = Record(args.out, "fusion"), 0, 500 if args.device == "cuda" else 2
    while clock.progress() < 1:
        for o, rate in optimisers:
            set_rate(o, rate * clock.rate())
        total = total + run()
        clock.step += 1
        if clock.step % every == 0:
            _, video, audio = (total / every).tolist()
            record.add(clock.step, video=video, audio=audio)
            total = 0
            record.keep(fusion, text)
    save_part(args.out, "fusion", {"fusion": fusion.state_dict(), "text": text.state_dict()})
    record.close()


if __name__ == "__main__":
    main()
