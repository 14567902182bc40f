/* clip.c: a clip from a file, decoded whole: pictures as RGB, sound as 16 kHz mono f32.
 *
 *   file -> demuxer -> video packets -> frames -> RGB [n, h, w, 3]
 *                   -> audio packets -> frames -> swresample -> samples [m]
 *
 * At most max_frames pictures are kept, and sound no longer than they last. Both streams
 * begin with their first frame. Memory: the clip, growing by halves, and one frame. */
#include <math.h>
#include <string.h>

#include "core/os.h"
#include "media/clip_check.h"
#include "media/ffmpeg.h"

#define SAMPLE_RATE       16000
#define MAX_SOUND_SECONDS 600 /* of a file without picture */
#define MAX_STREAMS       "16"
#define UNREADABLE        "cannot read it as a clip of at most " MAX_STREAMS " streams"
#define MAX_FRAME_BYTES   ((size_t)4 << 30) /* of all frames of a clip as RGB */
/* Containers of clips. Playlists and the like, which name other files, are left out. */
#define CONTAINERS "mov,matroska,webm,avi,mpegts,yuv4mpegpipe,gif,wav,flac,mp3,ogg"

typedef struct track {
    AVCodecContext *codec; /* owned; NULL: no such stream */
    int index;
} track;

typedef struct reader {
    const char *path;
    err *err; /* borrowed */
    AVFormatContext *demux;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *convert;
    SwrContext *resample;
    track video, audio;
    media_clip clip;
    size_t frame_capacity, sample_capacity; /* in frames and samples */
    int max_frames;
    size_t max_samples;
} reader;

static void fail(reader *r, const char *what, int code) {
    ffmpeg_fail(r->err, r->path, what, code);
}

/* ----------------------------------------------------------------------- opening ---- */

/* Opens the decoder of the best stream of a type; a file may lack one. */
static void open_track(reader *r, track *t, enum AVMediaType type) {
    const AVCodec *codec = NULL;
    t->index = av_find_best_stream(r->demux, type, -1, -1, &codec, 0);
    if (t->index < 0)
        return;
    const AVStream *stream = r->demux->streams[t->index];
    t->codec = avcodec_alloc_context3(codec);
    int code = t->codec ? avcodec_parameters_to_context(t->codec, stream->codecpar)
                        : AVERROR(ENOMEM);
    if (code >= 0) {
        t->codec->max_pixels = IMAGE_MAX_PIXELS;
        t->codec->thread_count = 1;
        t->codec->err_recognition = AV_EF_CRCCHECK | AV_EF_EXPLODE;
        t->codec->pkt_timebase = stream->time_base;
        code = avcodec_open2(t->codec, codec, NULL);
    }
    if (code < 0)
        fail(r, "cannot open the decoder", code);
}

ovi_status ffmpeg_open(AVFormatContext **demux, const char *path, err *e) {
    AVDictionary *options = NULL;
    char *url = av_asprintf("file:%s", path);
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    av_dict_set(&options, "format_whitelist", CONTAINERS, 0);
    av_dict_set(&options, "max_streams", MAX_STREAMS, 0);
    av_dict_set(&options, "err_detect", "crccheck+explode", 0);
    int code = url ? avformat_open_input(demux, url, NULL, &options) : AVERROR(ENOMEM);
    av_dict_free(&options);
    av_free(url);
    return code < 0 ? ffmpeg_fail(e, path, UNREADABLE, code) : OVI_OK;
}

static void open_demuxer(reader *r) {
    if (ffmpeg_open(&r->demux, r->path, r->err) != OVI_OK)
        return;
    int code = avformat_find_stream_info(r->demux, NULL);
    if (code < 0)
        fail(r, UNREADABLE, code);
}

static void open_reader(reader *r) {
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->packet || !r->frame) {
        fail(r, "decoder", AVERROR(ENOMEM));
        return;
    }
    open_demuxer(r);
    if (err_failed(r->err))
        return;
    open_track(r, &r->video, AVMEDIA_TYPE_VIDEO);
    open_track(r, &r->audio, AVMEDIA_TYPE_AUDIO);
    if (!r->video.codec && !r->audio.codec)
        err_set(r->err, OVI_FORMAT, "%s: neither picture nor sound was found", r->path);
    double seconds = MAX_SOUND_SECONDS;
    if (r->video.codec) {
        r->clip.fps = av_q2d(r->demux->streams[r->video.index]->avg_frame_rate);
        if (!(r->clip.fps > 0))
            r->clip.fps = av_q2d(r->demux->streams[r->video.index]->r_frame_rate);
        if (r->clip.fps > 0)
            seconds = r->max_frames / r->clip.fps;
    }
    r->max_samples = (size_t)ceil(fmin(seconds, MAX_SOUND_SECONDS) * SAMPLE_RATE);
}

static void close_reader(reader *r) {
    media_clip_release(&r->clip);
    swr_free(&r->resample);
    sws_freeContext(r->convert);
    avcodec_free_context(&r->video.codec);
    avcodec_free_context(&r->audio.codec);
    av_frame_free(&r->frame);
    av_packet_free(&r->packet);
    avformat_close_input(&r->demux);
}

/* ---------------------------------------------------------------------- decoding ---- */

/* Room for `need` objects of `size` bytes; false without memory. */
static bool grow(err *e, void **list, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity)
        return true;
    size_t wanted = need + need / 2;
    void *larger = mem_resize(e, *list, wanted, size);
    if (!larger)
        return false;
    *list = larger;
    *capacity = wanted;
    return true;
}

static void take_picture(reader *r) {
    const AVFrame *f = r->frame;
    media_clip *c = &r->clip;
    if (c->n_frames == r->max_frames)
        return;
    if (c->n_frames == 0) {
        c->width = f->width;
        c->height = f->height;
    }
    if (image_check_size(r->path, f->width, f->height, r->err) != OVI_OK)
        return;
    if (f->width != c->width || f->height != c->height) {
        err_set(r->err, OVI_FORMAT, "%s: expected frames of %dx%d, found one of %dx%d",
                r->path, c->width, c->height, f->width, f->height);
        return;
    }
    size_t bytes = (size_t)c->width * (size_t)c->height * 3, n = (size_t)c->n_frames;
    if ((n + 1) * bytes > MAX_FRAME_BYTES) {
        err_set(
            r->err, OVI_FORMAT,
            "%s: expected frames of at most %zu bytes in all, found more at frame %zu: "
            "make the picture smaller",
            r->path, MAX_FRAME_BYTES, n);
        return;
    }
    void *rgb = c->rgb;
    if (!grow(r->err, &rgb, &r->frame_capacity, n + 1, bytes))
        return;
    c->rgb = rgb;
    int code = ffmpeg_frame_to_rgb(f, &r->convert, c->rgb + n * bytes);
    if (code < 0)
        fail(r, "cannot convert its colours", code);
    c->n_frames++;
}

static void open_resampler(reader *r) {
    const AVFrame *f = r->frame;
    AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO, from = {0};
    int code = f->ch_layout.order == AV_CHANNEL_ORDER_UNSPEC
                   ? 0
                   : av_channel_layout_copy(&from, &f->ch_layout);
    if (from.nb_channels == 0)
        av_channel_layout_default(&from, f->ch_layout.nb_channels);
    if (code >= 0)
        code = swr_alloc_set_opts2(&r->resample, &mono, AV_SAMPLE_FMT_FLT, SAMPLE_RATE,
                                   &from, f->format, f->sample_rate, 0, NULL);
    if (code >= 0)
        code = swr_init(r->resample);
    av_channel_layout_uninit(&from);
    if (code < 0)
        fail(r, "cannot convert its sound", code);
}

/* Resamples n samples of the frame; n = 0: takes what the resampler still holds. */
static void take_sound(reader *r, int n) {
    media_clip *c = &r->clip;
    if (!r->resample && n > 0)
        open_resampler(r);
    if (!r->resample || err_failed(r->err) || c->n_samples >= r->max_samples)
        return;
    int room = swr_get_out_samples(r->resample, n);
    void *samples = c->samples;
    if (room < 0 ||
        !grow(r->err, &samples, &r->sample_capacity, c->n_samples + (size_t)room, 4))
        return;
    c->samples = samples;
    uint8_t *out[1] = {(uint8_t *)(c->samples + c->n_samples)};
    int got = swr_convert(r->resample, out, room,
                          n ? (const uint8_t **)r->frame->extended_data : NULL, n);
    if (got < 0)
        fail(r, "cannot convert its sound", got);
    else
        c->n_samples += (size_t)got;
    if (c->n_samples > r->max_samples)
        c->n_samples = r->max_samples;
}

/* Feeds a packet (NULL: no more come) and takes the frames that are ready. */
static void decode(reader *r, track *t, const AVPacket *packet) {
    int code = avcodec_send_packet(t->codec, packet);
    while (code >= 0 && !err_failed(r->err)) {
        code = avcodec_receive_frame(t->codec, r->frame);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF)
            return;
        if (code >= 0 && t == &r->video)
            take_picture(r);
        else if (code >= 0)
            take_sound(r, r->frame->nb_samples);
    }
    if (code < 0)
        fail(r, "cannot decode it", code);
}

static bool is_full(const reader *r) {
    return (!r->video.codec || r->clip.n_frames == r->max_frames) &&
           (!r->audio.codec || r->clip.n_samples >= r->max_samples);
}

static void read_all(reader *r) {
    while (!err_failed(r->err) && !is_full(r)) {
        int code = av_read_frame(r->demux, r->packet);
        if (code == AVERROR_EOF)
            break;
        if (code < 0)
            fail(r, "cannot read it", code);
        else if (r->packet->flags & AV_PKT_FLAG_CORRUPT)
            err_set(r->err, OVI_FORMAT,
                    "%s: expected %d bytes at byte %lld, the file ends", r->path,
                    r->packet->size, (long long)r->packet->pos);
        else if (r->video.codec && r->packet->stream_index == r->video.index)
            decode(r, &r->video, r->packet);
        else if (r->audio.codec && r->packet->stream_index == r->audio.index)
            decode(r, &r->audio, r->packet);
        av_packet_unref(r->packet);
    }
    if (r->video.codec && !err_failed(r->err))
        decode(r, &r->video, NULL);
    if (r->audio.codec && !err_failed(r->err))
        decode(r, &r->audio, NULL);
    if (!err_failed(r->err))
        take_sound(r, 0);
}

ovi_status media_clip_load(media_clip *c, const char *path, int max_frames, err *e) {
    reader r = {.path = path, .err = e, .max_frames = max_frames};
    ffmpeg_quiet();
    if (clip_check(path, e) == OVI_OK)
        open_reader(&r);
    if (!err_failed(e))
        read_all(&r);
    if (!err_failed(e) && r.clip.n_frames == 0 && r.clip.n_samples == 0)
        err_set(e, OVI_FORMAT, "%s: not one frame could be decoded", path);
    for (size_t i = 0; i < r.clip.n_samples && !err_failed(e); i++)
        if (!isfinite(r.clip.samples[i]))
            err_set(e, OVI_FORMAT, "%s: sample %zu of the sound is not finite", path, i);
    if (!err_failed(e)) {
        *c = r.clip;
        r.clip = (media_clip){0};
    }
    close_reader(&r);
    return e->status;
}
