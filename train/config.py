"""Sizes of the small model, in the words of ovi.json."""
import json
import os

STREAM = {"dim": 160, "num_heads": 5, "num_layers": 5, "ffn_dim": 512, "freq_dim": 128, "text_dim": 128,
          "text_len": 64, "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "window_size": [-1, -1]}
Z = 24

CONFIG = {
    "format": 1, "name": "tiny", "prompt_format": "audcap", "target_area": 128 * 128,
    "default_size": [128, 128], "fps": 24, "video_latent_frames": 13, "audio_latent_frames": 64,
    "text": {"vocab": 912, "dim": 128, "dim_attn": 128, "dim_ffn": 256, "num_heads": 4, "num_layers": 4,
             "num_buckets": 32, "max_dist": 128, "shared_pos": False},
    "video": dict(STREAM, in_dim=Z, out_dim=Z, patch_size=[1, 2, 2], model_type="ti2v"),
    "audio": dict(STREAM, in_dim=20, out_dim=20, patch_size=[1], model_type="t2a",
                  temporal_rope_scaling_factor=0.19676),
    "video_vae": {"dim": 8, "dec_dim": 16, "z_dim": Z, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
                  "temporal_downsample": [False, True, True], "patch_size": 2},
    "audio_vae": {"data_dim": 80, "embed_dim": 20, "hidden_dim": 24, "ch_mult": [1, 2, 4], "num_res_blocks": 2,
                  "down_layers": [0], "clip_act": 256.0},
    "vocoder": {"num_mels": 80, "upsample_initial_channel": 128, "upsample_rates": [4, 4, 4, 4],
                "upsample_kernel_sizes": [8, 8, 8, 8], "resblock_kernel_sizes": [3, 7, 11],
                "resblock_dilation_sizes": [[1, 3, 5]] * 3, "activation": "snakebeta",
                "snake_logscale": True, "resblock": "1"},
    "files": {"fusion": "Ovi/model.safetensors",
              "text_encoder": "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth",
              "tokenizer": "Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model",
              "video_vae": "Wan2.2-TI2V-5B/Wan2.2_VAE.pth",
              "audio_vae": "MMAudio/ext_weights/v1-16.pth",
              "vocoder": "MMAudio/ext_weights/best_netG.pt"},
}

# Not trained by run_all.py but made once, by make_tokenizer.py.
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "tiny",
                         CONFIG["files"]["tokenizer"])


def ovi_json(mean, std):
    """The text of ovi.json with the statistics of the video latents, one key a line."""
    config = json.loads(json.dumps(CONFIG))
    config["video_vae"].update(mean=[round(v, 5) for v in mean], std=[round(v, 5) for v in std])
    rows = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in config.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"
