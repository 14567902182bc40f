/* golden_sampling.c: kinds sampling, torch_noise and pipeline (spec/sampling.md). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fusion/fusion.h"
#include "gold.h"
#include "sample/denoise.h"
#include "sample/noise.h"

#define NAME_MAX_BYTES 160

/* --------------------------------------------------------------------- schedules ---- */

/* What "unipc.shift5.n50" in a tensor's name says. */
typedef struct sampling_case {
    const solver *solver;
    schedule times;
} sampling_case;

static bool read_case(gold *g, const char *label, sampling_case *c) {
    char name[16];
    int shift, n;
    if (sscanf(label, "%15[^.].shift%d.n%d", name, &shift, &n) != 3) {
        gold_fail(g, "expected SOLVER.shiftA.nB, found %s", label);
        return false;
    }
    c->solver = solver_find(name, &g->host->err);
    return c->solver && schedule_make(&c->times, c->solver->schedule, n, shift,
                                      &g->host->err) == OVI_OK;
}

static void check_sigmas(gold *g, const char *name, const schedule *s) {
    gold_check_f32(g, name, s->sigma, SHAPE(s->n + 1), (gold_limit){.equal = true});
}

/* Integers are stored as I64, euler's times as F32. */
static void check_times(gold *g, const char *name, const schedule *s) {
    int64_t integers[SCHEDULE_MAX_STEPS];
    float fractions[SCHEDULE_MAX_STEPS];
    for (int i = 0; i < s->n; i++) {
        integers[i] = (int64_t)s->t[i];
        fractions[i] = (float)s->t[i];
    }
    if (gold_find_tensor(g, name)->type == DTYPE_I64)
        gold_check_i64(g, name, integers, SHAPE(s->n));
    else
        gold_check_f32(g, name, fractions, SHAPE(s->n), (gold_limit){.equal = true});
}

/* ------------------------------------------------------------------ trajectories ---- */

/* The analytic field v = tanh(a x + b sigma), on the host. */
static void analytic_velocity(gold *g, float sigma, float *x, size_t n) {
    double a = json_number_value(json_object_get(g->config, "a"));
    double b = json_number_value(json_object_get(g->config, "b"));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)tanh(a * (double)x[i] + b * (double)sigma);
}

/* Row k of the trajectory [n, ...] is the sample after step k + 1. */
static void check_trajectory(gold *g, const char *name, const sampling_case *c) {
    shape s, all = {.rank = 1, .dim = {c->times.n}};
    const float *start = gold_input(g, "input.traj.x", &s);
    if (!start || s.rank >= TENSOR_MAX_RANK)
        return;
    for (int i = 0; i < s.rank; i++)
        all.dim[all.rank++] = s.dim[i];
    size_t count = (size_t)shape_count(&s), mark = arena_mark(g->dev);
    float *v = mem_alloc(&g->host->err, count, sizeof *v);
    float *rows = mem_alloc(&g->host->err, (size_t)shape_count(&all), sizeof *rows);
    tensor x = arena_push(g->dev, DTYPE_F32, s),
           velocity = arena_push(g->dev, DTYPE_F32, s);
    solver_state state;
    solver_init(&state, c->solver, &c->times, g->dev, s);
    device_put_f32(g->dev, &x, start);
    for (int i = 0; i < c->times.n && v && rows && !device_failed(g->dev); i++) {
        memcpy(v, i ? rows + (size_t)(i - 1) * count : start, count * sizeof *v);
        analytic_velocity(g, c->times.sigma[i], v, count);
        device_put_f32(g->dev, &velocity, v);
        solver_step(&state, g->dev, i, velocity, x);
        if (device_get_f32(g->dev, rows + (size_t)i * count, &x) != OVI_OK)
            break;
    }
    if (!device_failed(g->dev))
        gold_check_f32(g, name, rows, all, (gold_limit){.l2 = 2e-6, .max = 4e-6});
    arena_reset(g->dev, mark);
    mem_free(v);
    mem_free(rows);
}

void gold_sampling(gold *g) {
    static const char traj[] = "output.traj.", output[] = "output.";
    for (int i = 0; i < weights_count(g->file) && !gold_failed(g); i++) {
        const char *name = weights_at(g->file, i)->name;
        sampling_case c;
        if (strncmp(name, output, strlen(output)) != 0)
            continue;
        bool trajectory = strncmp(name, traj, strlen(traj)) == 0;
        if (!read_case(g, name + strlen(trajectory ? traj : output), &c))
            return;
        if (trajectory)
            check_trajectory(g, name, &c);
        else if (strstr(name, ".sigmas"))
            check_sigmas(g, name, &c.times);
        else
            check_times(g, name, &c.times);
    }
}

/* ------------------------------------------------------------------------- noise ---- */

/* Largest absolute error that recorded element `value` may have. */
static double noise_tolerance(const noise_source *s, double value) {
    return s->bf16 ? ldexp(1, ilogb(value != 0 ? value : 1) - 7) : 2e-6;
}

/* Recorded elements, then the sums over the whole tensor. */
static void check_noise(gold *g, const json_t *c, const noise_source *s, const float *x,
                        size_t n, const char *label) {
    const json_t *index = json_object_get(c, "index"),
                 *value = json_object_get(c, "value");
    size_t n_off = 0;
    for (size_t i = 0; i < json_array_size(index); i++) {
        size_t at = (size_t)json_integer_value(json_array_get(index, i));
        double want = json_number_value(json_array_get(value, i));
        if (at >= n || fabs((double)x[at] - want) > noise_tolerance(s, want))
            n_off++;
    }
    double sum = 0, squares = 0, count = (double)n;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    sum -= json_number_value(json_object_get(c, "sum"));
    squares -= json_number_value(json_object_get(c, "sum_sq"));
    gold_check_that(g, n_off == 0 && json_array_size(index) > 0, "%s: elements", label);
    gold_check_that(g, fabs(sum) <= 1e-7 * count + 0.05, "%s: sum, off by %.3g", label,
                    sum);
    gold_check_that(g, fabs(squares) <= 1e-6 * count + 0.05,
                    "%s: sum of squares, off by %.3g", label, squares);
}

static void noise_case(gold *g, const json_t *c) {
    const char *type = json_string_value(json_object_get(c, "dtype"));
    const char *where = json_string_value(json_object_get(c, "device"));
    const json_t *dims = json_object_get(c, "shape");
    noise_source s = {.seed = (uint64_t)json_integer_value(json_object_get(c, "seed"))};
    char label[NAME_MAX_BYTES], name[64];
    size_t n = 1;
    for (size_t i = 0; i < json_array_size(dims); i++)
        n *= (size_t)json_integer_value(json_array_get(dims, i));
    if (!type || !where || n < 1 || n > (size_t)1 << 28) {
        gold_fail(g, "expected a noise case with dtype, device and shape");
        return;
    }
    if (strcmp(where, "cuda") == 0)
        snprintf(
            name, sizeof name, "torch-cuda:%dx%d",
            (int)json_integer_value(json_object_get(g->config, "multi_processor_count")),
            (int)json_integer_value(
                json_object_get(g->config, "max_threads_per_multi_processor")));
    else
        snprintf(name, sizeof name, "torch-%s", where);
    if (noise_parse(&s, name, &g->host->err) != OVI_OK)
        return;
    s.bf16 = strcmp(type, "bfloat16") == 0;
    snprintf(label, sizeof label, "%s %s seed %llu, %zu elements", name, type,
             (unsigned long long)s.seed, n);
    float *x = mem_alloc(&g->host->err, n, sizeof *x);
    if (x && noise_fill(&s, 0, x, n, &g->host->err) == OVI_OK)
        check_noise(g, c, &s, x, n, label);
    mem_free(x);
}

void gold_torch_noise(gold *g) {
    const json_t *cases = json_object_get(g->config, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++)
        noise_case(g, json_array_get(cases, i));
}

/* ---------------------------------------------------------------------- pipeline ---- */

static gold_limit pipeline_limit(gold *g, const char *name) {
    if (!g->bf16)
        return (gold_limit){.l2 = 1e-5, .max = 2e-5};
    return strstr(name, ".guided_") ? (gold_limit){.l2 = 5e-2, .max = 1e-1}
                                    : (gold_limit){.l2 = 3e-2, .max = 5e-2};
}

/* One clip of both branches, or two clips of one branch each. */
typedef struct pipeline_clips {
    fusion_clip clip[BRANCH_COUNT];
    bool batched;
} pipeline_clips;

static void velocity_of_clips(void *user, device *d, const velocity_call *call) {
    const pipeline_clips *clips = user;
    (void)d;
    for (int b = 0; b < (clips->batched ? 1 : call->n_branches); b++) {
        fusion_pass pass = {.step = call->step};
        for (int s = 0; s < STREAM_COUNT; s++) {
            pass.latent[s] = call->x[s];
            pass.velocity[0][s] = call->v[b][s];
            if (clips->batched)
                pass.velocity[1][s] = call->v[BRANCH_NEGATIVE][s];
        }
        fusion_velocity(&clips->clip[b], &pass);
    }
}

static tensor keep_input(gold *g, const char *name, shape want) {
    shape s = {0};
    const float *values = gold_input_as(g, name, want, &s);
    if (!values)
        return (tensor){0};
    tensor t = arena_keep(g->dev, DTYPE_F32, s);
    device_put_f32(g->dev, &t, values);
    return t;
}

static fusion_text text_of(gold *g, const fusion_config *cfg, const char *name) {
    shape s = {0};
    const float *features =
        gold_input_as(g, name, SHAPE(-1, cfg->stream[FUSION_VIDEO].text_dim), &s);
    return (fusion_text){.features = features, .n = s.dim[0]};
}

/* The published conditioning: the prompt feeds both streams, each has a negative of its
 * own, and the negative branch alone skips a layer. */
static void prepare_clips(gold *g, const fusion_place *at, const schedule *times,
                          const tensor *video, const tensor *audio, bool i2v,
                          pipeline_clips *clips) {
    const fusion_config *cfg = &at->model->cfg;
    fusion_text prompt = text_of(g, cfg, "input.text_pos");
    const fusion_branch branch[BRANCH_COUNT] = {
        {.text = {prompt, prompt}},
        {.text = {text_of(g, cfg, "input.text_video_neg"),
                  text_of(g, cfg, "input.text_audio_neg")},
         .skip_layer = (int)json_integer_value(json_object_get(g->config, "slg_layer"))}};
    fusion_clip_desc desc = {.frames = video->dim[1],
                             .height = video->dim[2],
                             .width = video->dim[3],
                             .audio_len = audio->dim[0],
                             .n_steps = times->n,
                             .timesteps = times->t,
                             .first_frame_clean = i2v,
                             .n_branches = clips->batched ? BRANCH_COUNT : 1};
    if (gold_failed(g))
        return;
    for (int b = 0; b < (clips->batched ? 1 : BRANCH_COUNT); b++) {
        desc.branch[0] = branch[b];
        desc.branch[1] = branch[BRANCH_NEGATIVE];
        fusion_prepare(at, &desc, &clips->clip[b]);
    }
}

/* One clip, from the recorded noise to final latents. */
static void run_clip(gold *g, const fusion_place *at, const solver *kind, bool i2v,
                     bool batched) {
    schedule times;
    const char *mode = i2v ? "i2v" : "t2v";
    char name[NAME_MAX_BYTES];
    pipeline_clips clips = {.batched = batched};
    const fusion_stream_config *of = at->model->cfg.stream;
    shape video = SHAPE(of[FUSION_VIDEO].in_dim, -1, -1, -1),
          frame = SHAPE(of[FUSION_VIDEO].in_dim, 1, -1, -1);
    tensor x[STREAM_COUNT] = {
        keep_input(g, "input.video_noise", video),
        keep_input(g, "input.audio_noise", SHAPE(-1, of[FUSION_AUDIO].in_dim))};
    denoise_options o = {
        .solver = kind,
        .times = &times,
        .guidance =
            {json_number_value(json_object_get(g->config, "video_guidance_scale")),
             json_number_value(json_object_get(g->config, "audio_guidance_scale"))},
        .first_frame = i2v ? keep_input(g, "input.first_frame", frame) : (tensor){0},
        .velocity = velocity_of_clips,
        .user = &clips};
    int n = (int)json_integer_value(json_object_get(g->config, "steps"));
    double shift = json_number_value(json_object_get(g->config, "shift"));
    if (gold_failed(g) ||
        schedule_make(&times, kind->schedule, n, shift, &g->host->err) != OVI_OK)
        return;
    prepare_clips(g, at, &times, &x[STREAM_VIDEO], &x[STREAM_AUDIO], i2v, &clips);
    if (gold_failed(g) || denoise_run(g->dev, &o, x) != OVI_OK)
        return;
    for (int s = 0; s < STREAM_COUNT; s++) {
        snprintf(name, sizeof name, "output.%s.%s.%s", mode, kind->name,
                 fusion_stream_name(s));
        gold_check(g, name, &x[s], pipeline_limit(g, name));
    }
}

/* Every solver of the file: traced with both branches in one pass, then untraced with
 * both in one pass and with one after the other. */
static void run_mode(gold *g, const fusion_place *at, bool i2v) {
    const json_t *names = json_object_get(g->config, "solvers");
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        const solver *kind = solver_find(name ? name : "", &g->host->err);
        if (!kind)
            return;
        device_trace_prefix(g->dev, "mid.%s.%s.", i2v ? "i2v" : "t2v", name);
        gold_trace(g, pipeline_limit);
        run_clip(g, at, kind, i2v, true);
        gold_trace_off(g);
        run_clip(g, at, kind, i2v, true);
        run_clip(g, at, kind, i2v, false);
    }
}

void gold_pipeline(gold *g) {
    err *e = &g->host->err;
    fusion_config cfg;
    fusion model;
    const char *file = json_string_value(json_object_get(g->config, "weights"));
    weights *files = gold_open(g, file ? file : "");
    if (!files || fusion_config_from_json(&cfg, g->config, e) != OVI_OK ||
        fusion_init(&model, &cfg, e) != OVI_OK)
        return;
    store *s = store_create(g->dev, e);
    if (s && gold_bind(g, &model.weights, files)) {
        store_add(s, 0, &model.weights);
        const fusion_place at = {.model = &model, .store = s, .id = 0, .dev = g->dev};
        if (store_enter(s, &(store_needs){.parts = {STORE_ALL_PARTS}}) == OVI_OK) {
            run_mode(g, &at, false);
            run_mode(g, &at, true);
        }
    }
    store_free(s);
    fusion_release(&model);
}
