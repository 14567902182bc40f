/* mux.c: frames and samples into a file, through the encoders and muxers of FFmpeg.
 *
 *   RGB -> the container's pixels and size (swscale; 256 colours by palette.c) -> encoder \
 *   samples -> frames of the encoder's length -> encoder, mono                           > muxer
 *   the request as the `comment` tag, or put in at the end                               /
 *
 * Y'CbCr is 4:2:0, BT.709, limited range. Frame k stands at k/fps, sample n at n/rate: both
 * begin at 0. The samples by which a sound encoder runs ahead, and the order of B-frames, are
 * taken back by edit lists (MP4) or delays (WebM).
 *
 * Memory: one frame as it is encoded, and what encoders hold: x264 13 MB at 128x128 and 57 MB
 * at 704x704, previews the file itself. */
#include <string.h>

#include "media/mux.h"
#include "media/palette.h"

#define PREVIEW_SIDE 480
#define PREVIEW_FPS  15 /* from here on every second frame is left out */

/* An encoder and the frame that it is fed from. */
typedef struct track {
    AVCodecContext *codec; /* owned; NULL: no such track */
    AVStream *stream;      /* borrowed from the muxer */
    AVFrame *frame;        /* owned */
    int64_t position;      /* of the next frame or sample */
} track;

typedef struct mux {
    const container *kind;
    os_writer file; /* holds the temporary name; the muxer writes under it */
    err *err;       /* borrowed */
    AVFormatContext *format;
    AVPacket *packet;
    struct SwsContext *convert;
    int width, height; /* of what is put; the video track has its own */
    int every;         /* of so many frames the first is encoded */
    int64_t n_put;
    track video, audio;
    palette *colours; /* owned; NULL: not 256 colours */
    uint8_t *rgb;     /* owned: with them, a frame of the track's size */
    char *request;    /* owned; NULL: none is embedded at the end */
} mux;

static void fail(mux *w, const char *what, int code) {
    ffmpeg_fail(w->err, w->file.path, what, code);
}

/* ----------------------------------------------------------------------- opening ---- */

static void close_track(track *t) {
    avcodec_free_context(&t->codec);
    av_frame_free(&t->frame);
}

void mux_close(void *self) {
    mux *w = self;
    if (!w)
        return;
    close_track(&w->video);
    close_track(&w->audio);
    sws_freeContext(w->convert);
    av_packet_free(&w->packet);
    if (w->format && w->format->pb)
        avio_closep(&w->format->pb);
    avformat_free_context(w->format);
    os_writer_abort(&w->file);
    mem_free(w->colours);
    mem_free(w->rgb);
    mem_free(w->request);
    mem_free(w);
}

/* An encoder with what both tracks have in common; NULL: failed. */
static AVCodecContext *make_encoder(mux *w, const char *name, AVRational tick) {
    const AVCodec *codec = avcodec_find_encoder_by_name(name);
    if (!codec) {
        err_set(w->err, OVI_UNSUPPORTED, "%s: this FFmpeg was built without %s",
                w->file.path, name);
        return NULL;
    }
    AVCodecContext *c = avcodec_alloc_context3(codec);
    if (!c) {
        fail(w, "encoder", AVERROR(ENOMEM));
        return NULL;
    }
    c->time_base = tick;
    c->flags |= AV_CODEC_FLAG_BITEXACT | AV_CODEC_FLAG_GLOBAL_HEADER;
    return c;
}

/* Opens the encoder, and adds its stream to the muxer. */
static void start_track(mux *w, track *t, AVDictionary **options) {
    int code = avcodec_open2(t->codec, NULL, options);
    t->stream = code < 0 ? NULL : avformat_new_stream(w->format, NULL);
    t->frame = av_frame_alloc();
    if (code >= 0 && t->stream && t->frame) {
        t->stream->time_base = t->codec->time_base;
        code = avcodec_parameters_from_context(t->stream->codecpar, t->codec);
    } else if (code >= 0) {
        code = AVERROR(ENOMEM);
    }
    if (code < 0)
        fail(w, "cannot open the encoder", code);
}

static void set_colours(AVCodecContext *c) {
    c->color_range = AVCOL_RANGE_MPEG;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->colorspace = AVCOL_SPC_BT709;
    c->chroma_sample_location = AVCHROMA_LOC_LEFT;
}

static bool is_yuv(const mux *w) {
    return w->kind->pixels == AV_PIX_FMT_YUV420P;
}

/* A preview's sides, in proportion. */
static void set_size(const mux *w, AVCodecContext *c) {
    int longest = w->width > w->height ? w->width : w->height;
    bool less = w->kind->preview && longest > PREVIEW_SIDE;
    c->width = less ? (w->width * PREVIEW_SIDE + longest / 2) / longest : w->width;
    c->height = less ? (w->height * PREVIEW_SIDE + longest / 2) / longest : w->height;
    c->width += c->width == 0;
    c->height += c->height == 0;
}

static void open_frame(mux *w) {
    const AVCodecContext *c = w->video.codec;
    AVFrame *frame = w->video.frame;
    frame->format = c->pix_fmt;
    frame->width = c->width;
    frame->height = c->height;
    frame->color_range = c->color_range;
    frame->colorspace = c->colorspace;
    int code = av_frame_get_buffer(frame, 0);
    if (code < 0)
        fail(w, "frame", code);
    if (c->pix_fmt != AV_PIX_FMT_PAL8)
        return;
    w->colours = mem_alloc(w->err, 1, sizeof *w->colours);
    w->rgb = mem_alloc(w->err, 3 * (size_t)c->width * (size_t)c->height, 1);
}

static void open_video(mux *w, const media_format *f) {
    w->every = w->kind->preview && f->fps > PREVIEW_FPS ? 2 : 1;
    AVCodecContext *c = w->video.codec =
        make_encoder(w, w->kind->video, (AVRational){w->every, f->fps});
    AVDictionary *options = NULL;
    if (!c)
        return;
    set_size(w, c);
    c->pix_fmt = w->kind->pixels;
    c->framerate = (AVRational){f->fps, w->every};
    c->sample_aspect_ratio = (AVRational){1, 1};
    if (is_yuv(w))
        set_colours(c);
    w->kind->set_video(c, f, &options);
    start_track(w, &w->video, &options);
    av_dict_free(&options);
    if (!err_failed(w->err))
        open_frame(w);
}

/* RGB to the track's size and pixels; Y'CbCr limited, chroma sited left. Exact to the rounding
 * on every machine. */
static void open_conversion(mux *w) {
    const AVCodecContext *c = w->video.codec;
    struct SwsContext *s = w->convert = sws_alloc_context();
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709), one = 1 << 16;
    if (!s) {
        fail(w, "conversion", AVERROR(ENOMEM));
        return;
    }
    av_opt_set_int(s, "srcw", w->width, 0);
    av_opt_set_int(s, "srch", w->height, 0);
    av_opt_set_int(s, "dstw", c->width, 0);
    av_opt_set_int(s, "dsth", c->height, 0);
    av_opt_set_int(s, "src_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(s, "dst_format", w->colours ? AV_PIX_FMT_RGB24 : c->pix_fmt, 0);
    av_opt_set_int(s, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INP, 0);
    if (is_yuv(w)) {
        av_opt_set_int(s, "dst_h_chr_pos", 0, 0);
        av_opt_set_int(s, "dst_v_chr_pos", 128, 0);
    }
    int code = sws_init_context(s, NULL, NULL);
    if (code >= 0 && is_yuv(w))
        code = sws_setColorspaceDetails(s, bt709, 1, bt709, 0, 0, one, one);
    if (code < 0)
        fail(w, "cannot convert colours", code);
}

static void open_audio(mux *w, const media_format *f) {
    AVCodecContext *c = w->audio.codec =
        make_encoder(w, w->kind->audio, (AVRational){1, f->sample_rate});
    if (!c)
        return;
    c->sample_rate = f->sample_rate;
    c->sample_fmt = w->kind->samples;
    c->bit_rate = w->kind->audio_bits;
    av_channel_layout_default(&c->ch_layout, 1);
    start_track(w, &w->audio, NULL);
    AVFrame *frame = w->audio.frame;
    if (err_failed(w->err))
        return;
    frame->format = c->sample_fmt;
    frame->nb_samples = c->frame_size;
    frame->sample_rate = c->sample_rate;
    int code = av_channel_layout_copy(&frame->ch_layout, &c->ch_layout);
    if (code >= 0)
        code = av_frame_get_buffer(frame, 0);
    frame->nb_samples = 0; /* filled so far */
    if (code < 0)
        fail(w, "frame", code);
}

/* The muxer writes to the temporary file by its name: moving the index to the front
 * (faststart) reads what was written. */
static void open_muxer(mux *w) {
    char *url = av_asprintf("file:%s", w->file.temp);
    int code = url ? avio_open(&w->format->pb, url, AVIO_FLAG_WRITE) : AVERROR(ENOMEM);
    AVDictionary *options = NULL;
    av_free(w->format->url);
    w->format->url = url;
    w->format->flags |= AVFMT_FLAG_BITEXACT;
    w->format->max_interleave_delta = 0; /* all sound may come before the first frame */
    w->format->avoid_negative_ts = 0; /* what runs ahead is taken back, nothing shifted */
    if (code >= 0 && w->kind->muxer_options)
        code = av_dict_parse_string(&options, w->kind->muxer_options, "=", ":", 0);
    if (code >= 0)
        code = avformat_write_header(w->format, &options);
    av_dict_free(&options);
    if (code < 0)
        fail(w, "cannot write", code);
}

/* Where the muxer has no tag for it, the request waits for the end. */
static void take_request(mux *w, const char *request) {
    if (!request)
        return;
    if (w->kind->embed)
        w->request = mem_strdup(w->err, request);
    else
        av_dict_set(&w->format->metadata, "comment", request, 0);
}

static ovi_status check_sides(const container *kind, const char *path,
                              const media_format *format, err *e) {
    if (kind->pixels != AV_PIX_FMT_YUV420P || (format->width | format->height) % 2 == 0)
        return OVI_OK;
    return err_set(e, OVI_ARGUMENT, "%s: %s needs even sides, found %dx%d", path,
                   kind->video, format->width, format->height);
}

void *mux_open(const sink *self, const char *path, const media_format *format, err *e) {
    ffmpeg_quiet();
    if (check_sides(self->container, path, format, e) != OVI_OK)
        return NULL;
    mux *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (mux){.kind = self->container,
               .file = {.fd = -1},
               .err = e,
               .width = format->width,
               .height = format->height,
               .packet = av_packet_alloc()};
    if (os_writer_open(&w->file, path, e) == OVI_OK &&
        (!w->packet ||
         avformat_alloc_output_context2(&w->format, NULL, w->kind->muxer, NULL) < 0))
        fail(w, "muxer", AVERROR(ENOMEM));
    w->file.keep_existing = format->keep_existing;
    if (!err_failed(e))
        take_request(w, format->metadata);
    if (!err_failed(e) && format->width)
        open_video(w, format);
    if (!err_failed(e) && format->width)
        open_conversion(w);
    if (!err_failed(e) && format->sample_rate)
        open_audio(w, format);
    if (!err_failed(e))
        open_muxer(w);
    if (!err_failed(e))
        return w;
    mux_close(w);
    return NULL;
}

/* ----------------------------------------------------------------------- writing ---- */

/* Feeds a frame (NULL: no more come) and writes the packets that are ready. */
static void encode(mux *w, track *t, const AVFrame *frame) {
    int code = avcodec_send_frame(t->codec, frame);
    while (code >= 0) {
        code = avcodec_receive_packet(t->codec, w->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return;
        if (code < 0)
            break;
        if (w->packet->duration == 0)
            w->packet->duration = 1; /* one frame: x264 leaves it open */
        w->packet->stream_index = t->stream->index;
        av_packet_rescale_ts(w->packet, t->codec->time_base, t->stream->time_base);
        code = av_interleaved_write_frame(w->format, w->packet);
        if (code >= 0)
            code = w->format->pb->error; /* a full disk shows here */
    }
    fail(w, "cannot write", code);
}

/* The frame in at most 256 colours of its own. */
static void reduce_colours(mux *w, AVFrame *frame) {
    palette *p = w->colours;
    palette_make(p, w->rgb, (size_t)frame->width * (size_t)frame->height);
    memcpy(frame->data[1], p->colour, sizeof p->colour);
    for (int y = 0; y < frame->height; y++) {
        const uint8_t *rgb = w->rgb + 3 * (size_t)y * (size_t)frame->width;
        uint8_t *row = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        for (int x = 0; x < frame->width; x++)
            row[x] = palette_index(p, rgb + 3 * (size_t)x, x, y);
    }
}

void mux_put_frame(void *self, const uint8_t *rgb) {
    mux *w = self;
    track *t = &w->video;
    if (err_failed(w->err) || w->n_put++ % w->every != 0)
        return;
    int code = av_frame_make_writable(t->frame);
    if (code < 0) {
        fail(w, "frame", code);
        return;
    }
    const uint8_t *source[4] = {rgb};
    const int pitch[4] = {3 * w->width}, small_pitch[4] = {3 * t->frame->width};
    uint8_t *small[4] = {w->rgb};
    sws_scale(w->convert, source, pitch, 0, w->height,
              w->colours ? small : t->frame->data,
              w->colours ? small_pitch : t->frame->linesize);
    if (w->colours)
        reduce_colours(w, t->frame);
    t->frame->pts = t->position++;
    encode(w, t, t->frame);
}

/* Encodes the samples gathered so far; only the last frame may be short. */
static void flush_samples(mux *w) {
    AVFrame *frame = w->audio.frame;
    frame->pts = w->audio.position;
    w->audio.position += frame->nb_samples;
    encode(w, &w->audio, frame);
    frame->nb_samples = 0;
}

void mux_put_samples(void *self, const float *samples, size_t n) {
    mux *w = self;
    AVFrame *frame = w->audio.frame;
    int size = w->audio.codec->frame_size;
    for (size_t i = 0; i < n && !err_failed(w->err); i++) {
        if (frame->nb_samples == 0) {
            /* The encoder may still hold the last one: the buffer is made for a whole. */
            frame->nb_samples = size;
            int code = av_frame_make_writable(frame);
            frame->nb_samples = 0;
            if (code < 0)
                fail(w, "frame", code);
        }
        ((float *)(void *)frame->data[0])[frame->nb_samples++] = samples[i];
        if (frame->nb_samples == size)
            flush_samples(w);
    }
}

static void end_track(mux *w, track *t) {
    if (t->codec && !err_failed(w->err))
        encode(w, t, NULL);
}

ovi_status mux_finish(void *self) {
    mux *w = self;
    if (w->audio.codec && w->audio.frame->nb_samples > 0 && !err_failed(w->err))
        flush_samples(w);
    end_track(w, &w->audio);
    end_track(w, &w->video);
    if (!err_failed(w->err)) {
        int code = av_write_trailer(w->format);
        int closed = avio_closep(&w->format->pb);
        if (code < 0 || closed < 0)
            fail(w, "cannot finish", code < 0 ? code : closed);
    }
    if (w->request && !err_failed(w->err))
        w->kind->embed(&w->file, w->request);
    return os_writer_commit(&w->file);
}
