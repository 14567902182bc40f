/* test_image_file.c: first frames as people have them: kinds, depths, alpha, EXIF, and files
 * that are damaged. */
#include "media_fixture.h"

#include "core/crc32.h"

#ifdef OVI_WITH_MEDIA
#include <libavcodec/avcodec.h>

static void put_big(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static media_image load_image(const char *path) {
    media_image m = {0};
    err e = {0};
    assert_int_equal(media_image_load(&m, path, &e), OVI_OK);
    return m;
}

static void png_comes_back_exactly(void **state) {
    (void)state;
    uint8_t rgb[7 * 5 * 3];
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 37);
    media_image m = {7, 5, rgb};
    err e = {0};
    assert_int_equal(media_image_save_png(&m, NULL, in_folder("a.png"), &e), OVI_OK);
    rename(in_folder("a.png"), in_folder("a.jpg")); /* content decides, not the name */
    media_image back = load_image(in_folder("a.jpg"));
    assert_int_equal(back.width, 7);
    assert_int_equal(back.height, 5);
    assert_memory_equal(back.rgb, rgb, sizeof rgb);
    media_image_release(&back);
    assert_int_equal(media_image_save_png(&m, NULL, in_folder("none/a.png"), &e), OVI_IO);
    assert_int_equal(files_in_folder(), 1);
}

/* Encodes one picture by FFmpeg; fill writes plane 0 (and 1, 2) of the frame. */
static AVPacket *encoded(enum AVCodecID id, enum AVPixelFormat format, int width,
                         int height, void (*fill)(AVFrame *)) {
    AVCodecContext *c = avcodec_alloc_context3(
        id == AV_CODEC_ID_WEBP ? avcodec_find_encoder_by_name("libwebp") /* one picture */
                               : avcodec_find_encoder(id));
    AVFrame *f = av_frame_alloc();
    AVPacket *p = av_packet_alloc();
    assert_true(c && f && p);
    c->width = f->width = width;
    c->height = f->height = height;
    c->pix_fmt = format;
    f->format = format;
    c->color_range = f->color_range = AVCOL_RANGE_JPEG;
    c->time_base = (AVRational){1, 25};
    c->flags |= AV_CODEC_FLAG_QSCALE;
    c->global_quality = id == AV_CODEC_ID_WEBP ? 95 * FF_QP2LAMBDA : FF_QP2LAMBDA;
    f->quality = FF_QP2LAMBDA;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    fill(f);
    assert_int_equal(avcodec_open2(c, c->codec, NULL), 0);
    assert_int_equal(avcodec_send_frame(c, f), 0);
    assert_int_equal(avcodec_receive_packet(c, p), 0);
    av_frame_free(&f);
    avcodec_free_context(&c);
    return p;
}

/* Byte k of a row is 10 + 20 k: colours and alpha, or halves of 16-bit values. */
static void fill_bytes(AVFrame *f) {
    for (int y = 0; y < f->height; y++)
        for (int x = 0; x < 8; x++)
            f->data[0][y * f->linesize[0] + x] = (uint8_t)(10 + 20 * x);
}

static void alpha_goes_grey_expands_and_16_bits_are_cut(void **state) {
    (void)state;
    static const struct {
        enum AVPixelFormat format;
        uint8_t rgb[3];
    } cases[] = {
        {AV_PIX_FMT_RGB24, {10, 30, 50}},    {AV_PIX_FMT_RGBA, {10, 30, 50}},
        {AV_PIX_FMT_GRAY8, {10, 10, 10}},    {AV_PIX_FMT_YA8, {10, 10, 10}},
        {AV_PIX_FMT_RGB48BE, {10, 50, 90}},  {AV_PIX_FMT_RGBA64BE, {10, 50, 90}},
        {AV_PIX_FMT_GRAY16BE, {10, 10, 10}}, {AV_PIX_FMT_YA16BE, {10, 10, 10}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        AVPacket *p = encoded(AV_CODEC_ID_PNG, cases[i].format, 1, 2, fill_bytes);
        write_all(in_folder("a.png"), p->data, (size_t)p->size);
        av_packet_free(&p);
        media_image m = load_image(in_folder("a.png"));
        assert_int_equal(m.width, 1);
        assert_int_equal(m.height, 2);
        assert_memory_equal(m.rgb, cases[i].rgb, 3);
        media_image_release(&m);
    }
}

enum { JW = 32, JH = 16 };

/* Luma by quarter of the picture: 50 100 / 150 200; no colour. */
static void fill_quarters(AVFrame *f) {
    for (int y = 0; y < JH; y++) {
        for (int x = 0; x < JW; x++)
            f->data[0][y * f->linesize[0] + x] =
                (uint8_t)(50 + (x >= JW / 2 ? 50 : 0) + (y >= JH / 2 ? 100 : 0));
        memset(f->data[1] + y * f->linesize[1], 128, JW);
        memset(f->data[2] + y * f->linesize[2], 128, JW);
    }
}

/* EXIF blocks of one entry, orientation, in both byte orders; the value is put in place. */
#define EXIF_BYTES 26
static const uint8_t exif_big[EXIF_BYTES + 1] =
    "MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0O\0\0\0\0\0";
static const uint8_t exif_little[EXIF_BYTES + 1] =
    "II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0O\0\0\0\0\0\0";

static void make_exif(uint8_t block[EXIF_BYTES], bool big, int orientation) {
    memcpy(block, big ? exif_big : exif_little, EXIF_BYTES);
    block[big ? 19 : 18] = (uint8_t)orientation;
}

/* How a kind of file carries a block: bytes at a place of the picture without it. */
typedef void (*carry_fn)(FILE *f, const AVPacket *p, const uint8_t *exif, size_t n);

static void carry_jpeg(FILE *f, const AVPacket *p, const uint8_t *exif, size_t n) {
    const uint8_t head[] = {0xff, 0xe1, 0, (uint8_t)(8 + n), 'E', 'x', 'i', 'f', 0, 0};
    fwrite(p->data, 1, 2, f);
    fwrite(head, 1, sizeof head, f);
    fwrite(exif, 1, n, f);
    fwrite(p->data + 2, 1, (size_t)p->size - 2, f);
}

static void carry_png(FILE *f, const AVPacket *p, const uint8_t *exif, size_t n) {
    uint8_t chunk[128] = {0, 0, 0, (uint8_t)n, 'e', 'X', 'I', 'f'};
    memcpy(chunk + 8, exif, n);
    put_big(chunk + 8 + n, crc32_update(0, chunk + 4, n + 4));
    fwrite(p->data, 1, 33, f); /* up to the end of IHDR */
    fwrite(chunk, 1, n + 12, f);
    fwrite(p->data + 33, 1, (size_t)p->size - 33, f);
}

static void put_little(uint8_t *p, size_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* RIFF, VP8X that announces EXIF (8), the picture's chunk, EXIF. */
static void carry_webp(FILE *f, const AVPacket *p, const uint8_t *exif, size_t n) {
    uint8_t head[30] = "RIFF....WEBPVP8X\x0a\0\0\0\x08\0\0\0\0\0\0\0\0", tail[8] = "EXIF";
    size_t picture = (size_t)p->size - 12;
    head[24] = JW - 1;
    head[27] = JH - 1;
    put_little(head + 4, 22 + picture + 8 + n);
    put_little(tail + 4, n);
    fwrite(head, 1, sizeof head, f);
    fwrite(p->data + 12, 1, picture, f);
    fwrite(tail, 1, sizeof tail, f);
    fwrite(exif, 1, n, f);
}

static void write_with_exif(const AVPacket *p, carry_fn carry, const uint8_t *exif,
                            size_t n) {
    FILE *f = fopen(in_folder("a.img"), "wb");
    assert_non_null(f);
    carry(f, p, exif, n);
    fclose(f);
}

static int grey_at(const media_image *m, bool right, bool below) {
    int x = m->width / 4 + (right ? m->width / 2 : 0);
    int y = m->height / 4 + (below ? m->height / 2 : 0);
    return (m->rgb[3 * (y * m->width + x)] + 25) / 50 * 50;
}

/* Grey by quarter of the picture, whole bytes: 50 100 / 150 200. */
static void fill_grey_quarters(AVFrame *f) {
    for (int y = 0; y < JH; y++)
        for (int x = 0; x < JW; x++)
            f->data[0][y * f->linesize[0] + x] =
                (uint8_t)(50 + (x >= JW / 2 ? 50 : 0) + (y >= JH / 2 ? 100 : 0));
}

typedef struct carrier {
    AVPacket *picture;
    carry_fn carry;
} carrier;

enum { N_CARRIERS = 3 };

static void open_carriers(carrier c[N_CARRIERS]) {
    c[0] =
        (carrier){encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters),
                  carry_jpeg};
    c[1] =
        (carrier){encoded(AV_CODEC_ID_PNG, AV_PIX_FMT_GRAY8, JW, JH, fill_grey_quarters),
                  carry_png};
    c[2] = (carrier){encoded(AV_CODEC_ID_WEBP, AV_PIX_FMT_YUV420P, JW, JH, fill_quarters),
                     carry_webp};
}

static void close_carriers(carrier c[N_CARRIERS]) {
    for (int i = 0; i < N_CARRIERS; i++)
        av_packet_free(&c[i].picture);
}

static void exif_turns_jpeg_png_and_webp(void **state) {
    (void)state;
    /* Top left, top right, bottom left of the upright picture. */
    static const int corners[8][3] = {{50, 100, 150},  {100, 50, 200}, {200, 150, 100},
                                      {150, 200, 50},  {50, 150, 100}, {150, 50, 200},
                                      {200, 100, 150}, {100, 200, 50}};
    carrier c[N_CARRIERS];
    open_carriers(c);
    for (int i = 0; i < 2 * 8 * N_CARRIERS; i++) {
        int o = i % 8 + 1;
        uint8_t exif[EXIF_BYTES];
        make_exif(exif, i % 16 < 8, o);
        write_with_exif(c[i / 16].picture, c[i / 16].carry, exif, sizeof exif);
        media_image m = load_image(in_folder("a.img"));
        assert_int_equal(m.width, o < 5 ? JW : JH);
        assert_int_equal(m.height, o < 5 ? JH : JW);
        assert_int_equal(grey_at(&m, false, false), corners[o - 1][0]);
        assert_int_equal(grey_at(&m, true, false), corners[o - 1][1]);
        assert_int_equal(grey_at(&m, false, true), corners[o - 1][2]);
        media_image_release(&m);
    }
    close_carriers(c);
}

/* The block is cut, lies about its places, or has an orientation that there is not: upright. */
static void broken_exif_leaves_the_picture_upright(void **state) {
    (void)state;
    carrier c[N_CARRIERS];
    open_carriers(c);
    for (int i = 0; i < N_CARRIERS; i++) {
        for (size_t cut = 0; cut < 24; cut++) {
            uint8_t exif[EXIF_BYTES];
            make_exif(exif, cut % 2, 6);
            write_with_exif(c[i].picture, c[i].carry, exif, cut < 20 ? cut : EXIF_BYTES);
            if (cut >= 20) { /* offsets, counts, types and values that are wild */
                static const int at[4] = {4, 10, 12, 18};
                memset(exif + at[cut - 20], 0xff, 2);
                write_with_exif(c[i].picture, c[i].carry, exif, EXIF_BYTES);
            }
            media_image m = load_image(in_folder("a.img"));
            assert_int_equal(m.width, JW);
            media_image_release(&m);
        }
    }
    close_carriers(c);
}

static void fill_colours(AVFrame *f) {
    for (int y = 0; y < JH; y++)
        for (int x = 0; x < JW; x++) {
            uint8_t *p = f->data[0] + y * f->linesize[0] + 4 * x; /* BGRA */
            p[0] = 10;
            p[1] = 120;
            p[2] = 230;
            p[3] = (uint8_t)(y * 16);
        }
}

/* Colours come back as they were under any alpha: nothing is blended. */
static void webp_loses_its_alpha(void **state) {
    (void)state;
    AVPacket *p = encoded(AV_CODEC_ID_WEBP, AV_PIX_FMT_BGRA, JW, JH, fill_colours);
    write_all(in_folder("a.webp"), p->data, (size_t)p->size);
    media_image m = load_image(in_folder("a.webp"));
    const uint8_t *lower = m.rgb + 3 * JW * (JH - 1);
    for (int k = 0; k < 3; k++)
        assert_true(abs(lower[k] - (uint8_t[]){230, 120, 10}[k]) <= 6);
    media_image_release(&m);
    av_packet_free(&p);
}

/* ----------------------------------------------------------------- hostile files ---- */

static void check_bad_image(const void *bytes, size_t n, const char *word) {
    media_image m = {0};
    err e = {0};
    write_all(in_folder("bad"), bytes, n);
    assert_int_equal(media_image_load(&m, in_folder("bad"), &e), OVI_FORMAT);
    if (!strstr(e.text, word))
        fail_msg("expected \"%s\" in: %s", word, e.text);
    assert_null(m.rgb);
}

static void hostile_images_are_refused(void **state) {
    (void)state;
    check_bad_image("", 0, "expected a PNG");
    check_bad_image("a poem, not a picture", 21, "expected a PNG");
    check_bad_image("\xff\xd8\xff", 3, "the file ends at byte 3");
    check_bad_image("\x89PNG\r\n\x1a\n", 8, "chunk at byte 8, the file ends at 8");
    AVPacket *png = encoded(AV_CODEC_ID_PNG, AV_PIX_FMT_RGB24, 40, 30, fill_bytes);
    AVPacket *jpeg =
        encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters);
    size_t n = (size_t)png->size;
    for (size_t cut = 1; cut < n - 12; cut += 5)
        check_bad_image(png->data, n - 12 - cut,
                        n - 12 - cut < 8 ? "PNG" : "the file ends");
    uint8_t *huge = malloc(n);
    memcpy(huge, png->data, n);
    memcpy(huge + 16, "\0\1\x86\xa0\0\1\x86\xa0", 8); /* 100000 x 100000 */
    check_bad_image(huge, n, "IHDR at byte 8: expected checksum");
    put_big(huge + 29, crc32_update(0, huge + 12, 17));
    check_bad_image(huge, n, "found 100000x100000");
    memcpy(huge + 16, "\0\0\x40\x01\0\0\0\x01", 8); /* 16385 x 1 */
    put_big(huge + 29, crc32_update(0, huge + 12, 17));
    check_bad_image(huge, n, "found 16385x1");
    free(huge);
    n = (size_t)jpeg->size;
    check_bad_image(jpeg->data, n / 2, "expected the end marker");
    check_bad_image(jpeg->data, n - 2, "expected the end marker");
    av_packet_free(&png);
    av_packet_free(&jpeg);
    media_image m = {0};
    err e = {0};
    assert_int_equal(media_image_load(&m, in_folder("none"), &e), OVI_IO);
    err_clear(&e);
    assert_int_equal(media_image_load(&m, folder, &e), OVI_IO);
}

/* A grey PNG of 3 x 4 whose data, stored and not compressed, ends properly after some rows. */
static size_t short_png(uint8_t *file, int rows) {
    uint8_t data[64] = {0x78, 0x01, 0x01};
    size_t raw = (size_t)rows * 4, n = 7 + raw + 4;
    uint32_t a = 1, b = 0; /* Adler-32 */
    data[3] = (uint8_t)raw;
    data[5] = (uint8_t)~raw;
    data[6] = 0xff;
    for (size_t i = 0; i < raw; i++) {
        data[7 + i] = i % 4 ? (uint8_t)(40 * i) : 0;
        a += data[7 + i];
        b += a;
    }
    put_big(data + 7 + raw, b << 16 | a);
    memcpy(file, "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\3\0\0\0\4\x08\0\0\0\0", 29);
    put_big(file + 29, crc32_update(0, file + 12, 17));
    put_big(file + 33, (uint32_t)n);
    memcpy(file + 37, "IDAT", 4);
    memcpy(file + 41, data, n);
    put_big(file + 41 + n, crc32_update(0, file + 37, n + 4));
    memcpy(file + 45 + n, "\0\0\0\0IEND\xae\x42\x60\x82", 12);
    return n + 57;
}

/* FFmpeg's decoder calls all of these pictures. */
static void pixels_that_end_early_are_refused(void **state) {
    (void)state;
    uint8_t file[128];
    for (int rows = 0; rows <= 4; rows++) {
        char words[64];
        size_t n = short_png(file, rows);
        snprintf(words, sizeof words,
                 "expected 16 bytes of pixels, their data ends after %d", 4 * rows);
        if (rows < 4)
            check_bad_image(file, n, words);
        else
            write_all(in_folder("a.png"), file, n);
    }
    media_image m = load_image(in_folder("a.png"));
    assert_int_equal(m.rgb[3 * 11], (uint8_t)(40 * 15));
    media_image_release(&m);
}

static void an_animation_is_no_first_frame(void **state) {
    (void)state;
    media_image m = {0};
    err e = {0};
    write_all(in_folder("a.webp"),
              "RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x0f\0\0\x0f\0\0", 30);
    assert_int_equal(media_image_load(&m, in_folder("a.webp"), &e), OVI_UNSUPPORTED);
    assert_non_null(strstr(e.text, "found an animated WebP"));
}

/* Every outcome but a crash or a leak will do; a picture must be whole. */
static void damaged_images_do_no_harm(void **state) {
    (void)state;
    AVPacket *packet[2] = {
        encoded(AV_CODEC_ID_PNG, AV_PIX_FMT_RGB24, 40, 30, fill_bytes),
        encoded(AV_CODEC_ID_MJPEG, AV_PIX_FMT_YUVJ444P, JW, JH, fill_quarters)};
    unsigned random = 1;
    for (int i = 0; i < 300; i++) {
        AVPacket *p = packet[i % 2];
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % (unsigned)p->size;
        uint8_t old = p->data[at];
        p->data[at] = (uint8_t)(random >> 3);
        write_all(in_folder("bad"), p->data, (size_t)p->size);
        p->data[at] = old;
        media_image m = {0};
        err e = {0};
        if (media_image_load(&m, in_folder("bad"), &e) == OVI_OK)
            assert_true(m.rgb && m.width > 0 && m.height > 0);
        else
            assert_true(e.text[0] && !m.rgb);
        media_image_release(&m);
    }
    av_packet_free(&packet[0]);
    av_packet_free(&packet[1]);
}
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(png_comes_back_exactly),
        TEST(alpha_goes_grey_expands_and_16_bits_are_cut),
        TEST(exif_turns_jpeg_png_and_webp),
        TEST(broken_exif_leaves_the_picture_upright),
        TEST(webp_loses_its_alpha),
        TEST(hostile_images_are_refused),
        TEST(pixels_that_end_early_are_refused),
        TEST(an_animation_is_no_first_frame),
        TEST(damaged_images_do_no_harm),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
#else
int main(void) {
    return 0; /* test_media has what such a build says */
}
#endif
