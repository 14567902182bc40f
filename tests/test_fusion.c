/* test_fusion.c: what must hold for the fusion model whatever its weights: a small random
 * model is written to a file and run on every backend of this build. */
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

#include "fusion/fusion.h"
#include "model_fixture.h"

#define WEIGHTS_FILE OVI_BINARY_DIR "/test_fusion.safetensors"
#define ARENA_BYTES  ((size_t)1 << 28) /* more than any run here takes */

/* ------------------------------------------------------------------ a small model ---- */

/* 300 video tokens: more than one tile of a linear layer. */
enum { FRAMES = 3, HEIGHT = 20, WIDTH = 20, AUDIO = 11, TEXT_LEN = 12, TEXT_DIM = 20 };

static fusion_config small_config(void) {
    const fusion_stream_config common = {.dim = 48,
                                         .num_heads = 2,
                                         .num_layers = 3,
                                         .ffn_dim = 72,
                                         .freq_dim = 16,
                                         .text_dim = TEXT_DIM,
                                         .text_len = TEXT_LEN,
                                         .eps = 1e-6,
                                         .temporal_rope_scaling_factor = 1};
    fusion_config cfg = {{common, common}};
    fusion_stream_config *video = &cfg.stream[FUSION_VIDEO];
    fusion_stream_config *audio = &cfg.stream[FUSION_AUDIO];
    video->in_dim = video->out_dim = 4;
    video->patch[0] = 1;
    video->patch[1] = video->patch[2] = 2;
    audio->in_dim = audio->out_dim = 5;
    audio->patch[0] = audio->patch[1] = audio->patch[2] = 1;
    audio->temporal_rope_scaling_factor = 0.25;
    return cfg;
}

/* Gains about 1, the rest about 0, products of about unit size. */
static row_values values_of(const weight *row) {
    const weight_part *part = &row->spec.part[0];
    const bool gain = strstr(part->name, "norm") && strstr(part->name, ".weight");
    const int64_t fan_in =
        row->spec.use == WEIGHT_VECTOR ? 9 : shape_count(&part->dims) / part->dims.dim[0];
    return (row_values){gain ? 1.0f : 0.0f, 1.5f / sqrtf((float)fan_in)};
}

static int write_weights(void **state) {
    (void)state;
    err e = {0};
    fusion m;
    const fusion_config cfg = small_config();
    assert_int_equal(fusion_init(&m, &cfg, &e), OVI_OK);
    write_rows(&m.weights, WEIGHTS_FILE, DTYPE_BF16, values_of, 7);
    fusion_release(&m);
    return 0;
}

static int remove_weights(void **state) {
    (void)state;
    return unlink(WEIGHTS_FILE);
}

/* --------------------------------------------------------------------- running it ---- */

/* How one run is set up; zero: f32, one thread, one branch, nothing special. */
typedef struct setup {
    const backend *backend;
    dtype compute;
    int threads;
    bool dry, traced;
    uint64_t without;      /* parts that are left out of what a call needs */
    bool streamed;         /* all parts that can be */
    fusion_clip_desc desc; /* sizes and texts are filled in where they are 0 */
    int step;
} setup;

enum { VIDEO_COUNT = 4 * FRAMES * HEIGHT * WIDTH, AUDIO_COUNT = AUDIO * 5 };

/* What came out. */
typedef struct result {
    ovi_status status;
    char text[ERR_TEXT_MAX];
    float video[FUSION_MAX_BRANCHES][VIDEO_COUNT];
    float audio[FUSION_MAX_BRANCHES][AUDIO_COUNT];
    size_t arena_peak, scratch_peak;
    device_counters counters;
    int taps_in_block1;
} result;

static float text_features[FUSION_MAX_BRANCHES][TEXT_LEN * TEXT_DIM];
static const double one_timestep[] = {613.25};

static void complete(setup *s) {
    fusion_clip_desc *d = &s->desc;
    if (d->frames == 0)
        d->frames = FRAMES;
    if (d->height == 0)
        d->height = HEIGHT;
    d->width = WIDTH;
    d->audio_len = AUDIO;
    if (!d->timesteps) {
        d->timesteps = one_timestep;
        d->n_steps = 1;
    }
    if (d->n_branches == 0)
        d->n_branches = 1;
    for (int i = 0; i < FUSION_MAX_BRANCHES; i++)
        fill_random(text_features[i], TEXT_LEN * TEXT_DIM, (uint64_t)i);
    for (int b = 0; b < FUSION_MAX_BRANCHES; b++)
        for (int k = 0; k < FUSION_STREAMS; k++)
            if (d->branch[b].text[k].n == 0)
                d->branch[b].text[k] = (fusion_text){text_features[b], 5 + 2 * b};
}

static void count_tap(void *user, device *d, const char *name, const tensor *t) {
    (void)d;
    (void)t;
    *(int *)user += strncmp(name, "block1.", 7) == 0;
}

static void run_step(const fusion_clip *clip, const setup *s, result *r) {
    device *d = clip->at.dev;
    static float latent[VIDEO_COUNT];
    fusion_pass pass = {.step = s->step};
    pass.latent[FUSION_VIDEO] = arena_push(d, DTYPE_F32, SHAPE(4, FRAMES, HEIGHT, WIDTH));
    pass.latent[FUSION_AUDIO] = arena_push(d, DTYPE_F32, SHAPE(AUDIO, 5));
    for (int k = 0; k < FUSION_STREAMS; k++) {
        fill_random(latent, VIDEO_COUNT, 100 + (uint64_t)k);
        device_put_f32(d, &pass.latent[k], latent);
        for (int b = 0; b < s->desc.n_branches; b++)
            pass.velocity[b][k] = arena_push(d, DTYPE_F32, tensor_shape(&pass.latent[k]));
    }
    fusion_velocity(clip, &pass);
    for (int b = 0; b < s->desc.n_branches && !device_failed(d); b++) {
        r->status = device_get_f32(d, r->video[b], &pass.velocity[b][FUSION_VIDEO]);
        r->status = device_get_f32(d, r->audio[b], &pass.velocity[b][FUSION_AUDIO]);
    }
}

/* Just the parts that a call is said to need, in slots where they can be. */
static void enter(const fusion_place *at, const setup *s, uint64_t parts) {
    store_needs needs = {.parts = {[3] = parts & ~s->without}};
    if (s->streamed)
        needs.streamed[3] =
            needs.parts[3] & ~((uint64_t)1 << fusion_part_step(&at->model->cfg));
    assert_int_equal(store_enter(at->store, &needs), OVI_OK);
}

static void run_model(const fusion_place *at, const setup *s, result *r) {
    fusion_clip clip;
    device *d = at->dev;
    if (s->traced)
        device_set_trace(d, true, count_tap, &r->taps_in_block1);
    device_arena_open(d, s->dry ? 0 : ARENA_BYTES);
    enter(at, s, fusion_parts_prepare(at->model));
    fusion_prepare(at, &s->desc, &clip);
    if (!device_failed(d)) {
        enter(at, s, fusion_parts_steps(at->model));
        run_step(&clip, s, r);
    }
    r->arena_peak = device_get_memory(d).arena_peak;
    r->scratch_peak = device_get_memory(d).arena_scratch_peak;
    r->counters = *device_get_counters(d);
    device_arena_close(d);
}

/* Runs one prepared step; the result is owned by the caller. */
static result *run(setup s) {
    host h = {0};
    fusion m;
    weights *files = NULL;
    result *r = calloc(1, sizeof *r);
    assert_non_null(r);
    complete(&s);
    const fusion_config cfg = small_config();
    const device_options o = {.compute = s.compute ? s.compute : DTYPE_F32,
                              .n_threads = s.threads ? s.threads : 1};
    assert_int_equal(fusion_init(&m, &cfg, &h.err), OVI_OK);
    assert_int_equal(weights_open(&files, WEIGHTS_FILE, &h.err), OVI_OK);
    assert_int_equal(weight_table_bind(&m.weights, files, &h.err), OVI_OK);
    device *d =
        s.dry ? device_open_null(&h, s.backend, &o) : device_open(&h, s.backend, &o);
    assert_non_null(d);
    store *st = store_create(d, &h.err);
    assert_non_null(st);
    store_add(st, 3, &m.weights);
    run_model(&(fusion_place){&m, st, 3, d}, &s, r);
    r->status = h.err.status;
    memcpy(r->text, h.err.text, sizeof r->text);
    store_free(st);
    assert_int_equal(device_get_memory(d).allocated, 0);
    device_close(d);
    weights_close(files);
    fusion_release(&m);
    return r;
}

static result *run_ok(setup s) {
    result *r = run(s);
    if (r->status != OVI_OK)
        fail_msg("%s", r->text);
    return r;
}

/* Every backend of this build, f32 and bf16. */
static int all_setups(setup out[4]) {
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16};
    static const char *const names[] = {"ref", "cpu"};
    int n = 0;
    for (int i = 0; i < 4; i++)
        if (backend_find(names[i / 2]))
            out[n++] =
                (setup){.backend = backend_find(names[i / 2]), .compute = types[i % 2]};
    return n;
}

static bool same_branch(const result *a, int branch_a, const result *b, int branch_b) {
    return memcmp(a->video[branch_a], b->video[branch_b], sizeof a->video[0]) == 0 &&
           memcmp(a->audio[branch_a], b->audio[branch_b], sizeof a->audio[0]) == 0;
}

static double distance(const float *a, const float *b, int64_t n) {
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(diff / norm);
}

/* Relative L2 distance of the worse stream of branch 0. */
static double result_distance(const result *a, const result *b) {
    const double video = distance(a->video[0], b->video[0], VIDEO_COUNT);
    const double audio = distance(a->audio[0], b->audio[0], AUDIO_COUNT);
    return video > audio ? video : audio;
}

/* ---------------------------------------------------------------------- declaring ---- */

static void published_sizes_declare_the_published_tensors(void **state) {
    (void)state;
    err e = {0};
    fusion m;
    const fusion_config cfg = fusion_config_published();
    assert_int_equal(fusion_init(&m, &cfg, &e), OVI_OK);
    int64_t parameters = 0, in_block7[FUSION_STREAMS] = {0};
    int tensors[FUSION_STREAMS] = {0}, tensors_in_block7[FUSION_STREAMS] = {0};
    for (int i = 0; i < m.weights.n; i++) {
        const weight_part *part = &m.weights.row[i].spec.part[0];
        const int s =
            strncmp(part->name, "video_model.", 12) == 0 ? FUSION_VIDEO : FUSION_AUDIO;
        parameters += shape_count(&part->dims);
        tensors[s]++;
        const bool block7 = strncmp(part->name + 12, "blocks.7.", 9) == 0;
        const int of = m.weights.row[i].spec.part_of;
        assert_int_equal(block7, of == 7 || of == fusion_part_text(&cfg, 7));
        in_block7[s] += block7 ? shape_count(&part->dims) : 0;
        tensors_in_block7[s] += block7;
    }
    assert_int_equal(m.weights.n, 2073);
    assert_int_equal(tensors[FUSION_VIDEO], 1035);
    assert_int_equal(parameters, 11660753108);
    for (int s = 0; s < FUSION_STREAMS; s++) {
        assert_int_equal(tensors_in_block7[s], 34);
        assert_int_equal(in_block7[s], 182546432);
    }
    fusion_release(&m);
}

/* spec/fusion.md 8: 236.6 TFLOP a forward of 704x704 and 5 s with 512 text tokens, text
 * keys and values not counted; the dry run computes nothing. */
static void a_published_step_costs_what_the_network_needs(void **state) {
    (void)state;
    host h = {0};
    fusion m;
    fusion_clip clip;
    const fusion_config cfg = fusion_config_published();
    const device_options o = {.compute = DTYPE_BF16};
    fusion_clip_desc desc = {.frames = 31,
                             .height = 44,
                             .width = 44,
                             .audio_len = 157,
                             .n_steps = 1,
                             .timesteps = one_timestep,
                             .n_branches = 2};
    for (int b = 0; b < 2; b++)
        for (int s = 0; s < FUSION_STREAMS; s++)
            desc.branch[b].text[s].n = 512;
    assert_int_equal(fusion_init(&m, &cfg, &h.err), OVI_OK);
    device *d = device_open_null(&h, backend_find("ref"), &o);
    store *st = store_create(d, &h.err);
    store_add(st, 0, &m.weights);
    store_needs needs = {.parts = {STORE_ALL_PARTS}};
    assert_int_equal(store_enter(st, &needs), OVI_OK);
    device_arena_open(d, 0);
    fusion_prepare(&(fusion_place){&m, st, 0, d}, &desc, &clip);
    fusion_pass pass = {.latent = {arena_push(d, DTYPE_F32, SHAPE(48, 31, 44, 44)),
                                   arena_push(d, DTYPE_F32, SHAPE(157, 20))}};
    for (int b = 0; b < 2; b++)
        for (int s = 0; s < FUSION_STREAMS; s++)
            pass.velocity[b][s] = arena_push(d, DTYPE_F32, tensor_shape(&pass.latent[s]));
    device_reset_counters(d);
    fusion_velocity(&clip, &pass);
    assert_int_equal(h.err.status, OVI_OK);
    const double tera = device_get_counters(d)->flops / 1e12;
    assert_true(tera > 2 * 236.3 && tera < 2 * 236.9);
    /* Residual streams, normed input, q, k, v, or the hidden feed-forward: below 1.3 GB. */
    assert_true(device_get_memory(d).arena_scratch_peak < 1300000000);
    device_arena_close(d);
    store_free(st);
    device_close(d);
    fusion_release(&m);
}

static void assert_equal_steps(const weight_table *t, wref a, wref b, wref c) {
    const char *at[] = {weight_get(t, a)->data, weight_get(t, b)->data,
                        weight_get(t, c)->data};
    assert_true(at[0] && at[1] > at[0] && (at[1] - at[0]) % 16 == 0);
    assert_int_equal(at[2] - at[1], at[1] - at[0]);
}

/* Where a GPU has them, so that it can multiply them as one batch: resident, and in slots. */
static void weights_of_q_k_and_v_lie_in_equal_steps(void **state) {
    (void)state;
    for (int streamed = 0; streamed < 2; streamed++) {
        host h = {0};
        fusion m;
        const fusion_config cfg = fusion_config_published();
        const device_options o = {.compute = DTYPE_BF16};
        assert_int_equal(fusion_init(&m, &cfg, &h.err), OVI_OK);
        device *d = device_open_null(&h, backend_find("cuda"), &o);
        store *st = store_create(d, &h.err);
        store_add(st, 0, &m.weights);
        const uint64_t blocks = ((uint64_t)1 << fusion_part_step(&cfg)) - 1;
        store_needs needs = {.parts = {blocks}, .streamed = {streamed ? blocks : 0}};
        assert_int_equal(store_enter(st, &needs), OVI_OK);
        for (int i = 0; i < 3; i++) {
            store_pin(st, 0, i);
            for (int s = 0; s < FUSION_STREAMS; s++) {
                const fusion_half *w = &m.block[i].half[s];
                assert_equal_steps(&m.weights, w->self.q.weight, w->self.k.weight,
                                   w->self.v.weight);
                assert_equal_steps(&m.weights, w->self.q.bias, w->self.k.bias,
                                   w->self.v.bias);
            }
            store_unpin(st, 0, i);
        }
        assert_int_equal(h.err.status, OVI_OK);
        store_free(st);
        device_close(d);
        fusion_release(&m);
    }
}

/* What is read once per clip: 2.27 GB of text keys and values, and 0.22 GB beside them. */
static void every_weight_is_needed_by_one_call(void **state) {
    (void)state;
    err e = {0};
    fusion m;
    const fusion_config cfg = fusion_config_published();
    assert_int_equal(fusion_init(&m, &cfg, &e), OVI_OK);
    const uint64_t prepare = fusion_parts_prepare(&m), steps = fusion_parts_steps(&m);
    int64_t parameters[2] = {0}, text = 0;
    assert_true((prepare & steps) == 0);
    for (int i = 0; i < m.weights.n; i++) {
        const int part = m.weights.row[i].spec.part_of;
        const int64_t n = shape_count(&m.weights.row[i].spec.placed);
        assert_true(((prepare | steps) >> part & 1) != 0);
        parameters[(steps >> part & 1) != 0] += n;
        text += part >= fusion_part_text(&cfg, 0) ? n : 0;
    }
    const int64_t d = 3072;
    assert_int_equal(text, 30 * 2 * (2 * (d * d + d) + d));
    assert_int_equal(parameters[0] - text, 2 * (4096 * d + d + d * d + d + 256 * d + d +
                                                d * d + d + 6 * (d * d + d)));
    assert_int_equal(parameters[0] + parameters[1], 11660753108);
    fusion_release(&m);
}

static void configuration_errors_name_the_key(void **state) {
    (void)state;
    static const char common[] =
        "\"dim\":48,\"num_heads\":2,\"num_layers\":3,\"ffn_dim\":72,\"freq_dim\":16,"
        "\"text_len\":12,\"in_dim\":4,\"out_dim\":4,\"eps\":1e-6";
    static const struct {
        const char *video, *audio, *named; /* NULL: accepted */
    } cases[] = {
        {"\"patch_size\":[1,2,2]", "", NULL},
        {"\"patch_size\":[1,2,2],\"model_type\":\"ti2v\",\"window_size\":[-1,-1]",
         "\"qk_norm\":true", NULL},
        {"\"patch_size\":[2,2,2]", "", "video.patch_size"},
        {"\"patch_size\":[1,2,65]", "", "video.patch_size"},
        {"\"patch_size\":[1,2,2],\"dim\":0", "", "video.dim"},
        {"\"patch_size\":[1,2,2]", "\"dim\":64", "dim"},
        {"\"patch_size\":[1,2,2]", "\"dim\":\"48\"", "audio.dim"},
        {"\"patch_size\":[1,2,2]", "\"ffn_dim\":1048577", "audio.ffn_dim"},
        {"\"patch_size\":[1,2,2]", "\"text_dim\":-1", "audio.text_dim"},
        {"\"patch_size\":[1,2,2]", "\"eps\":-1e-6", "audio.eps"},
        {"\"patch_size\":[1,2,2]", "\"freq_dim\":15", "freq_dim"},
        {"\"patch_size\":[1,2,2]", "\"qk_norm\":false", "audio.qk_norm"},
        {"\"patch_size\":[1,2,2]", "\"model_type\":\"ti2v\"", "audio.model_type"},
        {"\"patch_size\":[1,2,2]", "\"window_size\":[7,7]", "audio.window_size"},
        {"\"patch_size\":[1,2,2]", "\"heads\":2", "audio.heads"},
        {"\"patch_size\":[1,2,2],\"temporal_rope_scaling_factor\":0.5", "",
         "video.temporal_rope_scaling_factor"},
        {"\"patch_size\":[1,2,2],\"num_heads\":16", "\"num_heads\":16", "num_heads"},
        {"\"patch_size\":[1,2,2],\"num_layers\":32", "\"num_layers\":32", "num_layers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        err e = {0};
        fusion_config cfg;
        snprintf(text, sizeof text,
                 "{\"video\":{%s,%s},\"audio\":{%s,\"patch_size\":[1],"
                 "\"temporal_rope_scaling_factor\":0.2%s%s}}",
                 common, cases[i].video, common, cases[i].audio[0] ? "," : "",
                 cases[i].audio);
        json_t *root = json_loads(text, 0, NULL);
        assert_non_null(root);
        const ovi_status status = fusion_config_from_json(&cfg, root, &e);
        if (!cases[i].named)
            assert_int_equal(status, OVI_OK);
        else if (status == OVI_OK || !strstr(e.text, cases[i].named))
            fail_msg("expected an error about %s, found: %s", cases[i].named, e.text);
        json_decref(root);
    }
    err e = {0};
    fusion_config cfg;
    assert_int_not_equal(fusion_config_from_json(&cfg, NULL, &e), OVI_OK);
}

/* ------------------------------------------------------------------------ running ---- */

static void both_branches_in_one_pass_equal_one_pass_each(void **state) {
    (void)state;
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        setup both = s[i], second = s[i];
        both.desc.n_branches = 2;
        both.desc.first_frame_clean = true;
        both.desc.branch[1].skip_layer = 1;
        second.desc.first_frame_clean = true;
        second.desc.branch[0] = (fusion_branch){
            .text = {{text_features[1], 7}, {text_features[1], 7}}, .skip_layer = 1};
        setup first = s[i];
        first.desc.first_frame_clean = true;
        result *r = run_ok(both), *r0 = run_ok(first), *r1 = run_ok(second);
        assert_true(same_branch(r, 0, r0, 0));
        assert_true(same_branch(r, 1, r1, 0));
        assert_false(same_branch(r, 0, r, 1));
        free(r);
        free(r0);
        free(r1);
    }
}

/* With equal texts, branches differ by the skipped block alone. */
static void a_skipped_block_concerns_its_branch_only(void **state) {
    (void)state;
    const fusion_text text = {text_features[0], 5};
    setup s = {.backend = backend_find("ref"), .desc = {.n_branches = 2}};
    s.desc.branch[1] = (fusion_branch){.text = {text, text}};
    result *plain = run_ok(s);
    assert_true(same_branch(plain, 0, plain, 1));
    static const int nothing[] = {-1, 0, 3, 99};
    for (int i = 0; i < 4; i++) {
        s.desc.branch[1].skip_layer = nothing[i];
        result *r = run_ok(s);
        assert_true(same_branch(r, 1, plain, 1));
        free(r);
    }
    for (int layer = 1; layer < 3; layer++) {
        s.desc.branch[1].skip_layer = layer;
        result *r = run_ok(s);
        assert_true(same_branch(r, 0, plain, 0));
        assert_false(same_branch(r, 1, plain, 1));
        free(r);
    }
    free(plain);
}

static void a_block_skipped_by_all_branches_does_not_run(void **state) {
    (void)state;
    setup s = {.backend = backend_find("ref"), .traced = true, .desc = {.n_branches = 2}};
    result *r = run_ok(s);
    assert_true(r->taps_in_block1 > 0);
    free(r);
    s.desc.branch[0].skip_layer = s.desc.branch[1].skip_layer = 1;
    r = run_ok(s);
    assert_int_equal(r->taps_in_block1, 0);
    free(r);
}

enum { IN_TURN = 1, FFN_ROWS = 2, QUERY_ROWS = 4, STREAMED = 8, ALL_SAVINGS = 15 };

static void set_savings(setup *s, int which) {
    s->desc.branches_in_turn = (which & IN_TURN) != 0;
    s->desc.ffn_rows = which & FFN_ROWS ? 256 : 0;
    s->desc.query_rows = which & QUERY_ROWS ? 256 : 0;
    s->streamed = (which & STREAMED) != 0;
}

static void saving_memory_does_not_change_bits(void **state) {
    (void)state;
    static const int savings[] = {IN_TURN, FFN_ROWS, QUERY_ROWS, STREAMED, ALL_SAVINGS};
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        s[i].desc.n_branches = 2;
        s[i].desc.first_frame_clean = true;
        s[i].desc.branch[1].skip_layer = 1;
        result *plain = run_ok(s[i]);
        for (int k = 0; k < 5; k++) {
            set_savings(&s[i], savings[k]);
            result *saving = run_ok(s[i]);
            assert_true(same_branch(plain, 0, saving, 0));
            assert_true(same_branch(plain, 1, saving, 1));
            free(saving);
        }
        free(plain);
    }
}

static size_t scratch_of(setup s, int savings) {
    set_savings(&s, savings);
    result *r = run_ok(s);
    const size_t bytes = r->scratch_peak;
    free(r);
    return bytes;
}

/* By the formulas of block.c. The feed-forward is narrow, so that the attentions are the largest
 * moments of the small model: where queries are not chunked the audio's turn, in which inputs,
 * keys and values of the audio stand beside those of the video; else self-attention. */
static void saving_memory_saves_it(void **state) {
    (void)state;
    const size_t row = 48 * sizeof(float), n = 300, chunk = 256;
    const setup s = {
        .backend = backend_find("ref"), .dry = true, .desc = {.n_branches = 2}};
    const size_t plain = scratch_of(s, 0);
    const size_t audio = 3 * AUDIO, modulation = 6;
    assert_int_equal(plain - scratch_of(s, IN_TURN), (4 * n + audio) * row);
    assert_int_equal(plain - scratch_of(s, QUERY_ROWS),
                     (2 * (2 * (n - chunk) + audio) + modulation) * row);
    assert_int_equal(plain - scratch_of(s, IN_TURN | QUERY_ROWS),
                     (8 * n + 2 * audio - (2 * n + 2 * chunk) + modulation) * row);
}

static void threads_do_not_change_bits(void **state) {
    (void)state;
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        s[i].desc.n_branches = 2;
        result *one = run_ok(s[i]);
        for (int threads = 2; threads <= 4; threads += 2) {
            s[i].threads = threads;
            result *more = run_ok(s[i]);
            assert_true(same_branch(one, 0, more, 0));
            assert_true(same_branch(one, 1, more, 1));
            free(more);
        }
        free(one);
    }
}

static void a_dry_run_counts_what_a_real_one_does(void **state) {
    (void)state;
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        s[i].desc.n_branches = 2;
        s[i].desc.branch[1].skip_layer = 2;
        for (int which = 0; which < 2; which++) {
            set_savings(&s[i], which ? IN_TURN | FFN_ROWS | QUERY_ROWS : 0);
            s[i].dry = false;
            result *real = run_ok(s[i]);
            s[i].dry = true;
            result *dry = run_ok(s[i]);
            assert_int_equal(real->arena_peak, dry->arena_peak);
            assert_memory_equal(&real->counters, &dry->counters, sizeof real->counters);
            assert_true(real->counters.flops > 0);
            assert_int_equal(real->counters.fallbacks, 0);
            free(real);
            free(dry);
        }
    }
}

/* Zero features behind a short text are what the published code pads with. */
static void padding_is_one_key_with_the_weight_of_all(void **state) {
    (void)state;
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        if (s[i].compute != DTYPE_F32)
            continue;
        float padded[TEXT_LEN * TEXT_DIM] = {0};
        result *folded = run_ok(s[i]);
        memcpy(padded, text_features[0], sizeof(float) * 5 * TEXT_DIM);
        const fusion_text text = {padded, TEXT_LEN};
        s[i].desc.branch[0] = (fusion_branch){.text = {text, text}};
        result *whole = run_ok(s[i]);
        assert_true(result_distance(folded, whole) < 2e-6);
        const fusion_text cut = {padded, 6};
        s[i].desc.branch[0] = (fusion_branch){.text = {cut, cut}};
        result *longer = run_ok(s[i]);
        assert_true(result_distance(longer, whole) < 2e-6);
        free(folded);
        free(whole);
        free(longer);
    }
}

static void tracing_shows_and_does_not_change(void **state) {
    (void)state;
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        result *plain = run_ok(s[i]);
        s[i].traced = true;
        result *traced = run_ok(s[i]);
        const double limit = s[i].compute == DTYPE_F32 ? 2e-6 : 1e-2;
        assert_true(result_distance(traced, plain) < limit);
        assert_int_equal(traced->taps_in_block1, 30);
        free(plain);
        free(traced);
    }
}

static void a_step_of_a_clip_is_its_timestep_alone(void **state) {
    (void)state;
    static const double steps[] = {999, 613.25, 12};
    setup s[4];
    const int n = all_setups(s);
    for (int i = 0; i < n; i++) {
        s[i].desc.first_frame_clean = true;
        result *alone = run_ok(s[i]);
        s[i].desc.timesteps = steps;
        s[i].desc.n_steps = 3;
        s[i].step = 1;
        result *second = run_ok(s[i]);
        s[i].step = 2;
        result *third = run_ok(s[i]);
        const double limit = s[i].compute == DTYPE_F32 ? 2e-6 : 1e-2;
        assert_true(result_distance(second, alone) < limit);
        assert_true(result_distance(third, alone) > 1e-2);
        free(alone);
        free(second);
        free(third);
    }
}

static void a_clean_first_frame_is_at_time_zero(void **state) {
    (void)state;
    static const double zero[] = {0};
    setup s = {.backend = backend_find("ref")};
    result *noisy = run_ok(s);
    s.desc.first_frame_clean = true;
    result *clean = run_ok(s);
    assert_true(result_distance(clean, noisy) > 1e-2);
    s.desc.timesteps = zero;
    s.desc.n_steps = 1;
    result *clean_at_0 = run_ok(s);
    s.desc.first_frame_clean = false;
    result *all_at_0 = run_ok(s);
    assert_true(same_branch(clean_at_0, 0, all_at_0, 0));
    free(noisy);
    free(clean);
    free(clean_at_0);
    free(all_at_0);
}

/* bf16 on a backend, with these scales. */
static result *run_f8(const backend *on, fusion_scales *scales, int savings) {
    setup s = {.backend = on, .compute = DTYPE_BF16};
    s.desc.n_branches = 2;
    s.desc.first_frame_clean = true;
    s.desc.branch[1].skip_layer = 1;
    s.desc.scales = scales;
    set_savings(&s, savings);
    return run_ok(s);
}

static void products_in_fp8_start_in_bf16_and_stay_near(void **state) {
    (void)state;
    setup s[4];
    for (int i = 0, n = all_setups(s); i < n; i += 2) {
        const backend *on = s[i].backend;
        fusion_scales scales = {.known = false};
        result *plain = run_f8(on, NULL, 0), *first = run_f8(on, &scales, 0);
        assert_true(same_branch(plain, 0, first, 0) && same_branch(plain, 1, first, 1));
        assert_true(scales.known);
        assert_int_equal(scales.n, 3 * FUSION_STREAMS * SITE_COUNT);
        result *next = run_f8(on, &scales, 0);
        const double far = result_distance(next, plain);
        /* Of velocities behind three blocks of random weights: 0.2 to 10 %. */
        assert_in_range((uint64_t)(far * 1e6), 2000, 100000);
        free(plain);
        free(first);
        free(next);
    }
}

static void saving_memory_changes_no_scale_and_no_bit_in_fp8(void **state) {
    (void)state;
    static const int savings[] = {IN_TURN, FFN_ROWS, QUERY_ROWS, STREAMED, ALL_SAVINGS};
    fusion_scales scales = {.known = false};
    free(run_f8(&backend_ref, &scales, 0));
    result *plain = run_f8(&backend_ref, &scales, 0);
    for (int k = 0; k < 5; k++) {
        fusion_scales own = {.known = false};
        free(run_f8(&backend_ref, &own, savings[k]));
        assert_memory_equal(&own, &scales, sizeof own);
        result *saving = run_f8(&backend_ref, &scales, savings[k]);
        assert_true(same_branch(plain, 0, saving, 0));
        assert_true(same_branch(plain, 1, saving, 1));
        free(saving);
    }
    free(plain);
}

static int by_row; /* products so far whose weights have a scale for each row */

static void count_by_row(void *self, const linear_desc *d, work w) {
    for (const linear_desc *p = d; p; p = p->beside)
        by_row += p->w_by_row;
    backend_ref.linear(self, d, w);
}

static bool takes_rows(void *self) {
    (void)self;
    return true;
}

/* All but those of the feed-forward. */
static void weights_have_a_scale_for_each_row_where_the_device_takes_it(void **state) {
    (void)state;
    backend rows = backend_ref;
    rows.linear = count_by_row;
    rows.f8_by_row = takes_rows;
    fusion_scales scales = {.known = false};
    by_row = 0;
    free(run_f8(&rows, &scales, 0));
    assert_int_equal(by_row, 0); /* in bf16 */
    result *whole = run_f8(&rows, &scales, 0);
    const int n = by_row;
    assert_true(n > 0 && n % 8 == 0); /* of a half */
    result *saving = run_f8(&rows, &scales, ALL_SAVINGS);
    assert_true(by_row > n);
    result *tensors = run_f8(&backend_ref, &scales, 0);
    assert_true(same_branch(whole, 0, saving, 0) && same_branch(whole, 1, saving, 1));
    assert_false(same_branch(whole, 0, tensors, 0));
    assert_true(result_distance(whole, tensors) < 0.1);
    free(whole);
    free(saving);
    free(tensors);
}

static void what_cannot_run_is_refused_with_a_sentence(void **state) {
    (void)state;
    static const double not_a_number[] = {NAN};
    static fusion_scales no_scales;
    const backend *ref = backend_find("ref");
    const struct {
        setup s;
        const char *named;
    } cases[] = {
        {{.backend = ref, .desc = {.height = 19}}, "multiples of 2 and"},
        {{.backend = ref, .desc = {.frames = INT64_MAX}}, "tokens"},
        {{.backend = ref, .desc = {.frames = -1}}, "tokens"},
        {{.backend = ref, .desc = {.frames = FRAMES + 1}}, "shapes of the prepared"},
        {{.backend = ref, .desc = {.n_branches = 3}}, "branches"},
        {{.backend = ref, .desc = {.ffn_rows = 100}}, "feed-forward"},
        {{.backend = ref, .desc = {.query_rows = 300}}, "queries"},
        {{.backend = ref, .desc = {.timesteps = not_a_number, .n_steps = 1}},
         "timestep 0"},
        {{.backend = ref, .desc = {.timesteps = one_timestep, .n_steps = 0}}, "1 step"},
        {{.backend = ref, .step = 1}, "step 1 of 1"},
        {{.backend = ref, .desc = {.scales = &no_scales}}, "dtype bf16"},
        {{.backend = ref,
          .desc = {.branch = {{.text = {{text_features[0], TEXT_LEN + 1}}}}}},
         "video text tokens"},
        {{.backend = ref, .desc = {.branch = {{.text = {{text_features[0], -1}}}}}},
         "video text tokens"},
        {{.backend = ref, .desc = {.branch = {{.text = {{NULL, 3}}}}}}, "none of 3"},
        {{.backend = ref, .without = 1u << 1}, "part 1 of the fusion model"},
        {{.backend = ref, .without = 1u << 3}, "part 3 of the fusion model"},
        {{.backend = ref, .without = 1u << 4}, "part 4 of the fusion model"},
        {{.backend = ref, .without = 1u << 6}, "part 6 of the fusion model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        result *r = run(cases[i].s);
        if (r->status == OVI_OK || !strstr(r->text, cases[i].named))
            fail_msg("expected an error about %s, found: %s", cases[i].named, r->text);
        free(r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_sizes_declare_the_published_tensors),
        cmocka_unit_test(a_published_step_costs_what_the_network_needs),
        cmocka_unit_test(weights_of_q_k_and_v_lie_in_equal_steps),
        cmocka_unit_test(every_weight_is_needed_by_one_call),
        cmocka_unit_test(configuration_errors_name_the_key),
        cmocka_unit_test(both_branches_in_one_pass_equal_one_pass_each),
        cmocka_unit_test(a_skipped_block_concerns_its_branch_only),
        cmocka_unit_test(a_block_skipped_by_all_branches_does_not_run),
        cmocka_unit_test(saving_memory_does_not_change_bits),
        cmocka_unit_test(saving_memory_saves_it),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(a_dry_run_counts_what_a_real_one_does),
        cmocka_unit_test(padding_is_one_key_with_the_weight_of_all),
        cmocka_unit_test(tracing_shows_and_does_not_change),
        cmocka_unit_test(a_step_of_a_clip_is_its_timestep_alone),
        cmocka_unit_test(a_clean_first_frame_is_at_time_zero),
        cmocka_unit_test(products_in_fp8_start_in_bf16_and_stay_near),
        cmocka_unit_test(saving_memory_changes_no_scale_and_no_bit_in_fp8),
        cmocka_unit_test(weights_have_a_scale_for_each_row_where_the_device_takes_it),
        cmocka_unit_test(what_cannot_run_is_refused_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, write_weights, remove_weights);
}
