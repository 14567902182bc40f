/* mp4.c: H.264 and AAC in an MP4 file, through the FFmpeg libraries.
 *
 *   RGB -> Y'CbCr 4:2:0, BT.709 limited range (swscale) -> H.264 (x264)  \
 *   samples -> frames of 1,024 -> AAC-LC, mono                            > MP4
 *   the request as the `comment` tag                                     /
 *
 * Frame k stands at k/fps, sample n at n/rate: both begin at 0. The 1,024 samples by
 * which an AAC encoder runs ahead, and the order of B-frames, are taken back by edit
 * lists. The index stands in front (faststart).
 *
 * The same clip gives the same bytes: no dates, no library versions, and a fixed number
 * of encoder threads (x264's pixels depend on it).
 *
 * Memory: one frame in 4:2:0, and what x264 holds: 13 MB at 128x128 and 57 MB at 704x704,
 * with the short look-ahead below (130 MB with its own default). */
#include <string.h>

#include "core/os.h"
#include "media/ffmpeg.h"
#include "media/sink.h"

#define ENCODER_THREADS 2
#define AAC_BITS        64000 /* a second */

/* An encoder and the frame that it is fed from. */
typedef struct track {
    AVCodecContext *codec; /* owned; NULL: no such track */
    AVStream *stream;      /* borrowed from the muxer */
    AVFrame *frame;        /* owned */
    int64_t position;      /* of the next frame or sample */
} track;

typedef struct mp4 {
    os_writer file; /* holds the temporary name; the muxer writes under it */
    err *err;       /* borrowed */
    AVFormatContext *mux;
    AVPacket *packet;
    struct SwsContext *convert;
    track video, audio;
} mp4;

static void fail(mp4 *w, const char *what, int code) {
    ffmpeg_fail(w->err, w->file.path, what, code);
}

/* ----------------------------------------------------------------------- opening ---- */

static void close_track(track *t) {
    avcodec_free_context(&t->codec);
    av_frame_free(&t->frame);
}

static void mp4_close(void *self) {
    mp4 *w = self;
    if (!w)
        return;
    close_track(&w->video);
    close_track(&w->audio);
    sws_freeContext(w->convert);
    av_packet_free(&w->packet);
    if (w->mux && w->mux->pb)
        avio_closep(&w->mux->pb);
    avformat_free_context(w->mux);
    os_writer_abort(&w->file);
    mem_free(w);
}

/* An encoder with what both tracks have in common; NULL: failed. */
static AVCodecContext *make_encoder(mp4 *w, const char *name, AVRational tick) {
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
static void start_track(mp4 *w, track *t, AVDictionary **options) {
    int code = avcodec_open2(t->codec, NULL, options);
    t->stream = code < 0 ? NULL : avformat_new_stream(w->mux, NULL);
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

static void open_video(mp4 *w, const media_format *f) {
    AVCodecContext *c = w->video.codec =
        make_encoder(w, "libx264", (AVRational){1, f->fps});
    AVDictionary *options = NULL;
    if (!c)
        return;
    c->width = f->width;
    c->height = f->height;
    c->pix_fmt = AV_PIX_FMT_YUV420P;
    c->framerate = (AVRational){f->fps, 1};
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->color_range = AVCOL_RANGE_MPEG;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->colorspace = AVCOL_SPC_BT709;
    c->chroma_sample_location = AVCHROMA_LOC_LEFT;
    c->thread_count = ENCODER_THREADS;
    av_dict_set(&options, "preset", "medium", 0);
    av_dict_set_int(&options, "crf", f->quality, 0);
    av_dict_set(&options, "x264-params", "rc-lookahead=8:sync-lookahead=0", 0);
    start_track(w, &w->video, &options);
    av_dict_free(&options);
    AVFrame *frame = w->video.frame;
    if (err_failed(w->err))
        return;
    frame->format = c->pix_fmt;
    frame->width = c->width;
    frame->height = c->height;
    frame->color_range = c->color_range;
    frame->colorspace = c->colorspace;
    int code = av_frame_get_buffer(frame, 0);
    if (code < 0)
        fail(w, "frame", code);
}

/* RGB to limited BT.709, chroma sited left, exact to the rounding on every machine. */
static void open_conversion(mp4 *w, const media_format *f) {
    struct SwsContext *s = w->convert = sws_alloc_context();
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709), one = 1 << 16;
    if (!s) {
        fail(w, "conversion", AVERROR(ENOMEM));
        return;
    }
    av_opt_set_int(s, "srcw", f->width, 0);
    av_opt_set_int(s, "srch", f->height, 0);
    av_opt_set_int(s, "dstw", f->width, 0);
    av_opt_set_int(s, "dsth", f->height, 0);
    av_opt_set_int(s, "src_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(s, "dst_format", AV_PIX_FMT_YUV420P, 0);
    av_opt_set_int(s, "dst_h_chr_pos", 0, 0);
    av_opt_set_int(s, "dst_v_chr_pos", 128, 0);
    av_opt_set_int(s, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INP, 0);
    int code = sws_init_context(s, NULL, NULL);
    if (code >= 0)
        code = sws_setColorspaceDetails(s, bt709, 1, bt709, 0, 0, one, one);
    if (code < 0)
        fail(w, "cannot convert colours", code);
}

static void open_audio(mp4 *w, const media_format *f) {
    AVCodecContext *c = w->audio.codec =
        make_encoder(w, "aac", (AVRational){1, f->sample_rate});
    if (!c)
        return;
    c->sample_rate = f->sample_rate;
    c->sample_fmt = AV_SAMPLE_FMT_FLTP;
    c->bit_rate = AAC_BITS;
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
static void open_muxer(mp4 *w) {
    char *url = av_asprintf("file:%s", w->file.temp);
    int code = url ? avio_open(&w->mux->pb, url, AVIO_FLAG_WRITE) : AVERROR(ENOMEM);
    AVDictionary *options = NULL;
    av_free(w->mux->url);
    w->mux->url = url;
    w->mux->flags |= AVFMT_FLAG_BITEXACT;
    w->mux->max_interleave_delta = 0; /* all sound may come before the first frame */
    av_dict_set(&options, "movflags", "+faststart", 0);
    if (code >= 0)
        code = avformat_write_header(w->mux, &options);
    av_dict_free(&options);
    if (code < 0)
        fail(w, "cannot write", code);
}

static void *mp4_open(const char *path, const media_format *format, err *e) {
    ffmpeg_quiet();
    if (format->width % 2 || format->height % 2) {
        err_set(e, OVI_ARGUMENT, "%s: H.264 needs even sides, found %dx%d", path,
                format->width, format->height);
        return NULL;
    }
    mp4 *w = mem_alloc(e, 1, sizeof *w);
    if (!w)
        return NULL;
    *w = (mp4){.file = {.fd = -1}, .err = e, .packet = av_packet_alloc()};
    if (os_writer_open(&w->file, path, e) == OVI_OK &&
        (!w->packet || avformat_alloc_output_context2(&w->mux, NULL, "mp4", NULL) < 0))
        fail(w, "muxer", AVERROR(ENOMEM));
    if (!err_failed(e) && format->metadata)
        av_dict_set(&w->mux->metadata, "comment", format->metadata, 0);
    if (!err_failed(e) && format->width)
        open_video(w, format);
    if (!err_failed(e) && format->width)
        open_conversion(w, format);
    if (!err_failed(e) && format->sample_rate)
        open_audio(w, format);
    if (!err_failed(e))
        open_muxer(w);
    if (!err_failed(e))
        return w;
    mp4_close(w);
    return NULL;
}

/* ----------------------------------------------------------------------- writing ---- */

/* Feeds a frame (NULL: no more come) and writes the packets that are ready. */
static void encode(mp4 *w, track *t, const AVFrame *frame) {
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
        code = av_interleaved_write_frame(w->mux, w->packet);
        if (code >= 0)
            code = w->mux->pb->error; /* a full disk shows here */
    }
    fail(w, "cannot write", code);
}

static void mp4_put_frame(void *self, const uint8_t *rgb) {
    mp4 *w = self;
    track *t = &w->video;
    if (err_failed(w->err))
        return;
    int code = av_frame_make_writable(t->frame);
    if (code < 0) {
        fail(w, "frame", code);
        return;
    }
    const uint8_t *source[4] = {rgb};
    const int pitch[4] = {3 * t->codec->width};
    sws_scale(w->convert, source, pitch, 0, t->codec->height, t->frame->data,
              t->frame->linesize);
    t->frame->pts = t->position++;
    encode(w, t, t->frame);
}

/* Encodes the samples gathered so far; only the last frame may be short. */
static void flush_samples(mp4 *w) {
    AVFrame *frame = w->audio.frame;
    frame->pts = w->audio.position;
    w->audio.position += frame->nb_samples;
    encode(w, &w->audio, frame);
    frame->nb_samples = 0;
}

static void mp4_put_samples(void *self, const float *samples, size_t n) {
    mp4 *w = self;
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

static void end_track(mp4 *w, track *t) {
    if (t->codec && !err_failed(w->err))
        encode(w, t, NULL);
}

static ovi_status mp4_finish(void *self) {
    mp4 *w = self;
    if (w->audio.codec && w->audio.frame->nb_samples > 0 && !err_failed(w->err))
        flush_samples(w);
    end_track(w, &w->audio);
    end_track(w, &w->video);
    if (!err_failed(w->err)) {
        int code = av_write_trailer(w->mux);
        int closed = avio_closep(&w->mux->pb);
        if (code < 0 || closed < 0)
            fail(w, "cannot finish", code < 0 ? code : closed);
    }
    return os_writer_commit(&w->file);
}

const sink sink_mp4 = {.ending = ".mp4",
                       .open = mp4_open,
                       .put_frame = mp4_put_frame,
                       .put_samples = mp4_put_samples,
                       .finish = mp4_finish,
                       .close = mp4_close};
