"""Holds the networks of nets/ against recorded vectors of the published model.

    python3 train/check_golden.py DIR      DIR: the golden *.safetensors files

The networks are trained whole-clip and batched, the vectors come from the published chunked
code: agreement proves that what is trained is what the engine runs.
"""
import json
import sys

import torch

from nets import audio_vae, fusion, mel, umt5, video_vae, vocoder
from storage import read_safetensors


def worst(name, got, want):
    error = ((got.float() - want.float()).norm() / want.float().norm()).item()
    print(f"{'ok ' if error < 2e-5 else 'BAD'} {error:.1e}  {name}")
    return error < 2e-5


def load(module, tensors, prefix=""):
    state = {k: v.float() for k, v in tensors.items() if k.split(".")[0] not in ("input", "mid", "output", "const")}
    state = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    missing, extra = module.load_state_dict(state, strict=False)
    assert not extra, extra[:5]
    assert not [m for m in missing if "filter" not in m], missing[:5]
    return module.eval()


def check_video(t, cfg):
    net = load(video_vae.VideoVae(cfg), t)
    mean, std = (t["input." + k].view(1, -1, 1, 1, 1) for k in ("mean", "std"))
    for as_2d in (False, True):
        video_vae.CausalConv3d.as_2d = as_2d
        for name in cfg["cases"]:
            if "input.%s.latents" % name in t:
                out = net.decode(t["input.%s.latents" % name][None] * std + mean)[0].clamp(-1, 1)
                yield worst(f"video {name}", out, t["output.%s.video" % name])
            else:
                out = (net.encode(t["input.%s.video" % name][None])[0] - mean) / std
                yield worst(f"video {name}", out[0], t["output.%s.latents" % name])


def check_fusion(t, cfg):
    net = load(fusion.Fusion(cfg["video"], cfg["audio"]), t)
    for name, case in cfg["cases"].items():
        args = [t["input.%s.%s" % (name, k)].float() for k in ("video", "audio", "timestep", "context_video", "context_audio")]
        args[2] = args[2].reshape(())
        clean = torch.tensor([bool(case["first_frame_is_clean"])])
        v, a = net(*[x[None] for x in args], clean=clean, skip=case["slg_layer"])
        yield worst(f"fusion {name} video", v[0], t["output.%s.video" % name])
        yield worst(f"fusion {name} audio", a[0], t["output.%s.audio" % name])


def check_text(t, cfg):
    net = load(umt5.Umt5(cfg), t)
    for case in ("batch", "long"):
        ids, mask = t["input.%s.ids" % case], t["input.%s.mask" % case]
        out = net(ids, mask.sum(1))
        for i, n in enumerate(mask.sum(1).tolist()):
            yield worst(f"text {case} {i}", out[i, :n], t["output.%s.s%d" % (case, i)])


def check_audio(t, cfg):
    net = load(audio_vae.AudioVae(cfg), t)
    for name in ("dec1", "dec7", "dec16"):
        key = [k for k in t if k.startswith("input.%s." % name)][0]
        yield worst("audio vae " + name, net.decode(t[key].T[None])[0], t["output.%s.mel" % name])
    for name in ("enc13", "enc24"):
        key = [k for k in t if k.startswith("input.%s." % name)][0]
        yield worst("audio vae " + name, net.encode(t[key][None])[0][0], t["output.%s.mean" % name])


def check_vocoder(t, cfg):
    net = load(vocoder.Vocoder(cfg), t)
    for name in ("mel2", "mel7", "mel12"):
        key = [k for k in t if k.startswith("input.%s." % name)][0]
        out = [k for k in t if k.startswith("output.%s." % name)][0]
        yield worst("vocoder " + name, net(t[key][None])[0].flatten(), t[out].flatten())


def check_mel(t, _):
    basis = mel.mel_basis()
    yield worst("mel basis", basis, t["const.mel_basis"])
    for key in [k for k in t if k.startswith("input.")]:
        out = [k for k in t if k.startswith("output." + key.split(".")[1] + ".")][0]
        yield worst(key, mel.log_mel(t[key].flatten()[None], basis)[0], t[out])


FILES = [("wan_vae_tiny", check_video), ("fusion_tiny", check_fusion), ("fusion_hd128", check_fusion),
         ("umt5_tiny", check_text), ("mmaudio_vae_tiny", check_audio), ("bigvgan_tiny", check_vocoder),
         ("mel_tiny", check_mel)]


@torch.no_grad()
def main(folder):
    good = True
    for name, check in FILES:
        tensors, meta = read_safetensors(f"{folder}/{name}.safetensors")
        good = all([*check(tensors, json.loads(meta["config"]))]) and good
    sys.exit(not good)


if __name__ == "__main__":
    main(sys.argv[1])
