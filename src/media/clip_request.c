/* clip_request.c: where each format keeps it.
 *
 *   MP4, WebM  the tag `comment`                  (through FFmpeg)
 *   WAV        RIFF > LIST INFO > ICMT
 *   WebP       RIFF > EXIF > ImageDescription
 *   PNG        iTXt with the keyword Comment, plain
 *   GIF        a comment extension
 *   a folder   its first frame                    y4m: the WAV file beside it */
#include "media/clip_request.h"

#include <string.h>
#include <strings.h>

#include "core/buf.h"
#include "core/host.h"
#include "core/os.h"
#include "media/exif.h"
#ifdef OVI_WITH_MEDIA
#include "media/ffmpeg.h"
#endif

#define FIRST_FRAME "frame_000001.png"

typedef struct bytes {
    const uint8_t *data;
    size_t size;
} bytes;

static uint32_t little32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static uint32_t big32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* --------------------------------------------------------------------------- RIFF ---- */

/* The first chunk of that name in a run of chunks; size 0: there is none. */
static bytes find_chunk(bytes b, const char *name) {
    while (b.size >= 8) {
        size_t size = little32(b.data + 4), room = b.size - 8;
        size = size < room ? size : room;
        if (memcmp(b.data, name, 4) == 0)
            return (bytes){b.data + 8, size};
        size = size + (size & 1) < room ? size + (size & 1) : room;
        b = (bytes){b.data + 8 + size, room - size};
    }
    return (bytes){0};
}

static void take_text(buf *text, const void *data, size_t n) {
    if (n > 0)
        buf_append(text, data, strnlen(data, n));
}

static void read_wav(bytes b, buf *text) {
    bytes list = find_chunk((bytes){b.data + 12, b.size - 12}, "LIST");
    if (list.size < 4 || memcmp(list.data, "INFO", 4) != 0)
        return;
    bytes comment = find_chunk((bytes){list.data + 4, list.size - 4}, "ICMT");
    take_text(text, comment.data, comment.size);
}

static void read_webp(bytes b, buf *text) {
    bytes exif = find_chunk((bytes){b.data + 12, b.size - 12}, "EXIF");
    size_t n = 0;
    const char *told = exif.size ? exif_description(exif.data, exif.size, &n) : NULL;
    if (told)
        take_text(text, told, n);
}

/* ----------------------------------------------------------------------- PNG, GIF ---- */

/* Keyword, NUL, two zeros (plain), language and its NUL, keyword in it and its NUL, text. */
static void read_itxt(bytes b, buf *text) {
    static const char head[] = "Comment\0\0";
    if (b.size < sizeof head || memcmp(b.data, head, sizeof head) != 0)
        return;
    size_t at = sizeof head;
    for (int i = 0; i < 2; i++) {
        const uint8_t *end = memchr(b.data + at, 0, b.size - at);
        if (!end)
            return;
        at = (size_t)(end - b.data) + 1;
    }
    take_text(text, b.data + at, b.size - at);
}

static void read_png(bytes b, buf *text) {
    for (size_t at = 8; b.size - at >= 12;) {
        size_t size = big32(b.data + at);
        if (size > b.size - at - 12)
            return;
        if (memcmp(b.data + at + 4, "iTXt", 4) == 0)
            read_itxt((bytes){b.data + at + 8, size}, text);
        at += 12 + size;
    }
}

/* A run of blocks, each after its length, ends with an empty one; text NULL: skipped. */
static size_t take_blocks(bytes b, size_t at, buf *text) {
    while (at < b.size && b.data[at] > 0 && b.data[at] < b.size - at) {
        if (text)
            take_text(text, b.data + at + 1, b.data[at]);
        at += 1u + b.data[at];
    }
    return at < b.size && b.data[at] == 0 ? at + 1 : b.size;
}

static size_t gif_table(uint8_t flags) {
    return flags & 0x80 ? (size_t)3 << ((flags & 7) + 1) : 0;
}

static void read_gif(bytes b, buf *text) {
    enum { EXTENSION = 0x21, COMMENT = 0xfe, IMAGE = 0x2c, SCREEN_END = 13 };
    if (b.size < SCREEN_END)
        return;
    for (size_t at = SCREEN_END + gif_table(b.data[10]);
         at < b.size && b.size - at > 10;) {
        const uint8_t *p = b.data + at;
        if (p[0] == EXTENSION)
            at = take_blocks(b, at + 2, p[1] == COMMENT ? text : NULL);
        else if (p[0] == IMAGE)
            at = take_blocks(b, at + 10 + gif_table(p[9]) + 1, NULL);
        else
            return;
    }
}

/* ---------------------------------------------------------------- not in the bytes ---- */

#ifdef OVI_WITH_MEDIA
static void read_tag(const char *path, buf *text, err *e) {
    AVFormatContext *demux = NULL;
    ffmpeg_quiet();
    if (ffmpeg_open(&demux, path, e) != OVI_OK)
        return;
    const AVDictionaryEntry *tag = av_dict_get(demux->metadata, "comment", NULL, 0);
    if (tag)
        buf_puts(text, tag->value);
    avformat_close_input(&demux);
}
#else
static void read_tag(const char *path, buf *text, err *e) {
    (void)text;
    err_set(e, OVI_UNSUPPORTED,
            "%s: this build has no image and video codecs (OVI_MEDIA is off)", path);
}
#endif

static void read_file(const char *path, buf *text, err *e);

/* clip.y4m has its request in clip.wav */
static void read_beside(const char *path, buf *text, err *e) {
    size_t n = strlen(path);
    char *sound = mem_strdup(e, path);
    if (sound && n > 4 && strcasecmp(path + n - 4, ".y4m") == 0) {
        memcpy(sound + n - 4, ".wav", 4);
        if (os_is_file(sound))
            read_file(sound, text, e);
    }
    mem_free(sound);
}

/* ------------------------------------------------------------------------- kinds ---- */

typedef struct clip_kind {
    const char *name, *magic; /* '.' in the magic: any byte */
    size_t n;                 /* bytes of magic */
    void (*read)(bytes b, buf *text);
    void (*elsewhere)(const char *path, buf *text,
                      err *e); /* not in the bytes themselves */
} clip_kind;

static const clip_kind kinds[] = {
    {"MP4", "....ftyp", 8, NULL, read_tag},
    {"WebM", "\x1a\x45\xdf\xa3", 4, NULL, read_tag},
    {"WAV", "RIFF....WAVE", 12, read_wav, NULL},
    {"WebP", "RIFF....WEBP", 12, read_webp, NULL},
    {"GIF", "GIF8", 4, read_gif, NULL},
    {"PNG", "\x89PNG\r\n\x1a\n", 8, read_png, NULL},
    {"Y4M", "YUV4MPEG2", 9, NULL, read_beside},
};

static bool begins_like(bytes b, const clip_kind *kind) {
    for (size_t i = 0; i < kind->n; i++)
        if (b.size <= i || (kind->magic[i] != '.' && kind->magic[i] != (char)b.data[i]))
            return false;
    return true;
}

static const clip_kind *kind_of(bytes b) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (begins_like(b, &kinds[i]))
            return &kinds[i];
    return NULL;
}

/* The first frame in a folder; NULL: it has none. */
static char *frame_of(const char *path, err *e) {
    char *frame = os_is_dir(path) ? os_join(path, FIRST_FRAME, e) : NULL;
    if (frame && os_is_file(frame))
        return frame;
    mem_free(frame);
    return NULL;
}

const char *clip_format_name(const char *path, err *e) {
    os_map m;
    char *frame = frame_of(path, e);
    if (frame || os_is_dir(path) || err_failed(e)) {
        mem_free(frame);
        return frame ? "folder of PNG" : NULL;
    }
    if (os_map_file(&m, path, e) != OVI_OK)
        return NULL;
    const clip_kind *kind = kind_of((bytes){m.data, m.size});
    os_map_release(&m);
    return kind ? kind->name : NULL;
}

/* ----------------------------------------------------------------------- reading ---- */

static void read_file(const char *path, buf *text, err *e) {
    os_map m;
    if (os_map_file(&m, path, e) != OVI_OK)
        return;
    const bytes b = {m.data, m.size};
    const clip_kind *kind = kind_of(b);
    if (kind && kind->read)
        kind->read(b, text);
    os_map_release(&m);
    if (kind && kind->elsewhere)
        kind->elsewhere(path, text, e);
}

char *clip_request(const char *path, err *e) {
    buf text = {.max_bytes = CLIP_REQUEST_MAX};
    char *frame = frame_of(path, e), *owned = NULL;
    if (!err_failed(e))
        read_file(frame ? frame : path, &text, e);
    if (!buf_ok(&text))
        err_set(e, text.no_memory ? OVI_MEMORY : OVI_FORMAT,
                "%s: expected a request of at most %zu bytes", path, CLIP_REQUEST_MAX);
    else if (text.size == 0)
        err_set(e, OVI_FORMAT,
                "%s: there is no request in it: it was not made by ovi, or was written "
                "anew by another program",
                path);
    if (!err_failed(e))
        owned = mem_strdup(e, buf_text(&text));
    buf_release(&text);
    mem_free(frame);
    return owned;
}
