"""The published code itself, where a copy of its repository lies in bench/published (ignored by
git): the fusion model and the video decoder with random weights, as functions that compare_gpu.py
can call like those of published_way.py.

What is not installed everywhere is replaced: diffusers by empty classes (configuration and
loading), einops by the four rearrangements that are used, flash_attn by
F.scaled_dot_product_attention, as the published attention() does where it is missing.
"""
import importlib
import os
import sys
import types

import torch
import torch.nn.functional as F
from published_way import random_module

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published")


def is_there():
    return os.path.isfile(os.path.join(FOLDER, "ovi", "modules", "fusion.py"))


def module(name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


def package(name):
    """Without running its __init__, which imports what is not needed."""
    module(name, __path__=[os.path.join(FOLDER, *name.split("."))])


def rearrange(x, pattern, **sizes):
    pattern = "".join(pattern.split())
    if pattern == "bcthw->(bt)chw":
        return x.permute(0, 2, 1, 3, 4).reshape(-1, x.shape[1], *x.shape[3:])
    if pattern == "(bt)chw->bcthw":
        return x.reshape(-1, sizes["t"], *x.shape[1:]).permute(0, 2, 1, 3, 4)
    if pattern == "b(crq)fhw->bcf(hq)(wr)":
        b, c, f, h, w = x.shape
        q = sizes["q"]
        x = x.reshape(b, c // (q * q), q, q, f, h, w).permute(0, 1, 4, 5, 3, 6, 2)
        return x.reshape(b, c // (q * q), f, h * q, w * q)
    raise ValueError(f"rearrange: {pattern} is not known here")


def attention(q, k, v, **_):
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return y.transpose(1, 2).contiguous()


def prepare():
    for name in ("ovi", "ovi.modules", "ovi.distributed_comms"):
        package(name)
    module("einops", rearrange=rearrange)
    module("diffusers")
    module("diffusers.configuration_utils", ConfigMixin=type("ConfigMixin", (), {}),
           register_to_config=lambda function: function)
    module("diffusers.models")
    module("diffusers.models.modeling_utils", ModelMixin=type("ModelMixin", (torch.nn.Module,), {}))


class Fusion:
    """Called as published_way.Fusion is."""

    def __init__(self, video, audio, device, dtype):
        prepare()
        code = [importlib.import_module("ovi.modules." + name) for name in ("model", "fusion")]
        for c in code:
            c.flash_attention = attention
        kinds = dict(video, model_type="ti2v"), dict(audio, model_type="t2a")
        for kind in kinds:
            kind.pop("text_dim", None) if kind["text_dim"] == 4096 else None
        self.net = random_module(lambda: code[1].FusionModel(*kinds), device, dtype)
        self.net.set_rope_params()

    def __call__(self, latents, sound, t, text_video, text_audio, skip=-1):
        tokens = latents[0, 0].numel() // 4
        x, y = self.net(vid=[latents[0]], audio=[sound[0]], t=t, vid_context=[text_video[0]],
                        audio_context=[text_audio[0]], vid_seq_len=tokens, audio_seq_len=sound.shape[1],
                        first_frame_is_clean=False, slg_layer=skip if skip > 0 else False)
        return x[0][None], y[0][None]


class Decoder:
    def __init__(self, config, device, dtype):
        prepare()
        code = importlib.import_module("ovi.modules.vae2_2")
        self.net = random_module(lambda: code.WanVAE_(
            dim=config["dim"], dec_dim=config["dec_dim"], z_dim=config["z_dim"], dim_mult=config["dim_mult"],
            num_res_blocks=config["num_res_blocks"], temperal_downsample=config["temporal_downsample"]), device, dtype)
        ones = torch.ones(config["z_dim"], device=device)
        self.scale = [0 * ones, ones]

    def __call__(self, latents):
        with torch.autocast("cuda", dtype=torch.float):
            return self.net.decode(latents, self.scale).float().clamp_(-1, 1)
