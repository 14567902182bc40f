/* containers.c: what FFmpeg's muxers write, a row each.
 *
 *   .mp4   H.264 (x264), AAC-LC     index in front
 *   .webm  VP9 (libvpx), Opus
 *   .gif   256 colours a frame      a preview: at most 480 pixels a side, every second frame,
 *   .webp  VP8 frames               no sound; they loop
 *
 * The same clip gives the same bytes: no dates, no library versions, and a fixed number of
 * encoder threads (x264's pixels depend on it). */
#include "media/mux.h"

#define ENCODER_THREADS 2

static void set_h264(AVCodecContext *c, const media_format *f, AVDictionary **options) {
    c->thread_count = ENCODER_THREADS;
    av_dict_set(options, "preset", "medium", 0);
    av_dict_set_int(options, "crf", f->quality, 0);
    /* The short look-ahead: 57 MB at 704x704 instead of 130. */
    av_dict_set(options, "x264-params", "rc-lookahead=8:sync-lookahead=0", 0);
}

/* VP9's scale of quality ends at 63 where H.264's ends at 51. */
static void set_vp9(AVCodecContext *c, const media_format *f, AVDictionary **options) {
    c->thread_count = ENCODER_THREADS;
    c->bit_rate = 0;
    av_dict_set_int(options, "crf", (f->quality * 63 + 25) / 51, 0);
    av_dict_set(options, "deadline", "good", 0);
    av_dict_set(options, "cpu-used", "4", 0);
    av_dict_set(options, "row-mt", "1", 0);
    av_dict_set(options, "lag-in-frames", "12", 0);
}

static void set_nothing(AVCodecContext *c, const media_format *f,
                        AVDictionary **options) {
    (void)c;
    (void)f;
    (void)options;
}

static void set_webp(AVCodecContext *c, const media_format *f, AVDictionary **options) {
    (void)c;
    (void)f;
    av_dict_set(options, "quality", "75", 0);
    av_dict_set(options, "compression_level", "4", 0);
}

static const container mp4 = {.muxer = "mp4",
                              .muxer_options = "movflags=+faststart",
                              .video = "libx264",
                              .set_video = set_h264,
                              .pixels = AV_PIX_FMT_YUV420P,
                              .audio = "aac",
                              .samples = AV_SAMPLE_FMT_FLTP,
                              .audio_bits = 64000};

static const container webm = {.muxer = "webm",
                               .video = "libvpx-vp9",
                               .set_video = set_vp9,
                               .pixels = AV_PIX_FMT_YUV420P,
                               .audio = "libopus",
                               .samples = AV_SAMPLE_FMT_FLT,
                               .audio_bits = 64000};

static const container gif = {.muxer = "gif",
                              .video = "gif",
                              .set_video = set_nothing,
                              .pixels = AV_PIX_FMT_PAL8,
                              .preview = true,
                              .embed = preview_embed_gif};

static const container webp = {.muxer = "webp",
                               .muxer_options = "loop=0",
                               .video = "libwebp_anim",
                               .set_video = set_webp,
                               .pixels = AV_PIX_FMT_RGB32,
                               .preview = true,
                               .embed = preview_embed_webp};

#define MUX_FUNCTIONS                                                                    \
    .open = mux_open, .put_frame = mux_put_frame, .put_samples = mux_put_samples,        \
    .finish = mux_finish, .close = mux_close

const sink sink_mp4 = {
    .ending = ".mp4", .picture = true, .sound = true, .container = &mp4, MUX_FUNCTIONS};
const sink sink_webm = {
    .ending = ".webm", .picture = true, .sound = true, .container = &webm, MUX_FUNCTIONS};
const sink sink_gif = {
    .ending = ".gif", .picture = true, .container = &gif, MUX_FUNCTIONS};
const sink sink_webp = {
    .ending = ".webp", .picture = true, .container = &webp, MUX_FUNCTIONS};
