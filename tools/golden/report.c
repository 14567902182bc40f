/* report.c: what the golden runner says about a file: lines, JSON, and the dump of every
 * compared value as safetensors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frame.h"
#include "weights/safetensors_write.h"

bool frame_passed(const gold *g) {
    return !gold_failed(g) && frame_of(g)->n_failed == 0;
}

/* The result with the largest error of the kind that `pick` reads. */
static const gold_result *worst_of(const gold_frame *f,
                                   double (*pick)(const gold_error *)) {
    const gold_result *worst = NULL;
    for (int i = 0; i < f->n_results; i++)
        if (f->result[i].values &&
            (!worst || pick(&f->result[i].error) > pick(&worst->error)))
            worst = &f->result[i];
    return worst;
}

static double pick_l2(const gold_error *x) {
    return x->l2;
}

static double pick_max(const gold_error *x) {
    return x->max;
}

static void print_result(const gold_result *r) {
    if (r->detail)
        printf("  FAIL %s%s%s\n", r->name, *r->detail ? ": " : "", r->detail);
    else if (r->values)
        printf("  ok   %s: l2 %.3g  max %.3g  max/rms %.3g  abs %.3g\n", r->name,
               r->error.l2, r->error.max, r->error.max_rms, r->error.abs);
    else
        printf("  ok   %s\n", r->name);
}

void report_text(const gold *g) {
    const gold_frame *f = frame_of(g);
    const gold_result *l2 = worst_of(f, pick_l2), *max = worst_of(f, pick_max);
    printf("%s %s: %s, %d compared, %d failed", frame_passed(g) ? "pass" : "FAIL",
           g->path, g->kind ? g->kind : "no kind", f->n_results, f->n_failed);
    if (l2)
        printf(", worst l2 %.2g (%s), max %.2g (%s)", l2->error.l2, l2->name,
               max->error.max, max->name);
    if (f->fallbacks > 0)
        printf(", %llu operations fell back to the reference",
               (unsigned long long)f->fallbacks);
    if (f->slow_products > 0)
        printf(", %llu products without tensor cores",
               (unsigned long long)f->slow_products);
    printf("\n");
    if (gold_failed(g))
        printf("  FAIL %s\n", f->sentence);
    for (int i = 0; i < f->n_results; i++)
        if (f->result[i].detail || f->settings->verbose)
            print_result(&f->result[i]);
}

/* JSON has no infinity: null stands for it. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* A detail may have been cut inside a character. */
static json_t *text_json(const char *s) {
    json_t *text = json_string(s);
    return text ? text : json_string("(not UTF-8)");
}

static json_t *result_json(const gold_result *r) {
    json_t *o =
        json_pack("{s:o, s:b}", "name", text_json(r->name), "ok", r->detail == NULL);
    if (r->values) {
        json_object_set_new(o, "l2", number(r->error.l2));
        json_object_set_new(o, "max", number(r->error.max));
        json_object_set_new(o, "max_rms", number(r->error.max_rms));
        json_object_set_new(o, "abs", number(r->error.abs));
    }
    if (r->detail)
        json_object_set_new(o, "detail", text_json(r->detail));
    return o;
}

json_t *report_json(const gold *g) {
    const gold_frame *f = frame_of(g);
    json_t *tensors = json_array();
    for (int i = 0; i < f->n_results; i++)
        json_array_append_new(tensors, result_json(&f->result[i]));
    json_t *o =
        json_pack("{s:o, s:s?, s:b, s:i, s:i, s:I, s:I, s:I, s:o}", "path",
                  text_json(g->path), "kind", g->kind, "passed", frame_passed(g),
                  "compared", f->n_results, "failed", f->n_failed, "arena_bytes",
                  (json_int_t)f->arena_bytes, "fallbacks", (json_int_t)f->fallbacks,
                  "slow_products", (json_int_t)f->slow_products, "tensors", tensors);
    if (gold_failed(g))
        json_object_set_new(o, "error", text_json(f->sentence));
    return o;
}

ovi_status report_dump(const gold *g, err *e) {
    const gold_frame *f = frame_of(g);
    safetensors_writer w;
    if (safetensors_writer_open(&w, f->settings->dump, e) != OVI_OK)
        return e->status;
    safetensors_writer_meta(&w, "kind", g->kind ? g->kind : "");
    for (int i = 0; i < f->n_values; i++)
        safetensors_writer_declare(&w, f->value[i].name, DTYPE_F32, f->value[i].s.rank,
                                   f->value[i].s.dim);
    safetensors_writer_begin(&w);
    for (int i = 0; i < f->n_values; i++)
        safetensors_writer_put(&w, f->value[i].data,
                               (size_t)shape_count(&f->value[i].s) * sizeof(float));
    return safetensors_writer_commit(&w);
}
