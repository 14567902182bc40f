/* test_video_vae.c: what must hold for the video VAE whatever its weights: a small random
 * model is written to a file and run on every backend of this build; the published one is
 * counted on dry runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <math.h>

#include "residency/store.h"
#include "video_fixture.h"

#define WEIGHTS_FILE OVI_BINARY_DIR "/test_video_vae.safetensors"

/* ----------------------------------------------------------------- a small model ---- */

/* Latents of FRAMES x HEIGHT x WIDTH; a position is 16 x 16 pixels. */
enum { Z = 6, FRAMES = 3, HEIGHT = 2, WIDTH = 1, TALL = 16 * HEIGHT, WIDE = 16 * WIDTH };
enum { LATENT_COUNT = Z * FRAMES * HEIGHT * WIDTH };
enum { CLIP_FRAMES = 1 + 4 * (FRAMES - 1), FRAME_COUNT = TALL * WIDE * 3 };
enum { CLIP_COUNT = CLIP_FRAMES * FRAME_COUNT };

static video_vae_config small_config(void) {
    video_vae_config cfg = {.dim = 8,
                            .dec_dim = 8,
                            .z_dim = Z,
                            .dim_mult = {1, 2, 4, 4},
                            .num_res_blocks = 1,
                            .patch_size = 2,
                            .temporal_downsample = {false, true, true}};
    for (int i = 0; i < Z; i++) {
        cfg.mean[i] = 0.1f * (float)(i - 2);
        cfg.std[i] = 0.5f + 0.2f * (float)i;
    }
    return cfg;
}

static int write_weights(void **state) {
    (void)state;
    const video_vae_config cfg = small_config();
    write_video_vae(&cfg, WEIGHTS_FILE, 11);
    return 0;
}

static int remove_weights(void **state) {
    (void)state;
    return unlink(WEIGHTS_FILE);
}

/* -------------------------------------------------------------------- running it ---- */

/* How a run is set up. bytes 0: a dry run. */
typedef struct setup {
    const backend *backend;
    dtype compute;
    int threads;
    video_vae_config cfg;
    const char *path; /* NULL: planned without files */
    uint64_t parts;
    size_t bytes; /* of the arena; 0: a dry run */
} setup;

/* A device with the model on it. */
typedef struct bench {
    host host;
    device *dev;
    weights *files;
    video_vae vae;
    store *store;
} bench;

static void bench_open(bench *b, const setup *s) {
    *b = (bench){0};
    device_options o = {.compute = s->compute, .n_threads = s->threads};
    b->dev = s->bytes ? device_open(&b->host, s->backend, &o)
                      : device_open_null(&b->host, s->backend, &o);
    assert_non_null(b->dev);
    device_arena_open(b->dev, s->bytes);
    assert_int_equal(video_vae_init(&b->vae, &s->cfg, &b->host.err), OVI_OK);
    if (s->path) {
        assert_int_equal(weights_open(&b->files, s->path, &b->host.err), OVI_OK);
        assert_int_equal(weight_table_bind(&b->vae.weights, b->files, &b->host.err),
                         OVI_OK);
    }
    b->store = store_create(b->dev, &b->host.err);
    assert_non_null(b->store);
    store_add(b->store, 0, &b->vae.weights);
    assert_int_equal(store_enter(b->store, &(store_needs){.parts = {s->parts}}), OVI_OK);
}

static void bench_close(bench *b) {
    store_free(b->store);
    video_vae_release(&b->vae);
    weights_close(b->files);
    device_close(b->dev);
}

/* Decodes to [T, H, W, 3] (NULL: dropped); returns the number of frames. */
static int64_t decode(bench *b, const float *latents, video_size size, float *clip) {
    video_decoder s;
    int64_t n = 0;
    video_decode_begin(&s, &b->vae, b->dev, latents, size);
    for (int64_t i = 0; i < size.frames && !device_failed(b->dev); i++) {
        size_t mark = arena_mark(b->dev);
        tensor frames = video_decode_next(&s);
        if (clip && device_read(b->dev, clip + n * FRAME_COUNT, &frames) != OVI_OK)
            break;
        n += frames.dim[0];
        arena_reset(b->dev, mark);
    }
    return n;
}

static setup small_setup(const backend *on, dtype compute, int threads) {
    return (setup){.backend = on,
                   .compute = compute,
                   .threads = threads,
                   .cfg = small_config(),
                   .path = WEIGHTS_FILE,
                   .parts = STORE_ALL_PARTS};
}

/* Runs the clip of the first n latent frames of [F, Z, h, w] in its own arena, sized by a
 * dry run; returns the peaks' agreement through asserts. */
static void decode_alone(setup s, const float *frames_first, int64_t n, float *clip) {
    float latents[LATENT_COUNT];
    int64_t plane = HEIGHT * WIDTH;
    for (int64_t f = 0; f < n; f++)
        for (int64_t z = 0; z < Z; z++)
            memcpy(latents + (z * n + f) * plane, frames_first + (f * Z + z) * plane,
                   (size_t)plane * sizeof *latents);
    bench b;
    video_size size = {n, HEIGHT, WIDTH};
    s.bytes = 0;
    bench_open(&b, &s);
    assert_int_equal(decode(&b, NULL, size, NULL), 1 + 4 * (n - 1));
    s.bytes = device_get_memory(b.dev).arena_peak;
    bench_close(&b);
    bench_open(&b, &s);
    assert_int_equal(decode(&b, latents, size, clip), 1 + 4 * (n - 1));
    assert_int_equal(device_get_memory(b.dev).arena_peak, s.bytes);
    assert_int_equal(device_get_memory(b.dev).arena_scratch, 0);
    bench_close(&b);
}

/* Encodes a clip of n frames in an arena sized by a dry run. */
static void encode_alone(setup s, const float *video, int64_t n, float *latents) {
    bench b;
    video_size size = {n, TALL, WIDE};
    s.bytes = 0;
    bench_open(&b, &s);
    assert_int_equal(video_encode(&b.vae, b.dev, NULL, size, latents), OVI_OK);
    s.bytes = device_get_memory(b.dev).arena_peak;
    bench_close(&b);
    bench_open(&b, &s);
    assert_int_equal(video_encode(&b.vae, b.dev, video, size, latents), OVI_OK);
    assert_int_equal(device_get_memory(b.dev).arena_peak, s.bytes);
    assert_int_equal(device_get_memory(b.dev).arena_scratch, 0);
    bench_close(&b);
}

/* Calls run for every backend and compute type of this build. */
static void for_each_setup(void (*run)(const setup *s)) {
    static const char *const names[] = {"ref", "cpu"};
    for (size_t i = 0; i < 2; i++) {
        const backend *found = backend_find(names[i]);
        if (!found)
            continue;
        setup f32 = small_setup(found, DTYPE_F32, 1);
        setup bf16 = small_setup(found, DTYPE_BF16, 1);
        run(&f32);
        run(&bf16);
    }
}

static void assert_same_floats(const float *a, const float *b, size_t n) {
    assert_memory_equal(a, b, n * sizeof *a);
}

/* The same bits where the backend keeps rows of products apart, else the same but for
 * rounding: for values that were computed beside more or fewer others. */
static void assert_same_values(const setup *s, const float *a, const float *b, size_t n) {
    float limit = s->compute == DTYPE_BF16 ? 0.05f : 1e-5f;
    if (s->backend->rows_exact())
        assert_same_floats(a, b, n);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(a[i] - b[i]) <= limit * fmaxf(1, fabsf(b[i])));
}

static float largest(const float *x, size_t n) {
    float m = 0;
    for (size_t i = 0; i < n; i++)
        m = fmaxf(m, fabsf(x[i]));
    return m;
}

/* ------------------------------------------------------------------------- tests ---- */

static void check_prefix(const setup *s) {
    static float latents[LATENT_COUNT], whole[CLIP_COUNT], part[CLIP_COUNT];
    fill_random(latents, LATENT_COUNT, 3);
    decode_alone(*s, latents, FRAMES, whole);
    assert_true(largest(whole, CLIP_COUNT) > 0.1f && largest(whole, CLIP_COUNT) <= 1.0f);
    for (int64_t n = 1; n < FRAMES; n++) {
        decode_alone(*s, latents, n, part);
        assert_same_values(s, part, whole, (size_t)((1 + 4 * (n - 1)) * FRAME_COUNT));
    }
}

static void later_latents_do_not_change_earlier_frames(void **state) {
    (void)state;
    for_each_setup(check_prefix);
}

static void check_past(const setup *s) {
    static float latents[LATENT_COUNT], a[CLIP_COUNT], b[CLIP_COUNT];
    fill_random(latents, LATENT_COUNT, 3);
    decode_alone(*s, latents, FRAMES, a);
    fill_random(latents, LATENT_COUNT / FRAMES, 4); /* another first frame */
    decode_alone(*s, latents, FRAMES, b);
    const size_t last = (size_t)(CLIP_FRAMES - 1) * FRAME_COUNT;
    assert_memory_not_equal(a + last, b + last, FRAME_COUNT * sizeof *a);
}

static void earlier_latents_change_later_frames(void **state) {
    (void)state;
    for_each_setup(check_past);
}

static void check_two_clips(const setup *s) {
    static float latents[2][LATENT_COUNT], alone[CLIP_COUNT], second[CLIP_COUNT];
    fill_random(latents[0], LATENT_COUNT, 5);
    fill_random(latents[1], LATENT_COUNT, 6);
    setup big = *s;
    big.bytes = (size_t)64 << 20;
    video_size size = {FRAMES, HEIGHT, WIDTH};
    bench b;
    bench_open(&b, &big);
    decode(&b, latents[1], size, alone);
    bench_close(&b);
    bench_open(&b, &big);
    for (int i = 0; i < 2; i++) {
        decode(&b, latents[i], size, second);
        device_arena_close(b.dev);
        device_arena_open(b.dev, big.bytes);
    }
    bench_close(&b);
    assert_same_floats(second, alone, CLIP_COUNT);
}

static void nothing_of_a_clip_reaches_the_next(void **state) {
    (void)state;
    for_each_setup(check_two_clips);
}

static void check_image(const setup *s) {
    static float video[CLIP_COUNT], image[FRAME_COUNT];
    static float of_video[LATENT_COUNT], of_image[LATENT_COUNT / FRAMES];
    fill_random(video, CLIP_COUNT, 8);
    for (int64_t c = 0; c < 3; c++) /* frame 0 of [3, T, H, W] */
        memcpy(image + c * TALL * WIDE, video + c * CLIP_FRAMES * TALL * WIDE,
               TALL * WIDE * sizeof *image);
    encode_alone(*s, video, CLIP_FRAMES, of_video);
    encode_alone(*s, image, 1, of_image);
    assert_true(largest(of_image, LATENT_COUNT / FRAMES) > 0.01f);
    for (int64_t z = 0; z < Z; z++)
        assert_same_values(s, of_image + z * HEIGHT * WIDTH,
                           of_video + z * FRAMES * HEIGHT * WIDTH, HEIGHT * WIDTH);
}

static void an_image_is_the_first_latent_of_its_video(void **state) {
    (void)state;
    for_each_setup(check_image);
}

static void check_threads(const setup *s) {
    static float input[CLIP_COUNT], one[CLIP_COUNT], many[CLIP_COUNT];
    fill_random(input, CLIP_COUNT, 9);
    for (int pass = 0; pass < 2; pass++) {
        void (*run)(setup, const float *, int64_t, float *) =
            pass == 0 ? decode_alone : encode_alone;
        const int64_t n = pass == 0 ? FRAMES : CLIP_FRAMES;
        const size_t count = pass == 0 ? CLIP_COUNT : LATENT_COUNT;
        run(*s, input, n, one);
        for (int threads = 2; threads <= 4; threads += 2) {
            setup t = *s;
            t.threads = threads;
            run(t, input, n, many);
            assert_same_floats(many, one, count);
        }
    }
}

static void thread_count_does_not_change_a_bit(void **state) {
    (void)state;
    for_each_setup(check_threads);
}

/* The published model, counted without files. */
static setup published_setup(uint64_t parts) {
    return (setup){.backend = backend_find("ref"),
                   .compute = DTYPE_BF16,
                   .threads = 1,
                   .cfg = video_vae_config_published(),
                   .parts = parts};
}

static void published_model_has_its_tensors_and_parameters(void **state) {
    (void)state;
    err e = {0};
    video_vae v;
    video_vae_config cfg = video_vae_config_published();
    assert_int_equal(video_vae_init(&v, &cfg, &e), OVI_OK);
    assert_int_equal(v.weights.n, 196);
    int64_t sum[VIDEO_VAE_ENCODER + 1] = {0};
    for (int i = 0; i < v.weights.n; i++)
        sum[v.weights.row[i].spec.part_of] += shape_count(&v.weights.row[i].spec.placed);
    assert_int_equal(sum[VIDEO_VAE_DECODER_FRONT] + sum[VIDEO_VAE_DECODER_UP0] +
                         sum[VIDEO_VAE_DECODER_BACK],
                     555049228 + 2352);
    assert_int_equal(sum[VIDEO_VAE_ENCODER], 149627776 + 9312);
    video_vae_release(&v);
}

/* spec/video-vae.md 5 and 8: the memories of 704x704 take 1,768,729,600 bytes with
 * those of conv1 (2 frames of 48 channels), which reads the kept latents instead.
 * Activations are largest in the first block of up 3: 512 (4 + 6) + 256 * 4 channels of
 * 352x352. */
static void published_decode_takes_the_memory_it_should(void **state) {
    (void)state;
    const size_t latents = (size_t)31 * 44 * 44 * 48 * 2,
                 conv1 = (size_t)2 * 44 * 44 * 48 * 2,
                 ahead = (size_t)2 * VIDEO_AHEAD * 44 * 44 * 1024 * 2;
    const size_t block = (size_t)(512 * 10 + 256 * 4) * 352 * 352 * 2;
    setup s = published_setup(VIDEO_VAE_DECODER_PARTS);
    bench b;
    bench_open(&b, &s);
    assert_int_equal(decode(&b, NULL, (video_size){31, 44, 44}, NULL), 121);
    device_memory m = device_get_memory(b.dev);
    bench_close(&b);
    assert_int_equal(m.arena_keep_peak, 1768729600 - conv1 + latents + ahead);
    assert_int_equal(m.arena_scratch_peak, block);
    assert_int_equal(m.arena_peak, m.arena_keep_peak + block);
}

/* Three tensors of 160 channels are live in down 0, beside the results of the stages:
 * 1/4, 1/8, 1/16 and 1/16 of one. */
static void published_image_encode_keeps_no_memories(void **state) {
    (void)state;
    const size_t stage = (size_t)160 * 352 * 352 * 2;
    float *latents = malloc((size_t)48 * 44 * 44 * sizeof *latents);
    assert_non_null(latents);
    setup s = published_setup((uint64_t)1 << VIDEO_VAE_ENCODER);
    bench b;
    bench_open(&b, &s);
    video_size size = {1, 704, 704};
    assert_int_equal(video_encode(&b.vae, b.dev, NULL, size, latents), OVI_OK);
    device_memory m = device_get_memory(b.dev);
    bench_close(&b);
    free(latents);
    assert_int_equal(m.arena_keep_peak, 44 * 44 * 96 * 2);
    assert_int_equal(m.arena_scratch_peak, 3 * stage + stage / 4 + stage / 8 + stage / 8);
}

static void sizes_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const video_size bad[] = {{2, 32, 32}, {4, 32, 32}, {0, 32, 32}, {-3, 32, 32},
                                     {1, 24, 32}, {1, 32, 40}, {1, 0, 16}};
    float latents[Z] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setup s = small_setup(backend_find("ref"), DTYPE_F32, 1);
        bench b;
        bench_open(&b, &s);
        assert_int_equal(video_encode(&b.vae, b.dev, NULL, bad[i], latents),
                         OVI_ARGUMENT);
        assert_non_null(strstr(b.host.err.text, "4k+1 frames of multiples of 16"));
        bench_close(&b);
    }
    setup s = small_setup(backend_find("ref"), DTYPE_F32, 1);
    bench b;
    video_decoder decoder;
    bench_open(&b, &s);
    video_decode_begin(&decoder, &b.vae, b.dev, NULL, (video_size){0, 3, 2});
    assert_null(video_decode_next(&decoder).data);
    assert_int_equal(b.host.err.status, OVI_ARGUMENT);
    bench_close(&b);
}

/* Every allocation of the arena is the one that fails, once. */
static void a_device_that_fails_anywhere_is_walked_through(void **state) {
    (void)state;
    static float input[CLIP_COUNT], output[CLIP_COUNT];
    fill_random(input, CLIP_COUNT, 10);
    setup s = small_setup(backend_find("ref"), DTYPE_F32, 1);
    size_t peak[2] = {0};
    for (s.bytes = 64; s.bytes < (size_t)4 << 20; s.bytes += s.bytes / 5 + 64) {
        bench b;
        bench_open(&b, &s);
        decode(&b, input, (video_size){FRAMES, HEIGHT, WIDTH}, output);
        bool decoded = !device_failed(b.dev);
        peak[0] = decoded ? peak[0] : s.bytes;
        assert_int_equal(b.host.err.status, decoded ? OVI_OK : OVI_INTERNAL);
        bench_close(&b);
        bench_open(&b, &s);
        video_size pixels = {CLIP_FRAMES, TALL, WIDE};
        ovi_status status = video_encode(&b.vae, b.dev, input, pixels, output);
        peak[1] = status == OVI_OK ? peak[1] : s.bytes;
        assert_true(status == OVI_OK || status == OVI_INTERNAL);
        bench_close(&b);
    }
    assert_true(peak[0] > 100000 && peak[1] > 100000); /* late failures, too */
    assert_true(peak[0] < (size_t)2 << 20 && peak[1] < (size_t)2 << 20);
}

static void asking_for_too_many_groups_is_refused(void **state) {
    (void)state;
    setup s = small_setup(backend_find("ref"), DTYPE_F32, 1);
    bench b;
    video_decoder decoder;
    bench_open(&b, &s);
    video_decode_begin(&decoder, &b.vae, b.dev, NULL, (video_size){1, 3, 2});
    assert_non_null(video_decode_next(&decoder).data);
    assert_null(video_decode_next(&decoder).data);
    assert_int_equal(b.host.err.status, OVI_INTERNAL);
    bench_close(&b);
}

/* Reads text as a configuration; the sentence stands in e. */
static ovi_status read_config(const char *text, video_vae_config *cfg, err *e) {
    *e = (err){0};
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(json);
    ovi_status status = video_vae_config_from_json(cfg, json, e);
    json_decref(json);
    return status;
}

#define SIZES                                                                            \
    "\"dim\": 8, \"dec_dim\": 12, \"num_res_blocks\": 2, \"patch_size\": 2, "            \
    "\"dim_mult\": [1, 2, 4, 4]"
#define TIME "\"temporal_downsample\": [false, true, true]"

static void configuration_is_read(void **state) {
    (void)state;
    err e;
    video_vae_config cfg;
    assert_int_equal(read_config("{" SIZES ", " TIME
                                 ", \"z_dim\": 2, \"mean\": [0.5, -1], "
                                 "\"std\": [2, 0.25]}",
                                 &cfg, &e),
                     OVI_OK);
    assert_int_equal(cfg.dec_dim, 12);
    assert_int_equal(video_vae_space(&cfg), 16);
    assert_int_equal(video_vae_time(&cfg), 4);
    assert_true(cfg.mean[1] == -1.0f && cfg.std[1] == 0.25f);
    assert_int_equal(read_config("{" SIZES ", " TIME ", \"z_dim\": 48}", &cfg, &e),
                     OVI_OK);
    assert_true(cfg.mean[47] == -0.0667f && cfg.std[0] == 0.4765f);
}

static void bad_configuration_is_refused_by_key(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"[1]", "object"},
        {"{}", "dim "},
        {"{" SIZES ", " TIME ", \"z_dim\": 0}", "z_dim"},
        {"{" SIZES ", " TIME ", \"z_dim\": 1.5}", "z_dim"},
        {"{" SIZES ", " TIME ", \"z_dim\": 9999999}", "z_dim"},
        {"{" SIZES ", " TIME ", \"z_dim\": 1000000}", "z_dim"},
        {"{" SIZES ", " TIME ", \"z_dim\": 8}", "mean"},
        {"{" SIZES ", " TIME ", \"z_dim\": 1, \"mean\": [0], \"std\": [0]}", "std"},
        {"{" SIZES ", " TIME ", \"z_dim\": 1, \"mean\": [0], \"std\": [1e99]}", "std"},
        {"{" SIZES ", " TIME ", \"z_dim\": 1, \"mean\": [\"x\"], \"std\": [1]}", "mean"},
        {"{" SIZES ", " TIME ", \"z_dim\": 48, \"dims\": 1}", "unknown key dims"},
        {"{" SIZES ", \"temporal_downsample\": [1, 0, 1], \"z_dim\": 48}",
         "temporal_downsample"},
        {"{" SIZES ", \"temporal_downsample\": [true], \"z_dim\": 48}",
         "temporal_downsample"},
        {"{\"dim\": 8, \"dec_dim\": 8, \"num_res_blocks\": 99, \"patch_size\": 2, "
         "\"dim_mult\": [1, 2, 4, 4], " TIME ", \"z_dim\": 48}",
         "num_res_blocks"},
        {"{\"dim\": 8, \"dec_dim\": 8, \"num_res_blocks\": 2, \"patch_size\": 2, "
         "\"dim_mult\": [1, 2, 4, 5], " TIME ", \"z_dim\": 48}",
         "dim_mult"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        err e;
        video_vae_config cfg;
        assert_int_equal(read_config(cases[i].text, &cfg, &e), OVI_ARGUMENT);
        if (!strstr(e.text, cases[i].word))
            fail_msg("%s: expected %s in: %s", cases[i].text, cases[i].word, e.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(later_latents_do_not_change_earlier_frames),
        cmocka_unit_test(earlier_latents_change_later_frames),
        cmocka_unit_test(nothing_of_a_clip_reaches_the_next),
        cmocka_unit_test(an_image_is_the_first_latent_of_its_video),
        cmocka_unit_test(thread_count_does_not_change_a_bit),
        cmocka_unit_test(published_model_has_its_tensors_and_parameters),
        cmocka_unit_test(published_decode_takes_the_memory_it_should),
        cmocka_unit_test(published_image_encode_keeps_no_memories),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(a_device_that_fails_anywhere_is_walked_through),
        cmocka_unit_test(asking_for_too_many_groups_is_refused),
        cmocka_unit_test(configuration_is_read),
        cmocka_unit_test(bad_configuration_is_refused_by_key),
    };
    return cmocka_run_group_tests(tests, write_weights, remove_weights);
}
