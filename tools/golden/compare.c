/* compare.c: comparisons of a golden file, and what handlers may ask of the frame.
 *
 * On the dry pass a comparison fetches the value (so that both passes ask the device for
 * the same scratch) and stops there. On the real pass it becomes a gold_result. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

/* ---------------------------------------------------------------------- results ---- */

/* Memory of the runner itself: without it there is nothing left to report. */
static void *must_have(void *p) {
    if (p)
        return p;
    fprintf(stderr, "ovi-golden: out of memory\n");
    exit(3);
}

static void *grow(void *list, int n, size_t size) {
    err e = {0};
    return must_have(mem_resize(&e, list, (size_t)n + 1, size));
}

static void *make(size_t count, size_t size) {
    err e = {0};
    return must_have(mem_alloc(&e, count, size));
}

static char *copy_text(const char *s) {
    err e = {0};
    return s ? must_have(mem_strdup(&e, s)) : NULL;
}

void frame_add(gold *g, const char *name, const gold_error *error, const char *detail) {
    gold_frame *f = frame_of(g);
    if (f->n_results == f->capacity) {
        f->capacity = 2 * f->capacity + 64;
        f->result = grow(f->result, f->capacity, sizeof *f->result);
    }
    f->result[f->n_results++] = (gold_result){.name = copy_text(name),
                                              .detail = copy_text(detail),
                                              .error = error ? *error : (gold_error){0},
                                              .values = error != NULL};
    f->n_failed += detail != NULL;
}

void gold_fail(gold *g, const char *fmt, ...) {
    gold_frame *f = frame_of(g);
    if (gold_failed(g))
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->sentence, sizeof f->sentence, fmt, args);
    va_end(args);
}

bool gold_failed(const gold *g) {
    return frame_of(g)->sentence[0] != '\0';
}

void frame_check_coverage(gold *g) {
    const gold_frame *f = frame_of(g);
    int missed = 0;
    char text[1024] = "";
    size_t at = 0;
    for (int i = 0; g->file && i < weights_count(g->file); i++) {
        const char *name = weights_at(g->file, i)->name;
        bool result = strncmp(name, "mid.", 4) == 0 || strncmp(name, "output.", 7) == 0;
        if (f->compared[i] || !result)
            continue;
        if (missed++ < 12)
            at += (size_t)snprintf(text + at, sizeof text - at, " %.70s", name);
    }
    if (missed > 0)
        gold_fail(g, "%d tensors were never compared:%s%s", missed, text,
                  missed > 12 ? " ..." : "");
    else if (f->n_results == 0)
        gold_fail(g, "nothing was compared");
}

/* -------------------------------------------------------------------- comparing ---- */

/* Sums over one tensor or one row of it. */
typedef struct sums {
    double diff2, ref2, diff_max, ref_max;
    bool finite;
} sums;

static void sum_up(sums *s, const float *a, const float *r, int64_t n) {
    *s = (sums){.finite = true};
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)r[i]), m = fabs((double)r[i]);
        s->finite &= isfinite(d) != 0;
        s->diff2 += d * d;
        s->ref2 += m * m;
        s->diff_max = fmax(s->diff_max, d);
        s->ref_max = fmax(s->ref_max, m);
    }
}

static double ratio(double a, double b) {
    return a == 0.0 ? 0.0 : b == 0.0 ? INFINITY : a / b;
}

static gold_error error_of(const sums *s, int64_t n) {
    if (!s->finite)
        return (gold_error){INFINITY, INFINITY, INFINITY, INFINITY};
    return (gold_error){.l2 = sqrt(ratio(s->diff2, s->ref2)),
                        .max = ratio(s->diff_max, s->ref_max),
                        .max_rms =
                            n ? ratio(s->diff_max, sqrt(s->ref2 / (double)n)) : 0.0,
                        .abs = s->diff_max};
}

/* The largest of each error over rows of n / rows elements. */
static gold_error measure(const float *a, const float *r, int64_t n, int64_t rows) {
    gold_error worst = {0};
    int64_t width = rows ? n / rows : 0;
    for (int64_t i = 0; i < rows; i++) {
        sums s;
        sum_up(&s, a + i * width, r + i * width, width);
        gold_error x = error_of(&s, width);
        worst.l2 = fmax(worst.l2, x.l2);
        worst.max = fmax(worst.max, x.max);
        worst.max_rms = fmax(worst.max_rms, x.max_rms);
        worst.abs = fmax(worst.abs, x.abs);
    }
    return worst;
}

/* Writes the errors beside their limits; true if all hold. */
static bool judge(const gold_error *x, const gold_limit *limit, bool same_bits,
                  char detail[256]) {
    const struct {
        const char *name;
        double error, limit;
    } bound[] = {{"l2", x->l2, limit->l2},
                 {"max", x->max, limit->max},
                 {"max/rms", x->max_rms, limit->max_rms},
                 {"abs", x->abs, limit->abs}};
    size_t at = 0;
    bool good = !limit->equal || same_bits;
    if (limit->equal)
        at = (size_t)snprintf(detail, 256, "not equal bit for bit, abs %.3g", x->abs);
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) {
        if (bound[i].limit <= 0.0)
            continue;
        at += (size_t)snprintf(detail + at, 256 - at, "%s%s %.3g (limit %.3g)",
                               at ? ", " : "", bound[i].name, bound[i].error,
                               bound[i].limit);
        good &= bound[i].error <= bound[i].limit;
    }
    return good;
}

/* Equal once axes of size 1 are left out. */
static bool same_shape(const shape *s, const weights_entry *x) {
    int i = 0, k = 0;
    for (;;) {
        while (i < s->rank && s->dim[i] == 1)
            i++;
        while (k < x->rank && x->dim[k] == 1)
            k++;
        if (i == s->rank || k == x->rank)
            return i == s->rank && k == x->rank;
        if (s->dim[i++] != x->dim[k++])
            return false;
    }
}

static void print_shape(char *out, size_t size, int rank, const int64_t *dim) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? ", " : "",
                               (long long)dim[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
}

/* False, and a failed result, if the shapes differ. */
static bool check_shape(gold *g, const weights_entry *x, const shape *s) {
    if (same_shape(s, x))
        return true;
    char have[96], want[96], detail[256];
    print_shape(have, sizeof have, s->rank, s->dim);
    print_shape(want, sizeof want, x->rank, x->dim);
    snprintf(detail, sizeof detail, "expected shape %s, found %s", want, have);
    frame_add(g, x->name, &(gold_error){INFINITY, INFINITY, INFINITY, INFINITY}, detail);
    return false;
}

/* Keeps the first value compared under each name. */
static void keep_value(gold *g, const char *name, const float *data, const shape *s) {
    gold_frame *f = frame_of(g);
    if (!f->settings->dump)
        return;
    for (int i = 0; i < f->n_values; i++)
        if (strcmp(f->value[i].name, name) == 0)
            return;
    size_t n = (size_t)shape_count(s);
    gold_value v = {copy_text(name), *s, make(n, sizeof(float))};
    memcpy(v.data, data, n * sizeof(float));
    f->value = grow(f->value, f->n_values, sizeof *f->value);
    f->value[f->n_values++] = v;
}

/* The file's tensor and that it counts as compared; NULL if there is none. */
static const weights_entry *take(gold *g, const char *name) {
    const weights_entry *x = gold_find_tensor(g, name);
    if (x && !g->dry)
        frame_of(g)->compared[x - weights_at(g->file, 0)] = true;
    return x;
}

void gold_check_f32(gold *g, const char *name, const float *value, shape s,
                    gold_limit limit) {
    const weights_entry *x = take(g, name);
    if (!x || g->dry || !check_shape(g, x, &s))
        return;
    if (limit.l2 <= 0 && limit.max <= 0 && limit.max_rms <= 0 && limit.abs <= 0 &&
        !limit.equal) {
        gold_fail(g, "no limit is given for %s", name);
        return;
    }
    int64_t n = shape_count(&s);
    float *ref = make((size_t)n, sizeof *ref);
    weights_to_f32(g->file, x, ref);
    int64_t rows =
        limit.per_row && s.rank > 0 && s.dim[s.rank - 1] > 0 ? n / s.dim[s.rank - 1] : 1;
    gold_error error = measure(value, ref, n, rows);
    char detail[256];
    bool same_bits = memcmp(value, ref, (size_t)n * sizeof *ref) == 0;
    bool good = judge(&error, &limit, same_bits, detail);
    frame_add(g, name, &error, good ? NULL : detail);
    keep_value(g, name, value, &s);
    mem_free(ref);
}

void gold_check(gold *g, const char *name, const tensor *value, gold_limit limit) {
    if (!gold_find_tensor(g, name) || device_failed(g->dev))
        return;
    float *data = make((size_t)tensor_count(value), sizeof *data);
    if (device_get_f32(g->dev, data, value) == OVI_OK)
        gold_check_f32(g, name, data, tensor_shape(value), limit);
    mem_free(data);
}

void gold_check_i64(gold *g, const char *name, const int64_t *value, shape s) {
    const weights_entry *x = take(g, name);
    if (!x || g->dry || !check_shape(g, x, &s))
        return;
    int64_t n = shape_count(&s), wrong = 0;
    if (x->type != DTYPE_I64) {
        frame_add(g, name, NULL, "the file's tensor is not I64");
        return;
    }
    float *as_f32 = make((size_t)n, sizeof *as_f32);
    for (int64_t i = 0; i < n; i++) {
        int64_t r;
        memcpy(&r, (const char *)weights_data(g->file, x) + (size_t)i * sizeof r,
               sizeof r);
        wrong += value[i] != r;
        as_f32[i] = (float)value[i];
    }
    char detail[64];
    snprintf(detail, sizeof detail, "%lld of %lld values differ", (long long)wrong,
             (long long)n);
    frame_add(g, name, &(gold_error){.abs = wrong ? INFINITY : 0.0},
              wrong ? detail : NULL);
    keep_value(g, name, as_f32, &s);
    mem_free(as_f32);
}

void gold_check_that(gold *g, bool ok, const char *fmt, ...) {
    if (g->dry)
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    frame_add(g, text, NULL, ok ? NULL : "");
}

/* ------------------------------------------------------------------- the handler ---- */

static void on_tap(void *user, device *d, const char *name, const tensor *t) {
    gold *g = user;
    (void)d;
    if (gold_find_tensor(g, name))
        gold_check(g, name, t, frame_of(g)->limit_of(g, name));
}

void gold_trace(gold *g, gold_limit (*limit_of)(gold *g, const char *name)) {
    frame_of(g)->limit_of = limit_of;
    device_set_trace(g->dev, true, on_tap, g);
}

void gold_trace_off(gold *g) {
    device_set_trace(g->dev, false, NULL, NULL);
}

const weights_entry *gold_find_tensor(gold *g, const char *name) {
    return g->file ? weights_find(g->file, name) : NULL;
}

weights *gold_open(gold *g, const char *name) {
    gold_frame *f = frame_of(g);
    err e = {0};
    if (strchr(name, '/')) {
        gold_fail(g, "expected the name of a file beside it, found %.200s", name);
        return NULL;
    }
    weights *w = NULL;
    char *path = os_join(g->dir, name, &e);
    if (path && weights_open(&w, path, &e) == OVI_OK) {
        f->opened = grow(f->opened, f->n_opened, sizeof(weights *));
        f->opened[f->n_opened++] = w;
    } else {
        gold_fail(g, "%s", e.text);
    }
    mem_free(path);
    return w;
}

float *gold_input(gold *g, const char *name, shape *s) {
    gold_frame *f = frame_of(g);
    const weights_entry *x = gold_find_tensor(g, name);
    if (!x || x->rank > TENSOR_MAX_RANK) {
        gold_fail(g, x ? "tensor %s has too many axes" : "tensor %s is missing", name);
        return NULL;
    }
    float *data = make((size_t)weights_entry_count(x), sizeof *data);
    weights_to_f32(g->file, x, data);
    f->owned = grow(f->owned, f->n_owned, sizeof *f->owned);
    f->owned[f->n_owned++] = data;
    *s = shape_make(x->rank, x->dim);
    return data;
}

float *gold_input_as(gold *g, const char *name, shape want, shape *s) {
    float *data = gold_input(g, name, s);
    bool fits = data && s->rank == want.rank;
    for (int i = 0; fits && i < want.rank; i++)
        fits = want.dim[i] == s->dim[i] || want.dim[i] == -1;
    if (!data || fits)
        return data;
    char expected[96], found[96];
    print_shape(expected, sizeof expected, want.rank, want.dim);
    print_shape(found, sizeof found, s->rank, s->dim);
    gold_fail(g, "tensor %s: expected shape %s, found %s", name, expected, found);
    return NULL;
}

static bool is_not_weight(const char *name) {
    return strncmp(name, "input.", 6) == 0 || strncmp(name, "mid.", 4) == 0 ||
           strncmp(name, "output.", 7) == 0 || strncmp(name, "const.", 6) == 0;
}

bool gold_bind(gold *g, weight_table *t, const weights *files) {
    err e = {0};
    t->ignore_also = is_not_weight;
    if (weight_table_bind(t, files, &e) == OVI_OK)
        return true;
    gold_fail(g, "%s", e.text);
    return false;
}

/* --------------------------------------------------------------------- releasing ---- */

void frame_release_pass(gold *g) {
    gold_frame *f = frame_of(g);
    for (int i = 0; i < f->n_owned; i++)
        mem_free(f->owned[i]);
    for (int i = 0; i < f->n_opened; i++)
        weights_close(f->opened[i]);
    mem_free(f->owned);
    mem_free(f->opened);
    f->owned = NULL;
    f->opened = NULL;
    f->n_owned = f->n_opened = 0;
}

void frame_release(gold *g) {
    gold_frame *f = frame_of(g);
    for (int i = 0; i < f->n_results; i++) {
        mem_free(f->result[i].name);
        mem_free(f->result[i].detail);
    }
    for (int i = 0; i < f->n_values; i++) {
        mem_free(f->value[i].name);
        mem_free(f->value[i].data);
    }
    mem_free(f->result);
    mem_free(f->value);
    mem_free(f->compared);
}
