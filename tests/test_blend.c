/* The last resort of decoding: parts that overlap and are blended. How near the picture stays
 * to the one decoded whole, on the trained small model; that it is said; and that the stage
 * takes what was planned. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stages.h"

#define MODELS     TEST_DATA "/../../models/tiny"
#define PLAIN      0
#define EXACT      1 /* two tiles */
#define BLENDED    5
#define LEAST_PSNR 36.0 /* dB; measured: 40.7, of nine frames 46.2 */

typedef struct clip {
    uint8_t *rgb;
    size_t n, room;
    int notices; /* "pixels change" */
} clip;

static void take_line(void *user, ovi_log_level level, const char *line) {
    clip *c = *(clip **)user;
    if (c && level == OVI_LOG_WARN && strstr(line, "pixels change"))
        c->notices++;
}

static int take_frames(void *user, const uint8_t *rgb, int n, int width, int height) {
    clip *c = user;
    size_t bytes = (size_t)n * (size_t)width * (size_t)height * 3;
    assert_true(c->n + bytes <= c->room);
    memcpy(c->rgb + c->n, rgb, bytes);
    c->n += bytes;
    return 0;
}

static clip *current; /* that is being decoded, for the log */

static ovi_engine *open_models(void) {
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = MODELS;
    settings.dtype = "f32";
    settings.threads = 2;
    settings.log = take_line;
    settings.log_user = &current;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    return engine;
}

/* The first frame of a generated clip, mirrored to twice its sides: large enough for parts. */
static ovi_latents make_latents(ovi_engine *engine, const ovi_request *request) {
    ovi_latents made, large = {.owned = 1};
    ovi_text text;
    ovi_shape s;
    assert_int_equal(ovi_resolve(engine, request, &s), OVI_OK);
    for (int i = 0; i < 3; i++)
        text.data[i] = calloc((size_t)s.text_rows * (size_t)s.text_dim, sizeof(float));
    assert_int_equal(ovi_latents_alloc(engine, request, &made), OVI_OK);
    assert_int_equal(ovi_encode_text(engine, request, &text, NULL), OVI_OK);
    assert_int_equal(ovi_diffuse(engine, request, &text, NULL, &made, NULL), OVI_OK);
    const int z = s.video[0], f = 1, h = s.video[2], w = s.video[3];
    memcpy(large.video_shape, (int[]){z, f, 2 * h, 2 * w}, sizeof large.video_shape);
    large.video = calloc((size_t)(z * f * 4 * h * w), sizeof(float));
    for (int c = 0; c < z; c++)
        for (int t = 0; t < f; t++)
            for (int y = 0; y < 2 * h; y++)
                for (int x = 0; x < 2 * w; x++) {
                    int from_y = y < h ? y : 2 * h - 1 - y,
                        from_x = x < w ? x : 2 * w - 1 - x;
                    large.video[((c * f + t) * 2 * h + y) * 2 * w + x] =
                        made.video[((c * s.video[1] + t) * h + from_y) * w + from_x];
                }
    for (int i = 0; i < 3; i++)
        free(text.data[i]);
    ovi_latents_release(&made);
    return large;
}

/* Decodes in the given way of the list. */
static clip decode(ovi_engine *engine, const ovi_request *request,
                   const ovi_latents *latents, int way) {
    job j;
    clip c = {.room = (size_t)3 * 256 * 256};
    ovi_sinks sinks = {.user = &c, .frames = take_frames};
    ovi_report report;
    c.rgb = malloc(c.room);
    current = &c;
    assert_int_equal(call_begin_stage(&j, engine, request, &sinks, STAGE_DECODE_VIDEO),
                     OVI_OK);
    job_set_latents(&j, latents);
    j.least_way[STAGE_DECODE_VIDEO] = way;
    if (stage_run(&j, STAGE_DECODE_VIDEO) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    assert_int_equal(call_end(&j, engine), OVI_OK);
    ovi_get_report(engine, &report);
    assert_int_equal(report.stage[0].planned_peak_bytes,
                     report.stage[0].measured_peak_bytes);
    assert_int_equal(report.allocated_bytes, 0);
    assert_int_equal(c.n, c.room);
    current = NULL;
    return c;
}

static double psnr(const clip *a, const clip *b) {
    double sum = 0;
    for (size_t i = 0; i < a->n; i++)
        sum += pow((double)a->rgb[i] - (double)b->rgb[i], 2);
    return 10 * log10(255.0 * 255.0 / (sum / (double)a->n));
}

static void blended_tiles_are_near_and_said(void **state) {
    (void)state;
    ovi_engine *engine = open_models();
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = "a green star bouncing on a dark floor, with thumps";
    request.steps = 4;
    request.slg_layer = 1;
    ovi_latents latents = make_latents(engine, &request);
    clip whole = decode(engine, &request, &latents, PLAIN);
    clip exact = decode(engine, &request, &latents, EXACT);
    clip blended = decode(engine, &request, &latents, BLENDED);
    const double near = psnr(&whole, &blended);
    print_message("blended: PSNR %.2f dB\n", near);
    assert_true(near >= LEAST_PSNR);
    assert_memory_not_equal(whole.rgb, blended.rgb, whole.n); /* it was blended */
    if (device_backend(engine->dev)->rows_exact())
        assert_memory_equal(whole.rgb, exact.rgb, whole.n);
    assert_int_equal(whole.notices + exact.notices, 0);
    assert_int_equal(blended.notices, 1);
    free(whole.rgb);
    free(exact.rgb);
    free(blended.rgb);
    ovi_latents_release(&latents);
    ovi_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blended_tiles_are_near_and_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
