/* image_file.c: first-frame images from files, and PNG files from images, through the
 * FFmpeg decoders.
 *
 *   bytes -> kind by magic -> decoder -> RGB [h, w, 3] -> turned as EXIF says
 *
 * Interleaved formats are picked apart here (the first byte of a 16-bit value, colour
 * without its alpha); the rest (JPEG, palettes) goes through swscale.
 *
 * Memory: the file, the decoded frame and the image; sides and area are limited before
 * the decoder allocates. */
#include <string.h>

#include "core/crc32.h"
#include "core/os.h"
#include "media/ffmpeg.h"

/* ------------------------------------------------------------------------- kinds ---- */

typedef struct image_kind {
    const char *name, *magic; /* '.' in the magic: any byte */
    size_t n;                 /* bytes of magic */
    enum AVCodecID codec;
    ovi_status (*check)(image_bytes *b, err *e);
} image_kind;

static const image_kind kinds[] = {
    {"PNG", "\x89PNG\r\n\x1a\n", 8, AV_CODEC_ID_PNG, image_check_png},
    {"JPEG", "\xff\xd8\xff", 3, AV_CODEC_ID_MJPEG, image_check_jpeg},
    {"WebP", "RIFF....WEBP", 12, AV_CODEC_ID_WEBP, image_check_webp},
    {"BMP", "BM", 2, AV_CODEC_ID_BMP, image_check_bmp},
};

static bool begins_with(const char *bytes, const image_kind *kind) {
    for (size_t i = 0; i < kind->n; i++)
        if (kind->magic[i] != '.' && kind->magic[i] != bytes[i])
            return false;
    return true;
}

static const image_kind *kind_of(const char *bytes, size_t size) {
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (size >= kinds[i].n && begins_with(bytes, &kinds[i]))
            return &kinds[i];
    return NULL;
}

/* Pixels whose colours are whole bytes: bytes a pixel, and where red, green and blue (of
 * 16-bit values the upper half) stand. */
typedef struct byte_layout {
    enum AVPixelFormat format;
    int step, r, g, b;
} byte_layout;

static const byte_layout layouts[] = {
    {AV_PIX_FMT_RGB24, 3, 0, 1, 2},    {AV_PIX_FMT_RGBA, 4, 0, 1, 2},
    {AV_PIX_FMT_GRAY8, 1, 0, 0, 0},    {AV_PIX_FMT_YA8, 2, 0, 0, 0},
    {AV_PIX_FMT_RGB48BE, 6, 0, 2, 4},  {AV_PIX_FMT_RGBA64BE, 8, 0, 2, 4},
    {AV_PIX_FMT_GRAY16BE, 2, 0, 0, 0}, {AV_PIX_FMT_YA16BE, 4, 0, 0, 0},
    {AV_PIX_FMT_ARGB, 4, 1, 2, 3},     {AV_PIX_FMT_BGRA, 4, 2, 1, 0},
    {AV_PIX_FMT_BGR24, 3, 2, 1, 0},    {AV_PIX_FMT_BGR0, 4, 2, 1, 0},
};

static void pick_bytes(const AVFrame *f, const byte_layout *l, uint8_t *rgb) {
    for (int y = 0; y < f->height; y++) {
        const uint8_t *row = f->data[0] + (ptrdiff_t)y * f->linesize[0];
        for (int x = 0; x < f->width; x++, row += l->step, rgb += 3) {
            rgb[0] = row[l->r];
            rgb[1] = row[l->g];
            rgb[2] = row[l->b];
        }
    }
}

static bool is_full_range(const AVFrame *f) {
    return f->color_range == AVCOL_RANGE_JPEG || f->format == AV_PIX_FMT_YUVJ420P ||
           f->format == AV_PIX_FMT_YUVJ422P || f->format == AV_PIX_FMT_YUVJ444P ||
           f->format == AV_PIX_FMT_YUVJ440P;
}

int ffmpeg_frame_to_rgb(const AVFrame *f, struct SwsContext **convert, uint8_t *rgb) {
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        if (f->format == (int)layouts[i].format) {
            pick_bytes(f, &layouts[i], rgb);
            return 0;
        }
    }
    const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT |
                      SWS_FULL_CHR_H_INP;
    const int one = 1 << 16, *target = sws_getCoefficients(SWS_CS_DEFAULT);
    *convert = sws_getCachedContext(*convert, f->width, f->height, f->format, f->width,
                                    f->height, AV_PIX_FMT_RGB24, flags, NULL, NULL, NULL);
    if (!*convert)
        return AVERROR(EINVAL);
    sws_setColorspaceDetails(*convert, sws_getCoefficients((int)f->colorspace),
                             is_full_range(f), target, 1, 0, one, one);
    uint8_t *out[4] = {rgb};
    const int pitch[4] = {3 * f->width};
    int rows = sws_scale(*convert, (const uint8_t *const *)f->data, f->linesize, 0,
                         f->height, out, pitch);
    return rows < 0 ? rows : 0;
}

/* ----------------------------------------------------------------------- turning ---- */

/* 5..8 exchange the axes; the stored image is read from the right in 2, 3, 7, 8 and from
 * below in 3, 4, 6, 7. */
static ovi_status turn(media_image *m, int orientation, err *e) {
    if (orientation <= 1)
        return OVI_OK;
    bool swap = orientation >= 5;
    bool flip_x =
        orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool flip_y =
        orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    int width = swap ? m->height : m->width, height = swap ? m->width : m->height;
    uint8_t *rgb = mem_alloc(e, (size_t)width * (size_t)height, 3);
    if (!rgb)
        return e->status;
    uint8_t *to = rgb;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++, to += 3) {
            int sx = swap ? y : x, sy = swap ? x : y; /* in the stored image */
            sx = flip_x ? m->width - 1 - sx : sx;
            sy = flip_y ? m->height - 1 - sy : sy;
            memcpy(to, m->rgb + 3 * ((size_t)sy * (size_t)m->width + (size_t)sx), 3);
        }
    }
    mem_free(m->rgb);
    *m = (media_image){.width = width, .height = height, .rgb = rgb};
    return OVI_OK;
}

/* ----------------------------------------------------------------------- loading ---- */

/* One whole file is one packet; the decoder refuses sizes above the limit by itself. */
static int decode(const image_kind *kind, const image_bytes *b, AVFrame *frame) {
    const AVCodec *codec = avcodec_find_decoder(kind->codec);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    AVPacket *packet = av_packet_alloc();
    int code = codec ? AVERROR(ENOMEM) : AVERROR_DECODER_NOT_FOUND;
    if (c && packet && (code = av_new_packet(packet, (int)b->size)) >= 0) {
        memcpy(packet->data, b->data, b->size);
        c->max_pixels = IMAGE_MAX_PIXELS;
        c->thread_count = 1;
        c->err_recognition = AV_EF_CRCCHECK | AV_EF_EXPLODE;
        code = avcodec_open2(c, codec, NULL);
        if (code >= 0)
            code = avcodec_send_packet(c, packet);
        if (code >= 0)
            code = avcodec_receive_frame(c, frame);
    }
    av_packet_free(&packet);
    avcodec_free_context(&c);
    return code;
}

static void take_frame(media_image *m, const char *path, const AVFrame *f, err *e) {
    if (image_check_size(path, f->width, f->height, e) != OVI_OK)
        return;
    struct SwsContext *convert = NULL;
    m->width = f->width;
    m->height = f->height;
    m->rgb = mem_alloc(e, (size_t)f->width * (size_t)f->height, 3);
    if (m->rgb && ffmpeg_frame_to_rgb(f, &convert, m->rgb) < 0)
        err_set(e, OVI_UNSUPPORTED, "%s: pixels of kind %s cannot be converted", path,
                av_get_pix_fmt_name(f->format));
    sws_freeContext(convert);
}

bool media_is_image(const char *path, err *e) {
    os_map m;
    if (os_map_file(&m, path, e) != OVI_OK)
        return false;
    bool known = kind_of((const char *)m.data, m.size) != NULL;
    os_map_release(&m);
    return known;
}

ovi_status media_image_load(media_image *m, const char *path, err *e) {
    char *bytes = NULL;
    size_t size = 0;
    media_image image = {0};
    ffmpeg_quiet();
    if (os_read_file(path, OVI_IMAGE_MAX_BYTES, &bytes, &size, e) != OVI_OK)
        return e->status;
    const image_kind *kind = kind_of(bytes, size);
    image_bytes whole = {.path = path, .data = (uint8_t *)bytes, .size = size};
    AVFrame *frame = av_frame_alloc();
    if (!frame)
        err_set(e, OVI_MEMORY, "%s: out of memory", path);
    else if (!kind)
        err_set(e, OVI_FORMAT, "%s: expected a PNG, JPEG, WebP or BMP image", path);
    else if (kind->check(&whole, e) == OVI_OK) {
        int code = decode(kind, &whole, frame);
        if (code < 0)
            ffmpeg_fail(e, path, "this image is damaged: the decoder found", code);
        else
            take_frame(&image, path, frame, e);
    }
    if (!err_failed(e) && turn(&image, whole.orientation, e) == OVI_OK)
        *m = image;
    else
        media_image_release(&image);
    av_frame_free(&frame);
    mem_free(bytes);
    return e->status;
}

/* ------------------------------------------------------------------------ saving ---- */

/* The image as a frame that borrows its pixels, encoded into one packet. */
static int encode_png(const media_image *m, AVPacket *packet) {
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    AVFrame *frame = av_frame_alloc();
    int code = codec ? AVERROR(ENOMEM) : AVERROR_ENCODER_NOT_FOUND;
    if (c && frame) {
        c->width = frame->width = m->width;
        c->height = frame->height = m->height;
        c->pix_fmt = AV_PIX_FMT_RGB24;
        c->time_base = (AVRational){1, 1};
        c->thread_count = 1;
        c->flags |= AV_CODEC_FLAG_BITEXACT;
        frame->format = AV_PIX_FMT_RGB24;
        frame->data[0] = m->rgb;
        frame->linesize[0] = 3 * m->width;
        code = avcodec_open2(c, codec, NULL);
        if (code >= 0)
            code = avcodec_send_frame(c, frame);
        if (code >= 0)
            code = avcodec_receive_packet(c, packet);
    }
    av_frame_free(&frame);
    avcodec_free_context(&c);
    return code;
}

#define IHDR_END 33 /* the magic, and the first chunk */

/* iTXt with the keyword Comment, plain, in no language. */
static void put_text(os_writer *file, const char *text) {
    static const char keyword[] = "iTXtComment\0\0\0\0\0";
    const size_t n = strlen(text), name = sizeof keyword - 1;
    uint8_t size[4], sum[4];
    uint32_t crc = crc32_update(crc32_update(0, keyword, name), text, n);
    for (int i = 0; i < 4; i++) {
        size[i] = (uint8_t)((n + name - 4) >> (24 - 8 * i));
        sum[i] = (uint8_t)(crc >> (24 - 8 * i));
    }
    os_writer_put(file, size, sizeof size);
    os_writer_put(file, keyword, name);
    os_writer_put(file, text, n);
    os_writer_put(file, sum, sizeof sum);
}

ovi_status media_image_save_png(const media_image *m, const char *text, const char *path,
                                err *e) {
    os_writer file;
    ffmpeg_quiet();
    AVPacket *packet = av_packet_alloc();
    int code = packet ? encode_png(m, packet) : AVERROR(ENOMEM);
    if (code < 0)
        ffmpeg_fail(e, path, "cannot encode a PNG image", code);
    else if (os_writer_open(&file, path, e) == OVI_OK) {
        os_writer_put(&file, packet->data, IHDR_END);
        if (text)
            put_text(&file, text);
        os_writer_put(&file, packet->data + IHDR_END, (size_t)packet->size - IHDR_END);
        (void)(os_writer_commit(&file) == OVI_OK);
    }
    av_packet_free(&packet);
    return e->status;
}
