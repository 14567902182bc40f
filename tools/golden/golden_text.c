/* golden_text.c: the text side against recorded values (golden/README.md, "Text side,
 * sizes, first frame"): text_clean, sizes_prompts, image_resize, umt5.
 *
 * The encoder runs each case traced, where every intermediate is compared and residual
 * sums are taken apart, and untraced, where the fused products make the outputs. */
#include <stdio.h>
#include <string.h>

#include "gold.h"
#include "media/media.h"
#include "text/prompt.h"
#include "text/sizes.h"
#include "text/tokenizer.h"
#include "text/umt5.h"

#define NAME_MAX_BYTES 160

/* ------------------------------------------------------------- cleaning and tokens
 * ---- */

static utf8_view view_of(const json_t *text) {
    return (utf8_view){json_is_string(text) ? json_string_value(text) : "",
                       json_string_length(text)};
}

static bool is_text(const buf *found, utf8_view expected) {
    return found->size == expected.size &&
           memcmp(buf_text(found), expected.data, expected.size) == 0;
}

static bool are_ids(const tokens *found, const json_t *expected) {
    if ((size_t)found->n != json_array_size(expected))
        return false;
    for (int i = 0; i < found->n; i++)
        if (json_integer_value(json_array_get(expected, (size_t)i)) != found->id[i])
            return false;
    return true;
}

static void check_case(gold *g, const tokenizer *t, size_t i, const json_t *about) {
    err *e = &g->host->err;
    buf cleaned = {0};
    tokens ids = {0};
    size_t damaged = 0;
    utf8_view expected = view_of(json_object_get(about, "cleaned"));
    if (prompt_clean(view_of(json_object_get(about, "text")), &cleaned, &damaged, e) ==
        OVI_OK)
        gold_check_that(g, is_text(&cleaned, expected),
                        "case %zu: expected \"%s\", found \"%s\"", i, expected.data,
                        buf_text(&cleaned));
    if (!err_failed(e) && tokenizer_encode(t, expected, 512, &ids, e) == OVI_OK)
        gold_check_that(g, are_ids(&ids, json_object_get(about, "ids")),
                        "case %zu: token ids of \"%s\"", i, expected.data);
    buf_release(&cleaned);
    tokens_release(&ids);
}

void gold_text_clean(gold *g) {
    const char *name = json_string_value(json_object_get(g->config, "tokenizer"));
    char path[4096];
    tokenizer *t = NULL;
    if (!name || snprintf(path, sizeof path, "%s/%s", g->dir, name) >= (int)sizeof path) {
        gold_fail(g, "the file names no tokenizer");
        return;
    }
    if (tokenizer_open(&t, path, &g->host->err) != OVI_OK)
        return;
    size_t i;
    const json_t *about;
    json_array_foreach(json_object_get(g->config, "cases"), i, about)
        check_case(g, t, i, about);
    tokenizer_free(t);
}

/* ---------------------------------------------------------------- sizes and prompts
 * ---- */

static int integer(const json_t *about, const char *key) {
    return (int)json_integer_value(json_object_get(about, key));
}

static void check_size(gold *g, const json_t *about, const char *key, frame_size found) {
    const json_t *expected = json_object_get(about, key);
    json_int_t height = json_integer_value(json_array_get(expected, 0));
    json_int_t width = json_integer_value(json_array_get(expected, 1));
    gold_check_that(g, height == found.height && width == found.width,
                    "%s of %dx%d: expected %dx%d, found %dx%d", key,
                    integer(about, "height"), integer(about, "width"), (int)height,
                    (int)width, found.height, found.width);
}

static void check_prompt(gold *g, const json_t *about, const char *variant,
                         prompt_style style) {
    utf8_view raw = view_of(json_object_get(about, "text"));
    utf8_view expected = view_of(json_object_get(about, variant));
    buf found = {0};
    bool changed = false;
    if (prompt_rewrite(style, raw, &found, &changed, &g->host->err) == OVI_OK) {
        gold_check_that(g, is_text(&found, expected), "%s: expected \"%s\", found \"%s\"",
                        variant, expected.data, buf_text(&found));
        gold_check_that(g, changed == !is_text(&found, raw), "%s: \"%s\": changed is %d",
                        variant, raw.data, changed);
    }
    buf_release(&found);
}

void gold_sizes_prompts(gold *g) {
    size_t i;
    const json_t *about;
    json_array_foreach(json_object_get(g->config, "sizes"), i, about) {
        int height = integer(about, "height"), width = integer(about, "width");
        int area = integer(about, "area");
        if (height < 1 || width < 1 || area < 1) {
            gold_fail(g, "size %zu: expected height, width and area", i);
            return;
        }
        check_size(g, about, "first_frame", size_for_image(height, width, area));
        check_size(g, about, "text_to_video", size_for_request(height, width, area));
        check_size(g, about, "image_model", size_for_image_model(height, width));
    }
    json_array_foreach(json_object_get(g->config, "prompts"), i, about) {
        check_prompt(g, about, "720x720_5s", PROMPT_AUDCAP);
        check_prompt(g, about, "960x960_5s", PROMPT_AUDIO);
        check_prompt(g, about, "960x960_10s", PROMPT_AUDIO);
    }
}

/* ------------------------------------------------------------------------- image ---- */

static void check_image(gold *g, const char *name, const json_t *about) {
    const gold_limit limit = {.abs = g->bf16 ? 1.2e-2 : 1e-4};
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof full, "input.%s.rgb", name);
    shape s;
    const float *values = gold_input(g, full, &s);
    int height = integer(about, "out_height"), width = integer(about, "out_width");
    frame_size fits = {height, width};
    if (!values || s.rank != 3 || s.dim[2] != 3 || height < 1 || width < 1) {
        gold_fail(g, "%s: expected [h, w, 3] and an output size", full);
        return;
    }
    if (json_object_get(about, "area"))
        fits = size_for_image((int)s.dim[0], (int)s.dim[1], integer(about, "area"));
    gold_check_that(g, fits.height == height && fits.width == width, "size of %s", name);
    size_t n_in = (size_t)shape_count(&s), n_out = (size_t)height * (size_t)width * 3;
    media_image image = {(int)s.dim[1], (int)s.dim[0], mem_alloc(&g->host->err, n_in, 1)};
    float *out = mem_alloc(&g->host->err, n_out, sizeof *out);
    for (size_t i = 0; image.rgb && i < n_in; i++)
        image.rgb[i] = (uint8_t)values[i];
    snprintf(full, sizeof full, "output.%s", name);
    if (image.rgb && out &&
        image_to_tensor(&image, height, width, out, &g->host->err) == OVI_OK)
        gold_check_f32(g, full, out, SHAPE(3, height, width), limit);
    mem_free(out);
    media_image_release(&image);
}

void gold_image_resize(gold *g) {
    const char *name;
    json_t *about;
    json_object_foreach(json_object_get(g->config, "cases"), name, about)
        check_image(g, name, about);
}

/* ------------------------------------------------------------------------ encoder
 * ---- */

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

static gold_limit umt5_limit(gold *g, const char *name) {
    bool stream = ends_with(name, ".out") || strncmp(name, "output.", 7) == 0;
    if (ends_with(name, ".embed"))
        return (gold_limit){.equal = true};
    if (g->bf16)
        return stream ? (gold_limit){.l2 = 3e-2, .max = 6e-2} : (gold_limit){.l2 = 2e-2};
    return (gold_limit){.max = stream ? 1e-5 : ends_with(name, ".norm1") ? 1e-6 : 5e-6};
}

#define MAX_TEXTS 16

/* The texts of a case, from padded ids and their mask. */
typedef struct text_case {
    const char *name;
    umt5_text texts[MAX_TEXTS];
    int n;
    int64_t padded;
} text_case;

static void release_case(text_case *c) {
    for (int s = 0; s < c->n; s++) {
        mem_free((void *)(uintptr_t)c->texts[s].ids);
        mem_free(c->texts[s].features);
    }
}

static bool add_text(gold *g, text_case *c, const float *ids, const float *mask,
                     int64_t dim) {
    umt5_text *t = c->texts + c->n++;
    while (t->n < c->padded && mask[t->n] != 0)
        t->n++;
    int32_t *own = mem_alloc(&g->host->err, (size_t)c->padded, sizeof *own);
    t->features = mem_alloc(&g->host->err, (size_t)(t->n * dim), sizeof(float));
    t->ids = own;
    if (!own || !t->features)
        return false;
    for (int64_t i = 0; i < t->n; i++)
        own[i] = (int32_t)ids[i];
    return true;
}

static bool load_case(gold *g, text_case *c, const char *name, int64_t dim) {
    char full[NAME_MAX_BYTES];
    shape ids_shape = {0}, mask_shape = {0};
    snprintf(full, sizeof full, "input.%s.ids", name);
    const float *ids = gold_input(g, full, &ids_shape);
    snprintf(full, sizeof full, "input.%s.mask", name);
    const float *mask = gold_input(g, full, &mask_shape);
    if (!ids || !mask || ids_shape.rank != 2 || ids_shape.dim[0] > MAX_TEXTS ||
        shape_count(&ids_shape) != shape_count(&mask_shape)) {
        gold_fail(g, "%s: expected ids and mask of the same size", name);
        return false;
    }
    *c = (text_case){.name = name, .padded = ids_shape.dim[1]};
    for (int64_t s = 0; s < ids_shape.dim[0]; s++)
        if (!add_text(g, c, ids + s * c->padded, mask + s * c->padded, dim))
            return false;
    return true;
}

static void check_outputs(gold *g, const umt5_place *at, const text_case *c) {
    char name[NAME_MAX_BYTES];
    if (umt5_encode(at, c->texts, c->n) != OVI_OK)
        return;
    for (int s = 0; s < c->n; s++) {
        snprintf(name, sizeof name, "output.%s.s%d", c->name, s);
        gold_check_f32(g, name, c->texts[s].features,
                       SHAPE(c->texts[s].n, at->model->cfg.dim), umt5_limit(g, name));
    }
}

/* The bias of a layer as [heads, query, key], which the engine never makes. */
static void check_bias(gold *g, const umt5_place *at, const text_case *c, int layer) {
    const umt5 *m = at->model;
    const gold_limit equal = {.equal = true};
    int64_t n = c->padded, heads = m->cfg.num_heads, width = 2 * n - 1;
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "mid.%s.block%d.pos_bias", c->name, layer);
    if (!gold_find_tensor(g, name))
        return;
    err *e = &g->host->err;
    float *table = mem_alloc(e, (size_t)(m->cfg.num_buckets * heads), sizeof *table);
    float *bias = mem_alloc(e, (size_t)(heads * width), sizeof *bias);
    float *full = mem_alloc(e, (size_t)(heads * n * n), sizeof *full);
    if (table && bias && full &&
        weight_to_f32(&m->weights, m->layer[layer].position, table, e) == OVI_OK) {
        const size_t mark = arena_mark(at->dev);
        const tensor stored =
            arena_push(at->dev, DTYPE_F32, SHAPE(m->cfg.num_buckets, heads));
        const tensor turned =
            arena_push(at->dev, DTYPE_F32, SHAPE(heads, m->cfg.num_buckets));
        const tensor out = arena_push(at->dev, DTYPE_F32, SHAPE(heads, width));
        device_put_f32(at->dev, &stored, table);
        op_copy(at->dev, &(copy_desc){.x = PERMUTE(stored, 1, 0), .out = turned});
        umt5_expand_positions(at->dev, &m->cfg, turned, n, out);
        (void)(device_get_f32(at->dev, bias, &out) == OVI_OK); /* latched */
        arena_reset(at->dev, mark);
        for (int64_t i = 0; i < heads * n * n; i++) {
            int64_t h = i / (n * n), query = i / n % n, key = i % n;
            full[i] = bias[h * width + key - query + n - 1];
        }
        gold_check_f32(g, name, full, SHAPE(heads, n, n), equal);
    }
    mem_free(table);
    mem_free(bias);
    mem_free(full);
}

static void check_buckets(gold *g, const umt5_config *cfg) {
    shape s = {0};
    const float *relative = gold_input(g, "input.rel_pos", &s);
    size_t n = (size_t)shape_count(&s);
    int64_t *buckets = relative ? mem_alloc(&g->host->err, n, sizeof *buckets) : NULL;
    if (!buckets)
        return;
    for (size_t i = 0; i < n; i++)
        buckets[i] = umt5_bucket(cfg, (int64_t)relative[i]);
    gold_check_i64(g, "mid.rel_bucket", buckets, s);
    mem_free(buckets);
}

static void check_texts(gold *g, const umt5_place *at, const char *name) {
    text_case c = {0};
    if (load_case(g, &c, name, at->model->cfg.dim)) {
        for (int i = 0; i < at->model->cfg.num_layers; i++)
            check_bias(g, at, &c, i);
        device_trace_prefix(g->dev, "mid.%s.", name);
        gold_trace(g, umt5_limit);
        check_outputs(g, at, &c);
        gold_trace_off(g);
        check_outputs(g, at, &c);
    }
    release_case(&c);
}

void gold_umt5(gold *g) {
    err *e = &g->host->err;
    umt5_config cfg;
    umt5 m = {0};
    store *s = NULL;
    if (umt5_config_from_json(&cfg, g->config, e) == OVI_OK &&
        umt5_init(&m, &cfg, e) == OVI_OK && gold_bind(g, &m.weights, g->file) &&
        (s = store_create(g->dev, e))) {
        store_add(s, 0, &m.weights);
        umt5_place at = {&m, s, 0, g->dev};
        const char *name;
        json_t *length;
        if (store_enter(s, &(store_needs){.parts = {STORE_ALL_PARTS}}) == OVI_OK)
            json_object_foreach(json_object_get(g->config, "text_lens"), name, length)
                check_texts(g, &at, name);
        check_buckets(g, &cfg);
    }
    store_free(s);
    umt5_release(&m);
}
