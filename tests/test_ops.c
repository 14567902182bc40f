/* test_ops.c: every operation, on every backend of this build, against the reference.
 *
 * A case draws shapes, strides, types and options from a seeded generator, makes operands
 * through the lab below and calls one front door. It is run on each subject with the same
 * draws: first on a dry run, whose arena peak is then all that the real run gets, then on
 * the device. Checked:
 *  - values within a tolerance of the reference (from types and the length of sums),
 *  - the same bytes at 1, 2 and 4 threads,
 *  - nothing is written outside the output view, nothing outside the input views is read
 *    (it is NaN), no output or workspace is read before it is written (they are NaN too),
 *  - counters, workspace and arena peaks of the dry run are those of the real one.
 * OVI_TEST_SEED sets the seed of the first case; failures print theirs. OVI_TEST_REQUIRE names a
 * backend without which the test fails. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

#define MAX_OUTPUTS  6
#define MAX_SUBJECTS 5
#define CASES        24

/* ---------------------------------------------------------------------- subjects ---- */

/* A backend at a number of threads, with its dry run. */
typedef struct subject {
    const backend *backend;
    int n_threads;
    device *real, *dry;
    uint64_t slow_products;
} subject;

static host test_host;
static subject subjects[MAX_SUBJECTS];
static int n_subjects;

static int open_subjects(void **state) {
    (void)state;
    const struct {
        const char *name;
        int n_threads;
    } wanted[MAX_SUBJECTS] = {
        {"ref", 1}, {"cpu", 1}, {"cpu", 2}, {"cpu", 4}, {"cuda", 1}};
    const char *required = getenv("OVI_TEST_REQUIRE");
    for (int i = 0; i < MAX_SUBJECTS; i++) {
        const backend *b = backend_find(wanted[i].name);
        device_options o = {.compute = DTYPE_F32,
                            .n_threads = wanted[i].n_threads,
                            .emulate = getenv("OVI_TEST_EMULATE")};
        if (!b || (b->missing && b->missing(&o))) {
            if (required && strcmp(required, wanted[i].name) == 0)
                fail_msg("%s is required, and not here", required);
            continue;
        }
        subject *s = &subjects[n_subjects++];
        *s = (subject){.backend = b,
                       .n_threads = o.n_threads,
                       .real = device_open(&test_host, b, &o),
                       .dry = device_open_null(&test_host, b, &o)};
        if (!s->real || !s->dry)
            return -1;
    }
    return 0;
}

static int close_subjects(void **state) {
    (void)state;
    for (int i = 0; i < n_subjects; i++) {
        if (subjects[i].slow_products > 0)
            print_message("%s: %llu products without tensor cores\n",
                          subjects[i].backend->name,
                          (unsigned long long)subjects[i].slow_products);
        device_close(subjects[i].real);
        device_close(subjects[i].dry);
    }
    return 0;
}

/* --------------------------------------------------------------------------- lab ---- */

/* What a case writes: a view into a run of guard elements. */
typedef struct output {
    tensor view, backing;
    uint8_t *before; /* owned: the backing as it was; NULL on a dry run */
    float *value;    /* owned: the view, dense */
    int64_t count;
    double tolerance; /* of this one; 0: the lab's */
} output;

/* What a case works with: generator, device of this pass, and what it wrote. */
typedef struct lab {
    device *d;
    uint64_t rng;
    output out[MAX_OUTPUTS];
    int n_out;
    double
        tolerance; /* absolute, on top of the rounding of the output's type; 0: equal */
} lab;

static uint64_t draw(lab *l) { /* splitmix64 */
    uint64_t z = l->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int64_t pick(lab *l, int64_t lo, int64_t hi) {
    return lo + (int64_t)(draw(l) % (uint64_t)(hi - lo + 1));
}

static bool flip(lab *l) {
    return draw(l) & 1;
}

static double uniform(lab *l) { /* [-1, 1) */
    return (double)(draw(l) >> 11) * 0x1p-52 - 1;
}

static dtype pick_type(lab *l) {
    return flip(l) ? DTYPE_F32 : DTYPE_BF16;
}

/* How a view lies in its backing. */
typedef enum layout {
    LAYOUT_WIDE,   /* dense, on a 64-byte boundary */
    LAYOUT_DENSE,  /* anywhere, also off a 64-byte boundary */
    LAYOUT_FRAMES, /* gaps between indices of axis 0 only */
    LAYOUT_ROWS,   /* gaps and any order of the outer axes, innermost stride 1 */
    LAYOUT_ANY     /* gaps and any order of all axes */
} layout;

/* Order in which axes are laid out, innermost first. */
static void pick_order(lab *l, int rank, layout how, int order[TENSOR_MAX_RANK]) {
    for (int i = 0; i < rank; i++)
        order[i] = rank - 1 - i;
    int fixed = how == LAYOUT_ROWS ? 1 : how == LAYOUT_ANY ? 0 : rank;
    for (int i = fixed; i + 1 < rank; i++) {
        int j = (int)pick(l, i, rank - 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* A view of that shape, with guard elements between, before and after. */
static tensor lay_out(lab *l, dtype type, shape s, layout how, tensor *backing) {
    tensor t = tensor_make(NULL, type, s);
    int order[TENSOR_MAX_RANK];
    pick_order(l, s.rank, how, order);
    int64_t next = how == LAYOUT_ANY ? pick(l, 1, 2) : 1;
    for (int i = 0; i < s.rank; i++) {
        int axis = order[i];
        bool gap = how >= LAYOUT_ROWS ? i > 0 || how == LAYOUT_ANY
                                      : how == LAYOUT_FRAMES && axis == 0;
        t.stride[axis] = next + (gap ? pick(l, 0, 2) : 0);
        next = t.stride[axis] * s.dim[axis];
    }
    int64_t lead = how == LAYOUT_WIDE ? 64 : pick(l, 0, 5);
    *backing = arena_keep(l->d, type, SHAPE(lead + next + pick(l, 1, 5)));
    if (backing->data)
        t.data = (char *)backing->data + lead * (int64_t)dtype_size(type);
    return t;
}

/* Element i of the view, counted from the first element of the backing. */
static int64_t place(const tensor *view, const tensor *backing, int64_t i) {
    int64_t at =
        ((char *)view->data - (char *)backing->data) / (int64_t)dtype_size(view->type);
    for (int k = view->rank - 1; k >= 0; k--) {
        at += i % view->dim[k] * view->stride[k];
        i /= view->dim[k];
    }
    return at;
}

/* Random values of about that size in the view, NaN around it. */
static tensor make_values(lab *l, dtype type, shape s, layout how, double size,
                          tensor *backing) {
    tensor t = lay_out(l, type, s, how, backing);
    int64_t n = tensor_count(backing);
    float *all = malloc((size_t)n * sizeof *all);
    assert_non_null(all);
    for (int64_t i = 0; i < n; i++)
        all[i] = NAN;
    for (int64_t i = 0; i < tensor_count(&t); i++) {
        float v = (float)(size * uniform(l));
        if (t.data)
            all[place(&t, backing, i)] = v;
    }
    device_put_f32(l->d, backing, all);
    free(all);
    return t;
}

static tensor input(lab *l, dtype type, shape s, layout how, double size) {
    tensor backing;
    return make_values(l, type, s, how, size, &backing);
}

static tensor vector(lab *l, int64_t n, double size) {
    return input(l, DTYPE_F32, SHAPE(n), LAYOUT_DENSE, size);
}

static tensor maybe_vector(lab *l, int64_t n, double size) {
    return flip(l) ? vector(l, n, size) : (tensor){0};
}

static void watch(lab *l, tensor view, tensor backing) {
    output *o = &l->out[l->n_out++];
    *o = (output){.view = view, .backing = backing, .count = tensor_count(&view)};
    if (device_is_null(l->d))
        return;
    o->before = malloc(tensor_bytes(&backing));
    assert_non_null(o->before);
    assert_int_equal(device_read(l->d, o->before, &backing), OVI_OK);
}

/* An operand that is read and written. */
static tensor updated(lab *l, dtype type, shape s, layout how, double size) {
    tensor backing, t = make_values(l, type, s, how, size, &backing);
    watch(l, t, backing);
    return t;
}

/* An operand that is only written: NaN before. */
static tensor result(lab *l, dtype type, shape s, layout how) {
    return updated(l, type, s, how, NAN);
}

/* Reads every output. Nothing around it may have changed, and all of it was written. */
static void collect(lab *l) {
    for (int i = 0; i < l->n_out; i++) {
        output *o = &l->out[i];
        size_t size = dtype_size(o->view.type), n = (size_t)tensor_count(&o->backing);
        uint8_t *after = malloc(n * size);
        o->value = malloc((size_t)(o->count + 1) * sizeof *o->value);
        assert_true(after && o->value);
        assert_int_equal(device_read(l->d, after, &o->backing), OVI_OK);
        for (int64_t k = 0; k < o->count; k++) {
            size_t at = (size_t)place(&o->view, &o->backing, k) * size;
            dtype_to_f32(o->value + k, after + at, o->view.type, 1);
            if (isnan(o->value[k]))
                fail_msg("output %d, element %lld: not written, or NaN was read", i,
                         (long long)k);
            memcpy(after + at, o->before + at, size);
        }
        if (memcmp(after, o->before, n * size) != 0)
            fail_msg("output %d: written outside the view", i);
        free(after);
    }
}

static void clear(lab *l) {
    for (int i = 0; i < l->n_out; i++) {
        free(l->out[i].before);
        free(l->out[i].value);
    }
    *l = (lab){0};
}

/* ----------------------------------------------------------------------- running ---- */

typedef void (*case_fn)(lab *l);

/* Is every tensor an allocation of its own? The device fills it with NaN then. */
static bool tensors_are_apart(void) {
    const char *emulate = getenv("OVI_TEST_EMULATE");
    return emulate && strstr(emulate, "apart");
}

/* NaN in every byte of the arena, so that workspace holds no luck. */
static void poison(device *d) {
    size_t n = device_get_memory(d).arena_capacity;
    uint8_t *bytes = malloc(n);
    assert_non_null(bytes);
    memset(bytes, 0xff, n);
    tensor first = arena_keep(d, DTYPE_U8, SHAPE(1));
    tensor all = tensor_make(first.data, DTYPE_U8, SHAPE((int64_t)n));
    device_write(d, &all, bytes);
    free(bytes);
}

static void run_pass(device *d, case_fn fn, uint64_t seed, lab *l) {
    *l = (lab){.d = d, .rng = seed};
    device_reset_counters(d);
    if (device_is_null(d) || tensors_are_apart())
        (void)arena_keep(d, DTYPE_U8, SHAPE(1));
    else
        poison(d);
    fn(l);
}

/* Dry, then real in the arena that the dry run asks for. Outputs stay in l. */
static void run_subject(subject *s, case_fn fn, uint64_t seed, lab *l) {
    device_arena_open(s->dry, 0);
    run_pass(s->dry, fn, seed, l);
    clear(l);
    size_t peak = device_get_memory(s->dry).arena_peak;
    device_arena_close(s->dry);
    device_arena_open(s->real, peak);
    run_pass(s->real, fn, seed, l);
    if (device_failed(s->real))
        fail_msg("%s", test_host.err.text);
    collect(l);
    s->slow_products += device_slow_products(s->real);
    assert_int_equal(device_get_memory(s->real).arena_peak, peak);
    const device_counters *dry = device_get_counters(s->dry);
    const device_counters *real = device_get_counters(s->real);
    assert_memory_equal(dry, real, sizeof *dry);
    device_arena_close(s->real);
}

/* A GPU keeps sums in bf16 between a product and the gate behind it: values below 4. */
static double slack_of(const lab *l, const output *o) {
    bool far = !device_backend(l->d)->host_memory;
    return far && o->view.type == DTYPE_BF16 ? 0x1p-6 : 0;
}

/* Is b within the tolerance of r, given the rounding of the output's type? */
static bool close_to(float b, float r, dtype type, double tolerance) {
    if (memcmp(&b, &r, sizeof b) == 0 || b == r)
        return true;
    double rounding = type == DTYPE_F8_E4M3 ? 0x1p-3
                      : type == DTYPE_BF16  ? 0x1p-7
                                            : 0x1p-21;
    return tolerance > 0 && fabs((double)b - r) <= tolerance + rounding * fabs(r);
}

static void compare(const lab *got, const lab *expected, bool bytes) {
    assert_int_equal(got->n_out, expected->n_out);
    for (int i = 0; i < got->n_out; i++) {
        const output *a = &got->out[i], *b = &expected->out[i];
        assert_int_equal(a->count, b->count);
        for (int64_t k = 0; k < a->count; k++) {
            bool ok = bytes
                          ? memcmp(a->value + k, b->value + k, sizeof(float)) == 0
                          : close_to(a->value[k], b->value[k], a->view.type,
                                     (a->tolerance > 0 ? a->tolerance : got->tolerance) +
                                         slack_of(got, a));
            if (!ok)
                fail_msg(
                    "output %d of %s, element %lld of %lld: expected %.9g, found %.9g", i,
                    dtype_name(a->view.type), (long long)k, (long long)a->count,
                    (double)b->value[k], (double)a->value[k]);
        }
    }
}

static uint64_t first_seed(void) {
    const char *text = getenv("OVI_TEST_SEED");
    return text ? strtoull(text, NULL, 0) : 1;
}

static const char *current; /* what is running, for the line that a failure prints */
static uint64_t current_seed;
static const subject *current_subject;

static int report(void **state) {
    (void)state;
    if (current)
        print_message("case %s, %s with %d threads: OVI_TEST_SEED=%llu\n", current,
                      current_subject->backend->name, current_subject->n_threads,
                      (unsigned long long)current_seed);
    current = NULL;
    return 0;
}

static void run_case(const char *name, case_fn fn, uint64_t seed) {
    lab first = {0},
        base = {0}; /* of the reference; of this backend at its first count */
    current = name;
    current_seed = seed;
    for (int i = 0; i < n_subjects; i++) {
        lab l;
        current_subject = &subjects[i];
        run_subject(&subjects[i], fn, seed, &l);
        bool same_backend = i > 0 && subjects[i].backend == subjects[i - 1].backend;
        if (i > 0)
            compare(&l, same_backend ? &base : &first, same_backend);
        if (!same_backend && i > 0)
            clear(&base);
        if (i == 0)
            first = l;
        else if (!same_backend)
            base = l;
        else
            clear(&l);
    }
    clear(&first);
    clear(&base);
    current = NULL;
}

static void run_cases(const char *name, case_fn fn) {
    for (uint64_t i = 0; i < CASES; i++)
        run_case(name, fn, first_seed() + i);
}

/* ------------------------------------------------------------------------- cases ---- */

static act_kind pick_act(lab *l) {
    return flip(l) ? ACT_NONE : (act_kind)pick(l, ACT_SILU, ACT_TANH);
}

/* [B, M, C], or [M, C] for batch 0. */
static shape tokens(int64_t batch, int64_t m, int64_t c) {
    return batch ? SHAPE(batch, m, c) : SHAPE(m, c);
}

/* [R, C] or [B, R, C] with R = 1 or 2. */
static tensor modulation(lab *l, int64_t batch, int64_t n_rows, int64_t c) {
    return input(l, DTYPE_F32, tokens(flip(l) ? batch : 0, n_rows, c), LAYOUT_ROWS, 1);
}

/* The residual of out, and out: none, apart, or the very view. */
static tensor pick_residual(lab *l, dtype type, shape s, layout how, tensor *residual) {
    int64_t kind = pick(l, 0, 2);
    *residual = (tensor){0};
    if (kind == 2)
        return *residual = updated(l, type, s, how, 1);
    if (kind == 1)
        *residual = input(l, type, s, how, 1);
    return result(l, type, s, how);
}

/* Sums of k products of values below 1 and 1/sqrt(k). */
static double sum_tolerance(int64_t k) {
    return 1e-6 + 0x1p-21 * sqrt((double)k);
}

static linear_desc make_linear(lab *l, int64_t batch, int64_t m, int64_t n, int64_t k) {
    dtype type = pick_type(l), w_type = type == DTYPE_BF16 ? type : pick_type(l);
    linear_desc x = {.act = pick_act(l), .split = pick(l, 0, m)};
    x.x = input(l, type, tokens(batch, m, k), LAYOUT_ROWS, 1);
    x.w = input(l, w_type, SHAPE(n, k), LAYOUT_DENSE, 1 / sqrt((double)k));
    x.bias = maybe_vector(l, n, 1);
    if (flip(l))
        x.gate = modulation(l, batch, pick(l, 1, 2), n);
    dtype out_type = pick_type(l);
    x.out = pick_residual(l, out_type, tokens(batch, m, n), LAYOUT_ROWS, &x.residual);
    l->tolerance = 4 * sum_tolerance(k);
    return x;
}

static void case_linear(lab *l) {
    int64_t batch = pick(l, 0, 3), m = pick(l, 1, 20), n = pick(l, 1, 60);
    linear_desc x = make_linear(l, batch, m, n, pick(l, 1, 90));
    op_linear(l->d, &x);
}

/* Past one tile of rows and of columns, or past one chunk of the sum. */
static void case_linear_tiles(lab *l) {
    bool deep = flip(l);
    int64_t batch = pick(l, 0, 2), m = deep ? pick(l, 1, 60) : pick(l, 200, 600);
    int64_t n = pick(l, 300, 1100), k = deep ? pick(l, 900, 2200) : pick(l, 1, 70);
    linear_desc x = make_linear(l, batch, m, n, k);
    op_linear(l->d, &x);
}

/* Branches one by one: run_branches compares this with the batch, byte by byte. */
static void linear_in_turn(lab *l) {
    int64_t m = pick(l, 1, 300), n = pick(l, 1, 300);
    linear_desc x = make_linear(l, 2, m, n, pick(l, 1, 60));
    for (int b = 0; b < 2; b++) {
        linear_desc one = x;
        one.x = tensor_index(x.x, 0, b);
        one.out = tensor_index(x.out, 0, b);
        if (x.residual.data)
            one.residual = tensor_index(x.residual, 0, b);
        if (x.gate.data && x.gate.rank == 3)
            one.gate = tensor_index(x.gate, 0, b);
        op_linear(l->d, &one);
    }
}

static void linear_batched(lab *l) {
    int64_t m = pick(l, 1, 300), n = pick(l, 1, 300);
    linear_desc x = make_linear(l, 2, m, n, pick(l, 1, 60));
    op_linear(l->d, &x);
}

/* A product of the models' widths, laid out so that values can be moved in runs. */
static linear_desc make_wide_linear(lab *l, dtype type) {
    static const int64_t widths[] = {1032, 2048, 3072, 4096};
    const int64_t n = widths[pick(l, 0, 3)], m = pick(l, 1, 20), k = 16 * pick(l, 1, 4);
    linear_desc x = {.split = pick(l, 0, m)};
    x.x = input(l, type, SHAPE(2, m, k), LAYOUT_WIDE, 1);
    x.w = input(l, type, SHAPE(n, k), LAYOUT_WIDE, 1 / sqrt((double)k));
    x.gate = input(l, DTYPE_F32, SHAPE(2, n), LAYOUT_WIDE, 1);
    x.out = pick_residual(l, type, SHAPE(2, m, n), LAYOUT_WIDE, &x.residual);
    return x;
}

/* With n = k, so that the norm can take the place of x. */
static linear_desc make_square_linear(lab *l, dtype type) {
    const int64_t batch = pick(l, 0, 2), m = pick(l, 1, 20), n = pick(l, 8, 60);
    linear_desc x = {.act = pick_act(l), .split = pick(l, 0, m)};
    x.x = updated(l, type, tokens(batch, m, n), LAYOUT_ROWS, 1);
    x.w = input(l, type, SHAPE(n, n), LAYOUT_DENSE, 1 / sqrt((double)n));
    if (flip(l))
        x.gate = modulation(l, batch, pick(l, 1, 2), n);
    x.out = pick_residual(l, type, tokens(batch, m, n), LAYOUT_ROWS, &x.residual);
    return x;
}

/* A product and the norm of its result, which may be quantised. */
static linear_desc make_normed_linear(lab *l, dtype type, bool f8, norm_desc *norm) {
    const bool wide = flip(l);
    linear_desc x = wide ? make_wide_linear(l, type) : make_square_linear(l, type);
    const int64_t n = x.w.dim[0];
    const layout how = wide ? LAYOUT_WIDE : LAYOUT_ROWS;
    *norm = (norm_desc){.kind = flip(l) ? NORM_LAYER : NORM_RMS,
                        .eps = 1e-2f,
                        .split = x.split,
                        .x = x.out};
    if (flip(l)) {
        norm->weight = input(l, DTYPE_F32, SHAPE(n), how, 1);
        norm->bias = input(l, DTYPE_F32, SHAPE(n), how, 1);
    } else {
        norm->scale = input(l, DTYPE_F32, SHAPE(2, n), how, 1);
        norm->shift = input(l, DTYPE_F32, SHAPE(2, n), how, 1);
    }
    norm->out_scale = f8 ? 0x1p-5f : 0;
    if (!wide && !f8 && flip(l))
        norm->out = x.x;
    else
        norm->out = result(l, f8 ? DTYPE_F8_E4M3 : type, tensor_shape(&x.out), how);
    l->tolerance = 16 * sum_tolerance(x.w.dim[1]);
    return x;
}

static void case_linear_norm(lab *l) {
    norm_desc norm;
    linear_desc x = make_normed_linear(l, DTYPE_F32, false, &norm);
    x.norm = &norm;
    op_linear(l->d, &x);
}

/* One call or two: the same bytes. A host has no norm to fp8, and the reference would stand in
 * for the whole call. */
static void linear_then_norm(lab *l, bool at_once) {
    const dtype type = pick_type(l);
    const bool f8 = type == DTYPE_BF16 && !device_backend(l->d)->host_memory && flip(l);
    norm_desc norm;
    linear_desc x = make_normed_linear(l, type, f8, &norm);
    x.norm = at_once ? &norm : NULL;
    op_linear(l->d, &x);
    if (!at_once)
        op_norm(l->d, &norm);
}

static void linear_norm_at_once(lab *l) {
    linear_then_norm(l, true);
}

static void linear_norm_behind(lab *l) {
    linear_then_norm(l, false);
}

/* Operands and workspace lie `moved` times 64 bytes further on: a library that looks at addresses
 * must not show it. */
static int64_t moved;
static void linear_moved(lab *l) {
    const int64_t m = pick(l, 1, 40), n = 8 * pick(l, 4, 24), k = 8 * pick(l, 4, 24);
    if (moved)
        (void)arena_keep(l->d, DTYPE_U8, SHAPE(64 * moved));
    const linear_desc x = {
        .x = input(l, DTYPE_BF16, SHAPE(m, k), LAYOUT_DENSE, 1),
        .w = input(l, DTYPE_BF16, SHAPE(n, k), LAYOUT_DENSE, 1 / sqrt((double)k)),
        .bias = maybe_vector(l, n, 1),
        .act = pick_act(l),
        .out = result(l, DTYPE_BF16, SHAPE(m, n), LAYOUT_DENSE)};
    op_linear(l->d, &x);
}

/* Three products of one x, each beside the one before: in equal steps, or anywhere. At the
 * larger size rows are many to cuBLASLt. */
static void make_three(lab *l, dtype type, dtype out_type, linear_desc three[3]) {
    const int64_t batch = pick(l, 0, 2), m = pick(l, 0, 7) ? pick(l, 1, 40) : 1600;
    const int64_t n = 8 * pick(l, 1, 12), k = 16 * pick(l, 1, 6);
    const bool steps = pick(l, 0, 3), with_bias = flip(l);
    const layout rows = flip(l) ? LAYOUT_WIDE : LAYOUT_ROWS;
    const double size = 1 / sqrt((double)k);
    const tensor x = input(l, type, tokens(batch, m, k), rows, 1);
    const tensor w = input(l, type, SHAPE(3, n, k), LAYOUT_WIDE, size);
    const tensor bias = input(l, DTYPE_F32, SHAPE(3, n), LAYOUT_WIDE, 1);
    const tensor out =
        steps ? result(l, out_type, batch ? SHAPE(3, batch, m, n) : SHAPE(3, m, n),
                       LAYOUT_WIDE)
              : (tensor){0};
    for (int i = 0; i < 3; i++) {
        three[i] = (linear_desc){.x = x, .w = tensor_index(w, 0, i)};
        if (with_bias)
            three[i].bias = tensor_index(bias, 0, i);
        three[i].out = steps ? tensor_index(out, 0, i)
                             : result(l, out_type, tokens(batch, m, n), rows);
        three[i].beside = i < 2 ? &three[i + 1] : NULL;
    }
    l->tolerance = 4 * sum_tolerance(k);
}

static void case_linear_beside(lab *l) {
    linear_desc three[3];
    const dtype type = pick_type(l);
    make_three(l, type, pick_type(l), three);
    op_linear(l->d, three);
}

/* Side by side, or one after the other: the same bytes, in fp8 too. */
static void three_linear(lab *l, bool at_once) {
    linear_desc three[3];
    const dtype type = pick(l, 0, 2) ? pick_type(l) : DTYPE_F8_E4M3;
    make_three(l, type, type == DTYPE_F32 ? type : DTYPE_BF16, three);
    for (int i = 0; i < (at_once ? 1 : 3); i++) {
        linear_desc one = three[i];
        if (!at_once)
            one.beside = NULL;
        op_linear(l->d, &one);
    }
}

static void linear_side_by_side(lab *l) {
    three_linear(l, true);
}

static void linear_one_by_one(lab *l) {
    three_linear(l, false);
}

/* A power of two that keeps values of that size in the range of F8_E4M3. */
static float pick_scale(lab *l) {
    return ldexpf(1, (int)pick(l, -8, -3));
}

/* What was quantised in another place may lie one step of F8_E4M3 away. */
static tensor f8_result(lab *l, shape s, float *scale) {
    *scale = pick_scale(l);
    return result(l, DTYPE_F8_E4M3, s, LAYOUT_ROWS);
}

static void f8_linear_of(lab *l, int64_t batch, int64_t m, int64_t n, int64_t k) {
    linear_desc x = {.act = flip(l) ? ACT_GELU_TANH : ACT_NONE, .split = pick(l, 0, m)};
    const bool w_as_stored = flip(l);
    x.x_scale = pick_scale(l);
    x.w_scale = w_as_stored ? 0 : ldexpf(1, -9);
    x.x = input(l, DTYPE_F8_E4M3, tokens(batch, m, k), LAYOUT_ROWS, 1 / x.x_scale);
    x.w = input(l, w_as_stored ? DTYPE_F8_E4M3 : DTYPE_BF16, SHAPE(n, k), LAYOUT_DENSE,
                1 / sqrt((double)k));
    x.bias = maybe_vector(l, n, 1);
    if (flip(l)) {
        x.out = f8_result(l, tokens(batch, m, n), &x.out_scale);
    } else {
        if (flip(l))
            x.gate = modulation(l, batch, pick(l, 1, 2), n);
        x.out =
            pick_residual(l, DTYPE_BF16, tokens(batch, m, n), LAYOUT_ROWS, &x.residual);
        x.w_by_row = !w_as_stored && flip(l);
    }
    /* the tensor cores of a GPU keep 13 bits of a sum and what is added to it */
    const bool far = !device_backend(l->d)->host_memory;
    l->tolerance =
        far ? 0x1p-11 * sqrt((double)k) + 4 * sum_tolerance(k) : 4 * sum_tolerance(k);
    op_linear(l->d, &x);
}

static void case_f8_linear(lab *l) {
    int64_t batch = pick(l, 0, 3), m = pick(l, 1, 20), n = pick(l, 1, 60);
    f8_linear_of(l, batch, m, n, pick(l, 1, 90));
}

/* Shapes that cuBLASLt takes. */
static void case_f8_linear_tiles(lab *l) {
    int64_t batch = pick(l, 0, 2), m = pick(l, 1, 600), n = 16 * pick(l, 1, 40);
    f8_linear_of(l, batch, m, n, 16 * pick(l, 1, 60));
}

static void case_f8_norm(lab *l) {
    int64_t batch = pick(l, 0, 2), m = pick(l, 1, 12), c = pick(l, 1, 90);
    norm_desc x = {.kind = NORM_LAYER, .eps = 1e-6f, .split = pick(l, 0, m)};
    x.x = input(l, pick_type(l), tokens(batch, m, c), LAYOUT_ROWS, 1);
    x.weight = maybe_vector(l, c, 1);
    x.bias = maybe_vector(l, c, 1);
    if (flip(l)) {
        int64_t n_rows = pick(l, 1, 2);
        x.scale = modulation(l, batch, n_rows, c);
        x.shift = modulation(l, batch, n_rows, c);
    }
    x.out = f8_result(l, tokens(batch, m, c), &x.out_scale);
    l->tolerance = 2e-5 / x.out_scale;
    op_norm(l->d, &x);
}

/* Exact: one rounding, of the same values. */
static void case_quantise(lab *l) {
    shape s = tokens(pick(l, 0, 2), pick(l, 1, 12), pick(l, 1, 90));
    quantise_desc x = {.x = input(l, DTYPE_BF16, s, LAYOUT_ROWS, 2)};
    x.out = f8_result(l, s, &x.scale);
    op_quantise(l->d, &x);
}

static void case_amax(lab *l) {
    shape s = tokens(pick(l, 0, 2), pick(l, 1, 12), pick(l, 1, 90));
    amax_desc x = {.x = input(l, DTYPE_BF16, s, LAYOUT_ROWS, 2)};
    x.out = updated(l, DTYPE_F32, SHAPE(1), LAYOUT_DENSE, 0);
    op_amax(l->d, &x);
}

static void case_norm(lab *l) {
    static const float eps[] = {0, 1e-6f, 1e-6f, 1e-12f, 1e-4f};
    int64_t batch = pick(l, 0, 2), m = pick(l, 1, 12);
    int64_t head_dim = 2 * pick(l, 2, 20), c = head_dim * pick(l, 1, 3);
    norm_desc x = {.kind = (norm_kind)pick(l, NORM_NONE, NORM_PIXEL),
                   .head_dim = head_dim};
    bool turn = flip(l);
    c += turn ? 0 : pick(l, 0, 1);
    x.eps = eps[x.kind];
    x.split = pick(l, 0, m);
    x.act = pick_act(l);
    shape s = tokens(batch, m, c);
    dtype type = pick_type(l);
    double size = x.kind == NORM_NONE ? 1 : pow(10, (double)pick(l, -4, 1));
    if (flip(l)) {
        x.x = x.out = updated(l, type, s, LAYOUT_ROWS, size);
    } else {
        x.x = input(l, type, s, LAYOUT_ROWS, size);
        x.out = result(l, pick_type(l), s, LAYOUT_ROWS);
    }
    x.weight = maybe_vector(l, c, 1);
    x.bias = maybe_vector(l, c, 1);
    if (flip(l)) {
        int64_t n_rows = pick(l, 1, 2);
        shape rows = tokens(flip(l) ? batch : 0, n_rows, c);
        x.scale = input(l, DTYPE_F32, rows, LAYOUT_ROWS, 1);
        x.shift = input(l, DTYPE_F32, rows, LAYOUT_ROWS, 1);
    }
    if (turn) {
        x.cos = input(l, DTYPE_F32, SHAPE(m, head_dim / 2), LAYOUT_ROWS, 1);
        x.sin = input(l, DTYPE_F32, SHAPE(m, head_dim / 2), LAYOUT_ROWS, 1);
    }
    if (flip(l))
        x.normed = result(l, x.out.type, s, LAYOUT_ROWS);
    l->tolerance = 2e-5;
    op_norm(l->d, &x);
}

/* Widths of the models, laid out so that values can be moved in runs; more rows than a device
 * works on at a time. */
static void case_norm_wide(lab *l) {
    static const int64_t widths[] = {256, 512, 760, 1024, 1536, 3072, 4096};
    const int64_t c = widths[pick(l, 0, 6)], batch = pick(l, 1, 2), m = pick(l, 1, 30);
    norm_desc x = {.kind = (norm_kind)pick(l, NORM_NONE, NORM_PIXEL),
                   .eps = 1e-6f,
                   .act = pick_act(l),
                   .head_dim = 8 * pick(l, 1, 4)};
    shape s = SHAPE(batch, c < 1024 ? 400 * m : m, c);
    x.split = pick(l, 0, s.dim[1]);
    x.x = input(l, pick_type(l), s, LAYOUT_WIDE, 2);
    x.out = result(l, pick_type(l), s, LAYOUT_WIDE);
    if (flip(l))
        x.weight = input(l, DTYPE_F32, SHAPE(c), LAYOUT_WIDE, 1);
    if (flip(l)) {
        x.scale = input(l, DTYPE_F32, SHAPE(2, c), LAYOUT_WIDE, 1);
        x.shift = input(l, DTYPE_F32, SHAPE(2, c), LAYOUT_WIDE, 1);
    }
    if (c % x.head_dim == 0 && flip(l)) {
        x.cos = input(l, DTYPE_F32, SHAPE(s.dim[1], x.head_dim / 2), LAYOUT_WIDE, 1);
        x.sin = input(l, DTYPE_F32, SHAPE(s.dim[1], x.head_dim / 2), LAYOUT_WIDE, 1);
    }
    if (flip(l))
        x.normed = result(l, x.out.type, s, LAYOUT_WIDE);
    l->tolerance = 4e-5;
    op_norm(l->d, &x);
}

static void attention_of(lab *l, int64_t sq, int64_t sk, int64_t d) {
    int64_t batch = pick(l, 1, 2), heads = pick(l, 1, 3);
    dtype type = pick_type(l);
    attention_desc x = {.scale = (float)(1 / sqrt((double)d)), .accumulate = flip(l)};
    x.q = input(l, type, SHAPE(batch, sq, heads, d), LAYOUT_ROWS, 2);
    x.k = input(l, type, SHAPE(batch, sk, heads, d), LAYOUT_ROWS, 2);
    x.v = input(l, type, SHAPE(batch, sk, heads, d), LAYOUT_ROWS, 1);
    x.key_bias = maybe_vector(l, sk, 2);
    if (flip(l))
        x.rel_bias = input(l, DTYPE_F32, SHAPE(heads, sq + sk - 1), LAYOUT_ROWS, 2);
    shape s = SHAPE(batch, sq, heads, d);
    x.out = x.accumulate ? updated(l, type, s, LAYOUT_ROWS, 1)
                         : result(l, type, s, LAYOUT_ROWS);
    /* in bf16 a kernel may round the weights of the softmax too */
    l->tolerance = type == DTYPE_BF16 ? 0x1p-7 : 1e-5;
    op_attention(l->d, &x);
}

/* Scores are sums in f32, whatever the type of q and k. */
#define LSE_TOLERANCE 1e-4

static tensor lse_of(lab *l, const attention_desc *x) {
    const int64_t *q = x->q.dim;
    const tensor lse = result(l, DTYPE_F32, SHAPE(q[0], q[2], q[1]), LAYOUT_ROWS);
    l->out[l->n_out - 1].tolerance = LSE_TOLERANCE;
    return lse;
}

/* Head sizes of every kernel: any, the models' and the video decoder's. */
static attention_desc attention_with_lse(lab *l) {
    static const int64_t sizes[] = {5, 32, 40, 64, 96, 128, 128, 200, 256, 512, 1024};
    const int64_t d = sizes[pick(l, 0, 10)], batch = pick(l, 1, 2), heads = pick(l, 1, 2);
    const int64_t sq = pick(l, 1, 150), sk = pick(l, 2, 340);
    const dtype type = pick(l, 0, 3) ? DTYPE_BF16 : DTYPE_F32;
    attention_desc x = {.scale = (float)(1 / sqrt((double)d)), .accumulate = flip(l)};
    x.q = input(l, type, SHAPE(batch, sq, heads, d), LAYOUT_WIDE, 2);
    x.k = input(l, type, SHAPE(batch, sk, heads, d), LAYOUT_WIDE, 2);
    x.v = input(l, type, SHAPE(batch, sk, heads, d), LAYOUT_WIDE, 1);
    x.key_bias = maybe_vector(l, sk, 2);
    if (pick(l, 0, 2) == 0)
        x.rel_bias = input(l, DTYPE_F32, SHAPE(heads, sq + sk - 1), LAYOUT_ROWS, 2);
    x.out = x.accumulate ? updated(l, type, tensor_shape(&x.q), LAYOUT_WIDE, 1)
                         : result(l, type, tensor_shape(&x.q), LAYOUT_WIDE);
    x.lse = lse_of(l, &x);
    l->tolerance = type == DTYPE_BF16 ? 0x1p-7 : 1e-5;
    return x;
}

static void case_attention_lse(lab *l) {
    const attention_desc x = attention_with_lse(l);
    op_attention(l->d, &x);
}

/* The same, so many queries at a time. */
static void attention_in_parts(lab *l) {
    const attention_desc x = attention_with_lse(l);
    const int64_t sq = x.q.dim[1], sk = x.k.dim[1];
    for (int64_t at = 0, n; at < sq; at += n) {
        n = sq - at < 37 ? sq - at : 37;
        attention_desc part = x;
        part.q = tensor_slice(x.q, 1, at, n);
        part.out = tensor_slice(x.out, 1, at, n);
        part.lse = tensor_slice(x.lse, 2, at, n);
        if (x.rel_bias.data)
            part.rel_bias = tensor_slice(x.rel_bias, 1, sq - at - n, n + sk - 1);
        op_attention(l->d, &part);
    }
}

/* To all keys, to the first of them, to the others: out and lse of each. */
static void attention_to_parts(lab *l) {
    attention_desc x = attention_with_lse(l);
    const shape s = tensor_shape(&x.q);
    const int64_t sk = x.k.dim[1], first = pick(l, 1, sk - 1);
    x.accumulate = false;
    x.rel_bias = (tensor){0};
    op_attention(l->d, &x);
    for (int i = 0; i < 2; i++) {
        const int64_t from = i ? first : 0, n = i ? sk - first : first;
        attention_desc part = x;
        part.k = tensor_slice(x.k, 1, from, n);
        part.v = tensor_slice(x.v, 1, from, n);
        if (x.key_bias.data)
            part.key_bias = tensor_slice(x.key_bias, 0, from, n);
        part.out = result(l, x.q.type, s, LAYOUT_WIDE);
        part.lse = lse_of(l, &part);
        op_attention(l->d, &part);
    }
}

static void case_attention(lab *l) {
    int64_t sq = pick(l, 1, 20), sk = pick(l, 1, 30);
    attention_of(l, sq, sk, pick(l, 1, 70));
}

/* Past one block of queries and of keys. */
static void case_attention_blocks(lab *l) {
    int64_t sq = pick(l, 60, 200), sk = pick(l, 60, 700);
    attention_of(l, sq, sk, 8 * pick(l, 1, 4));
}

/* To a text: what cuDNN takes with its bias, keys in whole sixty-fours or not. */
static void case_attention_text(lab *l) {
    const int64_t batch = pick(l, 1, 2), heads = pick(l, 1, 3), sk = pick(l, 60, 260);
    const shape s = SHAPE(batch, pick(l, 130, 300), heads, 128);
    attention_desc x = {.scale = 0.0883883476f};
    x.q = input(l, DTYPE_BF16, s, LAYOUT_WIDE, 2);
    x.k = input(l, DTYPE_BF16, SHAPE(batch, sk, heads, 128), LAYOUT_ROWS, 2);
    x.v = input(l, DTYPE_BF16, SHAPE(batch, sk, heads, 128), LAYOUT_ROWS, 1);
    x.key_bias = vector(l, sk, 2);
    x.out = result(l, DTYPE_BF16, s, LAYOUT_WIDE);
    l->tolerance = 0x1p-7;
    op_attention(l->d, &x);
}

/* Packs random weights [O, I, kt, kh, kw] / sqrt(I taps) for the geometry. For bf16 they
 * are of that type already: packing may round. */
static tensor conv_weights(lab *l, const conv_geometry *g, dtype type) {
    int64_t k = g->in_channels * g->kernel[0] * g->kernel[1] * g->kernel[2];
    int64_t n = g->out_channels * k;
    float *values = malloc((size_t)n * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++) {
        float v = (float)(uniform(l) / sqrt((double)k));
        values[i] = type == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(v)) : v;
    }
    size_t bytes = device_conv_packed_bytes(l->d, g, type);
    assert_int_equal(bytes % 64, 0);
    tensor w = arena_keep(l->d, DTYPE_U8, SHAPE((int64_t)bytes));
    device_pack_conv(l->d, g, type, values, w.data);
    free(values);
    return w;
}

static int64_t conv_reach(const conv_desc *x, int i) {
    return (x->geometry.kernel[i] - 1) * (x->dilation[i] ? x->dilation[i] : 1) + 1;
}

/* Adds weights, input (laid out like that) and output to a descriptor that has all else. */
static void run_conv(lab *l, conv_desc *x, const int64_t size[3], layout how) {
    const conv_geometry *g = &x->geometry;
    int64_t out[3];
    for (int i = 0; i < 3; i++) {
        int64_t n = size[i] * (x->upsample && i > 0 ? 2 : 1);
        out[i] = (n + x->pad_lo[i] + x->pad_hi[i] - conv_reach(x, i)) /
                     (x->stride[i] ? x->stride[i] : 1) +
                 1;
    }
    dtype type = how == LAYOUT_WIDE ? DTYPE_BF16 : pick_type(l);
    x->act = pick_act(l);
    x->x = input(l, type, SHAPE(size[0], size[1], size[2], g->in_channels), how, 1);
    x->w = conv_weights(l, g, type);
    x->bias = maybe_vector(l, g->out_channels, 1);
    x->out = pick_residual(l, type, SHAPE(out[0], out[1], out[2], g->out_channels),
                           LAYOUT_FRAMES, &x->residual);
    l->tolerance = 4 * sum_tolerance(g->in_channels * 27);
    op_conv(l->d, x);
}

/* The same where zeros around the input are not set either. */
static void finish_conv(lab *l, conv_desc *x, const int64_t size[3]) {
    for (int i = 0; i < 3; i++) {
        int64_t n = size[i] * (x->upsample && i > 0 ? 2 : 1), reach = conv_reach(x, i);
        x->pad_lo[i] = pick(l, 0, x->geometry.kernel[i] / 2);
        x->pad_hi[i] = pick(l, 0, x->geometry.kernel[i] / 2);
        if (n + x->pad_lo[i] + x->pad_hi[i] < reach)
            x->pad_lo[i] = reach - n;
    }
    run_conv(l, x, size, LAYOUT_FRAMES);
}

static void case_conv(lab *l) {
    conv_desc x = {
        .geometry = {.out_channels = pick(l, 1, 40), .in_channels = pick(l, 1, 40)}};
    for (int i = 0; i < 3; i++) {
        x.geometry.kernel[i] = i && flip(l) ? 3 : pick(l, 1, 3);
        x.stride[i] = pick(l, 0, 2);
        x.dilation[i] = pick(l, 0, 2);
    }
    x.upsample = pick(l, 0, 3) == 0;
    int64_t size[3] = {pick(l, 1, 3), pick(l, 1, 7), pick(l, 1, 9)};
    finish_conv(l, &x, size);
}

/* Past one tile of positions, of channels, and of taps times channels. */
static void case_conv_tiles(lab *l) {
    conv_desc x = {.geometry = {.out_channels = pick(l, 100, 560),
                                .in_channels = pick(l, 20, 80),
                                .kernel = {pick(l, 1, 2), 3, 3}}};
    x.stride[1] = x.stride[2] = pick(l, 1, 2);
    x.upsample = x.stride[1] == 1 && flip(l);
    int64_t size[3] = {pick(l, 1, 2), pick(l, 3, 8), pick(l, 20, 30)};
    finish_conv(l, &x, size);
}

/* Many channels to few around every pixel, past one rectangle of pixels. */
static void case_conv_few(lab *l) {
    conv_desc x = {.geometry = {.out_channels = pick(l, 1, 16),
                                .in_channels = 64 * pick(l, 1, 3),
                                .kernel = {pick(l, 1, 3), 3, 3}},
                   .pad_lo = {pick(l, 0, 2), 1, 1},
                   .pad_hi = {pick(l, 0, 1), 1, 1}};
    int64_t size[3] = {pick(l, x.geometry.kernel[0], 4), pick(l, 1, 20), pick(l, 1, 40)};
    run_conv(l, &x, size, LAYOUT_WIDE);
}

/* Audio: [1, 1, L, C]. */
static void case_conv_1d(lab *l) {
    conv_desc x = {.geometry = {.out_channels = pick(l, 1, 40),
                                .in_channels = pick(l, 1, 40),
                                .kernel = {1, 1, pick(l, 1, 11)}}};
    x.dilation[2] = pick(l, 0, 5);
    int64_t size[3] = {1, 1, pick(l, 1, 80)};
    finish_conv(l, &x, size);
}

/* A shape of any rank; small, with axes of 1. */
static shape any_shape(lab *l) {
    shape s = {.rank = (int)pick(l, 1, TENSOR_MAX_RANK)};
    for (int i = 0; i < s.rank; i++)
        s.dim[i] = pick(l, 1, 5);
    return s;
}

static void case_copy(lab *l) {
    shape s = any_shape(l), from = s;
    int axis = (int)pick(l, 0, s.rank - 1);
    bool repeat = flip(l);
    if (repeat)
        from.dim[axis] = 1;
    copy_desc x = {.x = input(l, pick_type(l), from, LAYOUT_ANY, 1)};
    if (repeat) {
        x.x.dim[axis] = s.dim[axis];
        x.x.stride[axis] = 0;
    }
    x.out = result(l, pick_type(l), s, LAYOUT_ANY);
    op_copy(l->d, &x);
}

/* Rows long enough for every blocking of a transposition. */
static void case_copy_large(lab *l) {
    shape s = SHAPE(pick(l, 1, 3), pick(l, 30, 80), pick(l, 30, 80));
    copy_desc x = {.x = input(l, pick_type(l), s, LAYOUT_ANY, 1)};
    x.out = result(l, pick_type(l), s, LAYOUT_ANY);
    op_copy(l->d, &x);
}

static void case_lincomb(lab *l) {
    shape s = any_shape(l);
    lincomb_desc x = {.n = (int)pick(l, 1, 4)};
    int own = (int)pick(l, 0, 4); /* which term out is */
    for (int i = 0; i < x.n; i++) {
        x.c[i] = (float)(2 * uniform(l));
        x.x[i] = i == own ? updated(l, pick_type(l), s, LAYOUT_ANY, 1)
                          : input(l, pick_type(l), s, LAYOUT_ANY, 1);
    }
    x.out = own < x.n ? x.x[own] : result(l, pick_type(l), s, LAYOUT_ANY);
    if (flip(l)) {
        x.lo = -0.5f;
        x.hi = (float)uniform(l);
    }
    op_lincomb(l->d, &x);
}

static void case_affine(lab *l) {
    shape s = any_shape(l);
    affine_desc x = {.act = pick_act(l)};
    if (flip(l)) {
        x.x = x.out = updated(l, pick_type(l), s, LAYOUT_ROWS, 2);
    } else {
        x.x = input(l, pick_type(l), s, LAYOUT_ROWS, 2);
        x.out = result(l, pick_type(l), s, LAYOUT_ROWS);
    }
    x.scale = maybe_vector(l, s.dim[s.rank - 1], 1);
    x.shift = maybe_vector(l, s.dim[s.rank - 1], 1);
    if (flip(l)) {
        x.lo = -0.5f;
        x.hi = (float)uniform(l);
    }
    l->tolerance = 2e-6;
    op_affine(l->d, &x);
}

static void case_gated(lab *l) {
    shape s = SHAPE(pick(l, 1, 10), pick(l, 1, 70));
    gated_desc x = {.act = pick_act(l)};
    dtype type = pick_type(l);
    int64_t own = pick(l, 0, 2);
    x.a = own == 0 ? updated(l, type, s, LAYOUT_ROWS, 2)
                   : input(l, type, s, LAYOUT_ROWS, 2);
    x.b = own == 1 ? updated(l, type, s, LAYOUT_ROWS, 2)
                   : input(l, type, s, LAYOUT_ROWS, 2);
    x.out = own == 0 ? x.a : own == 1 ? x.b : result(l, pick_type(l), s, LAYOUT_ROWS);
    l->tolerance = 4e-6;
    op_gated(l->d, &x);
}

static void snake_of(lab *l, int64_t length, int64_t channels) {
    shape s = SHAPE(length, channels);
    snake_desc x = {.x = input(l, DTYPE_F32, s, LAYOUT_ROWS, 2),
                    .alpha = vector(l, channels, 1),
                    .beta = vector(l, channels, 1),
                    .filter = vector(l, 12, 0.5)};
    x.out = result(l, DTYPE_F32, s, LAYOUT_ROWS);
    l->tolerance = 5e-5;
    op_snake(l->d, &x);
}

static void case_snake(lab *l) {
    int64_t length = pick(l, 1, 90);
    snake_of(l, length, pick(l, 1, 40));
}

static void case_snake_large(lab *l) {
    int64_t length = pick(l, 500, 3000);
    snake_of(l, length, pick(l, 1, 12));
}

/* A divisor of n. */
static int64_t pick_divisor(lab *l, int64_t n) {
    int64_t d = pick(l, 1, n);
    while (n % d)
        d--;
    return d;
}

/* out of a shortcut: assigned or added to. */
static tensor shortcut_out(lab *l, shape s, bool assign) {
    dtype type = pick_type(l);
    return assign ? result(l, type, s, LAYOUT_ROWS) : updated(l, type, s, LAYOUT_ROWS, 1);
}

static void case_dup_up(lab *l) {
    int64_t t = pick(l, 1, 3), h = pick(l, 1, 5), w = pick(l, 1, 5), f = pick(l, 1, 2);
    int64_t o = pick(l, 1, 12), i = pick_divisor(l, 4 * f * o);
    dup_up_desc x = {.time_factor = (int)f, .assign = flip(l)};
    x.drop = (int)pick(l, 0, f - 1);
    x.x = input(l, pick_type(l), SHAPE(t, h, w, i), LAYOUT_ROWS, 1);
    x.out = shortcut_out(l, SHAPE(t * f - x.drop, 2 * h, 2 * w, o), x.assign);
    l->tolerance = 1e-6;
    op_dup_up(l->d, &x);
}

/* The factors of the published stages, laid out as they are there. */
static void case_dup_up_wide(lab *l) {
    int64_t t = pick(l, 1, 3), h = pick(l, 1, 9), w = pick(l, 1, 9), f = pick(l, 1, 2);
    int64_t o = 16 * pick(l, 1, 3), i = flip(l) ? o : 2 * o;
    dup_up_desc x = {.time_factor = (int)f, .assign = flip(l)};
    dtype type = pick_type(l);
    x.drop = (int)pick(l, 0, f - 1);
    shape s = SHAPE(t * f - x.drop, 2 * h, 2 * w, o);
    x.x = input(l, type, SHAPE(t, h, w, i), LAYOUT_WIDE, 1);
    x.out =
        x.assign ? result(l, type, s, LAYOUT_WIDE) : updated(l, type, s, LAYOUT_WIDE, 1);
    l->tolerance = 1e-6;
    op_dup_up(l->d, &x);
}

static void case_avg_down(lab *l) {
    int64_t t = pick(l, 1, 4), h = pick(l, 1, 4), w = pick(l, 1, 4), f = pick(l, 1, 2);
    int64_t s = pick(l, 1, 2), i = pick(l, 1, 12), o = pick_divisor(l, i * f * s * s);
    avg_down_desc x = {.time_factor = (int)f, .space_factor = (int)s, .assign = flip(l)};
    x.x = input(l, pick_type(l), SHAPE(t, h * s, w * s, i), LAYOUT_ROWS, 1);
    x.out = shortcut_out(l, SHAPE((t + f - 1) / f, h, w, o), x.assign);
    l->tolerance = 2e-6;
    op_avg_down(l->d, &x);
}

/* Elements enough for every thread and for every block of a loop. */
static void case_pointwise_large(lab *l) {
    shape s = SHAPE(pick(l, 2, 3), pick(l, 100, 200), pick(l, 200, 400));
    lincomb_desc x = {.n = 2, .c = {0.5f, -3}};
    x.x[0] = input(l, pick_type(l), s, LAYOUT_ROWS, 1);
    x.x[1] = input(l, pick_type(l), s, LAYOUT_ROWS, 1);
    x.out = result(l, pick_type(l), s, LAYOUT_ROWS);
    op_lincomb(l->d, &x);
}

static void case_fill(lab *l) {
    op_fill(l->d, &(fill_desc){result(l, pick_type(l), any_shape(l), LAYOUT_ANY)});
}

/* Bytes are the same everywhere: values at the ends, and a sweep behind them. */
static void pixels_are_clamped_and_truncated(void **state) {
    (void)state;
    enum { SWEEP = 1024 };
    float v[SWEEP] = {-1.0f, 1.0f,   -2.0f,   3.0f,      0.0f,
                      NAN,   0.999f, -0.999f, -INFINITY, INFINITY};
    uint8_t want[SWEEP] = {0, 255, 0, 255, 127, 0, 254, 0, 0, 255}, got[SWEEP];
    for (int i = 10; i < SWEEP; i++) {
        v[i] = -1 + (float)i * (2.0f / SWEEP);
        want[i] = (uint8_t)((v[i] + 1) / 2 * 255);
    }
    for (int i = 0; i < n_subjects; i++) {
        device *d = subjects[i].real;
        device_arena_open(d, 16384);
        tensor x = arena_keep(d, DTYPE_F32, SHAPE(4, SWEEP / 4));
        tensor out = arena_keep(d, DTYPE_U8, SHAPE(4, SWEEP / 4 + 1));
        device_put_f32(d, &x, v);
        op_fill(d, &(fill_desc){out});
        out = tensor_slice(out, 1, 0, SWEEP / 4); /* rows apart */
        tensor bad = arena_keep(d, DTYPE_F32, SHAPE(2));
        const float none[2] = {0, 0};
        float found[2];
        device_put_f32(d, &bad, none);
        op_pixels(d, &(pixels_desc){x, out, tensor_slice(bad, 0, 0, 1)});
        const tensor rest = tensor_slice(out, 0, 1, 3); /* all finite */
        op_pixels(d, &(pixels_desc){tensor_slice(x, 0, 1, 3), rest,
                                    tensor_slice(bad, 0, 1, 1)});
        assert_int_equal(device_get_f32(d, found, &bad), OVI_OK);
        assert_true(found[0] == 1 && found[1] == 0);
        for (int row = 0; row < 4; row++) {
            tensor one = tensor_index(out, 0, row);
            assert_int_equal(device_read(d, got + row * (SWEEP / 4), &one), OVI_OK);
        }
        assert_memory_equal(got, want, sizeof want);
        device_arena_close(d);
    }
}

/* ------------------------------------------------------------------------- tests ---- */

#define CASE_LIST(X)                                                                     \
    X(linear)                                                                            \
    X(linear_norm)                                                                       \
    X(linear_beside)                                                                     \
    X(norm)                                                                              \
    X(attention)                                                                         \
    X(attention_lse)                                                                     \
    X(conv)                                                                              \
    X(conv_1d)                                                                           \
    X(copy)                                                                              \
    X(lincomb)                                                                           \
    X(affine)                                                                            \
    X(gated)                                                                             \
    X(snake)                                                                             \
    X(dup_up)                                                                            \
    X(dup_up_wide)                                                                       \
    X(avg_down)                                                                          \
    X(fill)                                                                              \
    X(f8_linear)                                                                         \
    X(f8_norm)                                                                           \
    X(quantise)                                                                          \
    X(amax)

#define CASE_TEST(name)                                                                  \
    static void name##_agrees_on_every_backend(void **state) {                           \
        (void)state;                                                                     \
        run_cases(#name, case_##name);                                                   \
    }
CASE_LIST(CASE_TEST)
#undef CASE_TEST

static void large_shapes_agree_on_every_backend(void **state) {
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + 3; seed++) {
        run_case("linear_tiles", case_linear_tiles, seed);
        run_case("f8_linear_tiles", case_f8_linear_tiles, seed);
        run_case("attention_blocks", case_attention_blocks, seed);
        run_case("conv_tiles", case_conv_tiles, seed);
        run_case("conv_few", case_conv_few, seed);
        run_case("copy_large", case_copy_large, seed);
        run_case("pointwise_large", case_pointwise_large, seed);
        run_case("snake_large", case_snake_large, seed);
    }
    for (uint64_t seed = first_seed(); seed < first_seed() + 8; seed++)
        run_case("norm_wide", case_norm_wide, seed);
    for (uint64_t seed = first_seed(); seed < first_seed() + 6; seed++)
        run_case("attention_text", case_attention_text, seed);
}

/* On every subject; on those of `rough` (may be NULL) the same but for rounding. */
static void give_the_same(const char *name, case_fn one, case_fn other,
                          const backend *rough) {
    current = name;
    for (int i = 0; i < n_subjects; i++) {
        current_subject = &subjects[i];
        for (current_seed = first_seed(); current_seed < first_seed() + CASES;
             current_seed++) {
            lab a, b;
            run_subject(&subjects[i], one, current_seed, &a);
            run_subject(&subjects[i], other, current_seed, &b);
            compare(&b, &a, subjects[i].backend != rough);
            clear(&a);
            clear(&b);
        }
    }
    current = NULL;
}

static void give_the_same_bytes(const char *name, case_fn one, case_fn other) {
    give_the_same(name, one, other, NULL);
}

static void branches_batched_or_in_turn_give_the_same_bytes(void **state) {
    (void)state;
    give_the_same_bytes("linear branches", linear_batched, linear_in_turn);
}

static void a_norm_in_the_same_call_gives_the_same_bytes(void **state) {
    (void)state;
    give_the_same_bytes("linear and norm", linear_norm_at_once, linear_norm_behind);
}

static void products_give_the_same_bytes_wherever_they_lie(void **state) {
    (void)state;
    current = "linear moved";
    for (int i = 0; i < n_subjects; i++) {
        current_subject = &subjects[i];
        for (current_seed = first_seed(); current_seed < first_seed() + 20;
             current_seed++) {
            lab first, other;
            moved = 0;
            run_subject(&subjects[i], linear_moved, current_seed, &first);
            for (moved = 1; moved < 4; moved++) {
                run_subject(&subjects[i], linear_moved, current_seed, &other);
                compare(&other, &first, true);
                clear(&other);
            }
            clear(&first);
        }
    }
    current = NULL;
}

static void products_side_by_side_give_the_same_bytes(void **state) {
    (void)state;
    give_the_same_bytes("products of one x", linear_side_by_side, linear_one_by_one);
}

/* oneDNN sums in an order of its own for some numbers of queries. */
static void queries_in_parts_give_the_same_bytes(void **state) {
    (void)state;
    give_the_same("attention in parts", case_attention_lse, attention_in_parts,
                  backend_find("cpu"));
}

/* out = exp(L1 - L) out1 + exp(L2 - L) out2, L = log(exp(L1) + exp(L2)): ops.h. */
static void expect_merged(const lab *l) {
    const output *whole = &l->out[0], *sums = &l->out[1];
    const int64_t *n = whole->view.dim; /* [B, Sq, H, d] */
    for (int64_t i = 0; i < whole->count; i++) {
        const int64_t row = i / n[3], head = row % n[2], query = row / n[2] % n[1];
        const int64_t at = (row / n[2] / n[1] * n[2] + head) * n[1] + query;
        const double l1 = l->out[3].value[at], l2 = l->out[5].value[at];
        const double both = fmax(l1, l2) + log1p(exp(-fabs(l1 - l2)));
        const double out =
            exp(l1 - both) * l->out[2].value[i] + exp(l2 - both) * l->out[4].value[i];
        if (fabs(both - sums->value[at]) > LSE_TOLERANCE ||
            !close_to(whole->value[i], (float)out, whole->view.type, l->tolerance))
            fail_msg(
                "element %lld: expected %.9g of log-sum-exp %.9g, found %.9g of %.9g",
                (long long)i, (double)whole->value[i], (double)sums->value[at], out,
                both);
    }
}

static void attentions_to_disjoint_keys_are_one(void **state) {
    (void)state;
    current = "attention to parts";
    for (int i = 0; i < n_subjects; i++) {
        current_subject = &subjects[i];
        for (current_seed = first_seed(); current_seed < first_seed() + CASES;
             current_seed++) {
            lab l;
            run_subject(&subjects[i], attention_to_parts, current_seed, &l);
            expect_merged(&l);
            clear(&l);
        }
    }
    current = NULL;
}

/* Biases of -inf for every key: there is nothing to weigh. */
static void without_any_weight(device *d, dtype type, int64_t size) {
    enum { QUERIES = 3, KEYS = 70 };
    float none[KEYS], lse[QUERIES], *out = calloc((size_t)(QUERIES * size), sizeof *out);
    assert_non_null(out);
    for (int i = 0; i < KEYS; i++)
        none[i] = -INFINITY;
    device_arena_open(d, (size_t)64 << 20);
    attention_desc x = {.q = arena_keep(d, type, SHAPE(1, QUERIES, 1, size)),
                        .k = arena_keep(d, type, SHAPE(1, KEYS, 1, size)),
                        .out = arena_keep(d, type, SHAPE(1, QUERIES, 1, size)),
                        .lse = arena_keep(d, DTYPE_F32, SHAPE(1, 1, QUERIES)),
                        .key_bias = arena_keep(d, DTYPE_F32, SHAPE(KEYS)),
                        .scale = 1};
    x.v = x.k;
    op_fill(d, &(fill_desc){x.q});
    op_fill(d, &(fill_desc){x.k});
    device_put_f32(d, &x.key_bias, none);
    op_attention(d, &x);
    assert_int_equal(device_get_f32(d, lse, &x.lse), OVI_OK);
    assert_int_equal(device_get_f32(d, out, &x.out), OVI_OK);
    for (int i = 0; i < QUERIES; i++)
        assert_true(isinf(lse[i]) && lse[i] < 0);
    for (int64_t i = 0; i < QUERIES * size; i++)
        assert_true(isnan(out[i]));
    device_arena_close(d);
    free(out);
}

static void a_query_without_any_weight_says_so(void **state) {
    (void)state;
    for (int i = 0; i < n_subjects; i++) {
        without_any_weight(subjects[i].real, DTYPE_F32, 32);
        without_any_weight(subjects[i].real, DTYPE_BF16, 64);
        without_any_weight(subjects[i].real, DTYPE_BF16, 128);
        without_any_weight(subjects[i].real, DTYPE_BF16, 1024);
    }
}

/* test_ops [PATTERN]: the tests whose names match it, as *attention*; with ! in front the others. */
int main(int argc, char **argv) {
    if (argc > 1 && argv[1][0] == '!')
        cmocka_set_skip_filter(argv[1] + 1);
    else if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
#define CASE_ROW(name) cmocka_unit_test_teardown(name##_agrees_on_every_backend, report),
        CASE_LIST(CASE_ROW)
#undef CASE_ROW
            cmocka_unit_test_teardown(large_shapes_agree_on_every_backend, report),
        cmocka_unit_test(pixels_are_clamped_and_truncated),
        cmocka_unit_test_teardown(a_norm_in_the_same_call_gives_the_same_bytes, report),
        cmocka_unit_test_teardown(products_side_by_side_give_the_same_bytes, report),
        cmocka_unit_test_teardown(branches_batched_or_in_turn_give_the_same_bytes,
                                  report),
        cmocka_unit_test_teardown(products_give_the_same_bytes_wherever_they_lie, report),
        cmocka_unit_test_teardown(queries_in_parts_give_the_same_bytes, report),
        cmocka_unit_test_teardown(attentions_to_disjoint_keys_are_one, report),
        cmocka_unit_test(a_query_without_any_weight_says_so),
    };
    return cmocka_run_group_tests(tests, open_subjects, close_subjects);
}
