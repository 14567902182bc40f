/* presets.c: sizes of the small models. micro: a step in milliseconds, for tests. tiny: the
 * demo. mid: about 1 GB, for measurements. All have every structural part of the published
 * model, and its file layout. */
#include "presets.h"

#include <stddef.h>
#include <string.h>

#define FILES                                                                            \
    "\"files\": {\"fusion\": \"Ovi/model.safetensors\", "                                \
    "\"text_encoder\": \"Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth\", "             \
    "\"tokenizer\": \"Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model\", "                   \
    "\"video_vae\": \"Wan2.2-TI2V-5B/Wan2.2_VAE.pth\", "                                 \
    "\"audio_vae\": \"MMAudio/ext_weights/v1-16.pth\", "                                 \
    "\"vocoder\": \"MMAudio/ext_weights/best_netG.pt\"}"

/* One stream of the fusion model; the last words differ between video and audio. */
#define STREAM(dim, heads, layers, ffn, freq, text_dim, text_len)                        \
    "\"dim\": " #dim ", \"num_heads\": " #heads ", \"num_layers\": " #layers             \
    ", \"ffn_dim\": " #ffn ", \"freq_dim\": " #freq ", \"text_dim\": " #text_dim         \
    ", \"text_len\": " #text_len ", \"qk_norm\": true, \"cross_attn_norm\": true, "      \
    "\"eps\": 1e-6, \"window_size\": [-1, -1], "
#define VIDEO                                                                            \
    "\"in_dim\": 48, \"out_dim\": 48, \"patch_size\": [1, 2, 2], \"model_type\": "       \
    "\"ti2v\""
#define AUDIO                                                                            \
    "\"in_dim\": 20, \"out_dim\": 20, \"patch_size\": [1], \"model_type\": \"t2a\", "    \
    "\"temporal_rope_scaling_factor\": 0.19676"

#define VIDEO_VAE(dim, dec_dim)                                                          \
    "\"video_vae\": {\"dim\": " #dim ", \"dec_dim\": " #dec_dim                          \
    ", \"z_dim\": 48, \"dim_mult\": [1, 2, 4, 4], \"num_res_blocks\": 2, "               \
    "\"temporal_downsample\": [false, true, true], \"patch_size\": 2}"
#define AUDIO_VAE(dim)                                                                   \
    "\"audio_vae\": {\"data_dim\": 80, \"embed_dim\": 20, \"hidden_dim\": " #dim         \
    ", \"ch_mult\": [1, 2, 4], \"num_res_blocks\": 2, \"down_layers\": [0], "            \
    "\"clip_act\": 256.0}"
#define VOCODER(channels)                                                                \
    "\"vocoder\": {\"num_mels\": 80, \"upsample_initial_channel\": " #channels           \
    ", \"upsample_rates\": [4, 4, 2, 2, 2, 2], "                                         \
    "\"upsample_kernel_sizes\": [8, 8, 4, 4, 4, 4], "                                    \
    "\"resblock_kernel_sizes\": [3, 7, 11], "                                            \
    "\"resblock_dilation_sizes\": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "                   \
    "\"activation\": \"snakebeta\", \"snake_logscale\": true, \"resblock\": \"1\"}"

static const struct {
    const char *name, *json;
} presets[] = {
    {"micro",
     "{\"format\": 1, \"name\": \"micro\", \"prompt_format\": \"audcap\",\n"
     " \"target_area\": 1024, \"default_size\": [32, 32], \"fps\": 24,\n"
     " \"video_latent_frames\": 2, \"audio_latent_frames\": 7,\n"
     " \"text\": {\"vocab\": 768, \"dim\": 64, \"dim_attn\": 64, \"dim_ffn\": 128, "
     "\"num_heads\": 4, \"num_layers\": 2, \"num_buckets\": 32, \"max_dist\": 128, "
     "\"shared_pos\": false},\n"
     " \"video\": {" STREAM(64, 2, 2, 128, 64, 64, 64) VIDEO
     "},\n"
     " \"audio\": {" STREAM(64, 2, 2, 128, 64, 64, 64) AUDIO
     "},\n"
     " " VIDEO_VAE(8, 8) ",\n " AUDIO_VAE(24) ",\n " VOCODER(64) ",\n " FILES "}\n"},
    {"tiny",
     "{\"format\": 1, \"name\": \"tiny\", \"prompt_format\": \"audcap\",\n"
     " \"target_area\": 36864, \"default_size\": [192, 192], \"fps\": 24,\n"
     " \"video_latent_frames\": 13, \"audio_latent_frames\": 64,\n"
     " \"text\": {\"vocab\": 768, \"dim\": 256, \"dim_attn\": 256, \"dim_ffn\": 512, "
     "\"num_heads\": 4, \"num_layers\": 4, \"num_buckets\": 32, \"max_dist\": 128, "
     "\"shared_pos\": false},\n"
     " \"video\": {" STREAM(256, 4, 4, 1024, 128, 256, 512) VIDEO
     "},\n"
     " \"audio\": {" STREAM(256, 4, 4, 1024, 128, 256, 512) AUDIO
     "},\n"
     " " VIDEO_VAE(16, 32) ",\n " AUDIO_VAE(48) ",\n " VOCODER(192) ",\n " FILES "}\n"},
    {"mid",
     "{\"format\": 1, \"name\": \"mid\", \"prompt_format\": \"audio\",\n"
     " \"target_area\": 65536, \"default_size\": [256, 256], \"fps\": 24,\n"
     " \"video_latent_frames\": 13, \"audio_latent_frames\": 64,\n"
     " \"text\": {\"vocab\": 4096, \"dim\": 512, \"dim_attn\": 512, \"dim_ffn\": 1280, "
     "\"num_heads\": 8, \"num_layers\": 8, \"num_buckets\": 32, \"max_dist\": 128, "
     "\"shared_pos\": false},\n"
     " \"video\": {" STREAM(1024, 8, 8, 4096, 256, 512, 512) VIDEO
     "},\n"
     " \"audio\": {" STREAM(1024, 8, 8, 4096, 256, 512, 512) AUDIO
     "},\n"
     " " VIDEO_VAE(40, 64) ",\n " AUDIO_VAE(96) ",\n " VOCODER(384) ",\n " FILES "}\n"},
};

const char *preset_json(const char *name) {
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0)
            return presets[i].json;
    return NULL;
}
