/* checkpoint.c: random weights in the exact official layout, names, types and containers, for
 * measurements and tests of a model whose real weights are not at hand.
 *
 * What is written comes from the same tables that bind: every model declares its tensors.
 * Values depend on (seed, tensor, element) alone. They are scaled like those of a fresh
 * model, so that activations stay of order 1, and are never zero. Memory: one piece of a
 * tensor per thread. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fault.h"
#include "engine.h"
#include "presets.h"
#include "weights/safetensors_write.h"
#include "weights/torchzip_write.h"

#define PIECE       ((int64_t)1 << 20) /* elements per thread and turn */
#define MAX_THREADS 64

/* ---- values ---- */

/* How a tensor is filled: uniform in centre +- spread. */
typedef struct value_law {
    double centre, spread;
} value_law;

typedef struct law_row {
    const char *ending;
    value_law law;
} law_row;

/* First match of the name's ending; products and convolutions go by their fan-in. */
static const law_row laws[] = {
    {"data_std", {1.0, 0.1}},
    {"data_mean", {-1.6, 0.3}},
    {"learnable_gain", {0.1, 0.05}},
    {"weight_g", {1.0, 0.1}},
    {".alpha", {0.0, 0.2}},
    {".beta", {0.0, 0.2}},
    {".gamma", {1.0, 0.15}},
    {"bias", {0.0, 0.1}},
    {"modulation", {0.0, 0.3}},
    {"token_embedding.weight", {0.0, 1.0}},
    {"pos_embedding.embedding.weight", {0.0, 0.5}},
};

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

static value_law law_of(const weight_part *part) {
    for (size_t i = 0; i < sizeof laws / sizeof laws[0]; i++)
        if (ends_with(part->name, laws[i].ending))
            return laws[i].law;
    if (part->dims.rank < 2)
        return (value_law){1.0, 0.1}; /* weight of a norm */
    double fan_in = (double)shape_count(&part->dims) / (double)part->dims.dim[0];
    return (value_law){0.0, sqrt(3.0 / fan_in)};
}

static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Elements [first, first + n), first a multiple of 4: four 16-bit numbers a hash. */
static void fill(float *dst, int64_t first, int64_t n, uint64_t key, value_law law) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = mix(key + (uint64_t)((first + i) >> 2)) >> (16 * (i & 3));
        double u = ((double)(bits & 0xffff) + 0.5) / 32768.0 - 1.0;
        dst[i] = (float)(law.centre + law.spread * u);
    }
}

/* ---- pieces, made by several threads ---- */

typedef struct piece {
    pthread_t thread;
    const weight_part *part;
    dtype type;
    uint64_t key;
    int64_t first, n;
    float *values; /* owned by the pool: [PIECE] */
    void *bytes;   /* the same as type: may be values itself */
} piece;

static void *make_piece(void *user) {
    piece *p = user;
    fill(p->values, p->first, p->n, p->key, law_of(p->part));
    dtype_from_f32(p->bytes, p->type, p->values, (size_t)p->n);
    return NULL;
}

/* ---- a file ---- */

#define MAX_FOLDERS 32

typedef struct checkpoint {
    const ovi_checkpoint_request *request;
    model_spec spec;
    models models;
    int n_threads;
    float *memory; /* owned: [2 * PIECE] a thread */
    double start;
    char *made[MAX_FOLDERS]; /* owned: folders of ours, outer ones first */
    int n_made;
    err *err;
} checkpoint;

/* Either container behind one set of calls. */
typedef struct sink {
    bool torch;
    torchzip_writer zip;
    safetensors_writer flat;
} sink;

static void sink_declare(sink *s, const weight_part *part, dtype type) {
    if (s->torch)
        torchzip_writer_declare(&s->zip, part->name, type, part->dims);
    else
        safetensors_writer_declare(&s->flat, part->name, type, part->dims.rank,
                                   part->dims.dim);
}

static void sink_put(sink *s, const void *bytes, size_t n) {
    if (s->torch)
        torchzip_writer_put(&s->zip, bytes, n);
    else
        safetensors_writer_put(&s->flat, bytes, n);
}

/* Was this stored tensor already named by an earlier row? (One tensor may serve two rows.) */
static bool seen_before(const weight_table *t, int row, int part) {
    const char *name = t->row[row].spec.part[part].name;
    for (int i = 0; i <= row; i++) {
        int n = i < row ? t->row[i].spec.n_parts : part;
        for (int k = 0; k < n; k++)
            if (strcmp(t->row[i].spec.part[k].name, name) == 0)
                return true;
    }
    return false;
}

/* The low-pass filter is part of the vocoder's definition, not a weight. */
static bool put_filter(checkpoint *c, sink *s, const weight_part *part) {
    float taps[VOCODER_TAPS];
    if (!ends_with(part->name, ".filter"))
        return false;
    if (vocoder_filter(&c->models.vocoder, taps, c->err) == OVI_OK)
        sink_put(s, taps, sizeof taps);
    return true;
}

static void put_tensor(checkpoint *c, sink *s, const weight_part *part, dtype type) {
    int64_t count = shape_count(&part->dims);
    uint64_t key = mix(c->request->seed);
    for (const char *at = part->name; *at; at++)
        key = mix(key ^ (uint8_t)*at);
    if (put_filter(c, s, part))
        return;
    for (int64_t first = 0; first < count && !err_failed(c->err);) {
        piece pieces[MAX_THREADS];
        int n = 0;
        for (; n < c->n_threads && first < count; n++) {
            float *values = c->memory + (size_t)n * 2 * PIECE;
            int64_t size = count - first < PIECE ? count - first : PIECE;
            pieces[n] = (piece){.part = part,
                                .type = type,
                                .key = key,
                                .first = first,
                                .n = size,
                                .values = values,
                                .bytes = values + PIECE};
            first += size;
            if (n > 0 &&
                (fault_strikes(FAULT_THREAD) ||
                 pthread_create(&pieces[n].thread, NULL, make_piece, &pieces[n]) != 0)) {
                err_set(c->err, OVI_MEMORY, "a thread could not be started");
                break;
            }
        }
        make_piece(&pieces[0]);
        for (int i = 0; i < n; i++) {
            if (i > 0)
                pthread_join(pieces[i].thread, NULL);
            sink_put(s, pieces[i].bytes, (size_t)pieces[i].n * dtype_size(type));
        }
    }
}

static void each_tensor(checkpoint *c, sink *s, int model, bool declare) {
    const weight_table *t = models_table(&c->models, model);
    for (int i = 0; i < t->n && !err_failed(c->err); i++) {
        const weight_spec *spec = &t->row[i].spec;
        for (int k = 0; k < spec->n_parts; k++) {
            if (seen_before(t, i, k))
                continue;
            if (declare)
                sink_declare(s, &spec->part[k], spec->published);
            else
                put_tensor(c, s, &spec->part[k], spec->published);
        }
        if (!declare && c->request->progress) {
            ovi_progress p = {spec_model_name(model), i + 1, t->n,
                              os_now() - c->start,    -1,    0};
            c->request->progress(c->request->user, &p);
        }
    }
}

static ovi_status write_model(checkpoint *c, int model) {
    const char *path = c->spec.file[model];
    sink s = {.torch = !ends_with(path, ".safetensors")};
    const char *root = model == MODEL_VOCODER ? "generator" : NULL;
    if (s.torch ? torchzip_writer_open(&s.zip, path, root, c->err) != OVI_OK
                : safetensors_writer_open(&s.flat, path, c->err) != OVI_OK)
        return c->err->status;
    each_tensor(c, &s, model, true);
    if (s.torch)
        torchzip_writer_begin(&s.zip);
    else
        safetensors_writer_begin(&s.flat);
    each_tensor(c, &s, model, false);
    return s.torch ? torchzip_writer_commit(&s.zip) : safetensors_writer_commit(&s.flat);
}

/* ---- the directory ---- */

/* A folder that did not exist. The ones that stay empty are removed at the end. */
static void make_folder(checkpoint *c, const char *path) {
    err *e = c->err;
    char *name = mem_strdup(e, path);
    if (!name)
        return;
    if (c->n_made == MAX_FOLDERS)
        err_set(e, OVI_ARGUMENT, "%s: expected at most %d new folders", path,
                MAX_FOLDERS);
    else if (mkdir(path, 0777) != 0)
        err_set(e, OVI_IO, "%s: cannot make this folder: %s", path, strerror(errno));
    if (err_failed(e))
        mem_free(name);
    else
        c->made[c->n_made++] = name;
}

/* Makes every folder on the way to path. */
static void make_folders(checkpoint *c, const char *path) {
    char *copy = mem_strdup(c->err, path);
    for (char *at = copy ? strchr(copy + 1, '/') : NULL; at && !err_failed(c->err);
         at = strchr(at + 1, '/')) {
        *at = '\0';
        if (!os_is_dir(copy))
            make_folder(c, copy);
        *at = '/';
    }
    mem_free(copy);
}

static void forget_folders(checkpoint *c) {
    while (c->n_made > 0) {
        char *name = c->made[--c->n_made];
        if (err_failed(c->err))
            (void)rmdir(name); /* refuses where something is inside */
        mem_free(name);
    }
}

static void write_text(const char *path, const char *text, err *e) {
    os_writer w;
    if (os_writer_open(&w, path, e) != OVI_OK)
        return;
    os_writer_put(&w, text, strlen(text));
    (void)(os_writer_commit(&w) == OVI_OK);
}

/* Sizes of the preset, with file names below dir; small ones get their ovi.json. */
static ovi_status take_preset(checkpoint *c, const char *json) {
    const ovi_checkpoint_request *r = c->request;
    char *path = os_join(r->dir, "ovi.json", c->err);
    if (path && os_is_file(path))
        err_set(c->err, OVI_IO, "%s: holds a model already", r->dir);
    if (!err_failed(c->err) && json) {
        (void)(spec_from_json(&c->spec, r->dir, path, json, c->err) == OVI_OK);
    } else if (!err_failed(c->err) &&
               spec_published(&c->spec, r->preset, c->err) == OVI_OK) {
        for (int i = 0; i < FILE_COUNT; i++)
            c->spec.file[i] = os_join(r->dir, spec_official_file(r->preset, i), c->err);
    }
    for (int i = 0; i < FILE_COUNT && !err_failed(c->err); i++) {
        if (os_is_file(c->spec.file[i]))
            err_set(c->err, OVI_IO, "%s: is there already", c->spec.file[i]);
        else
            make_folders(c, c->spec.file[i]);
    }
    mem_free(path);
    return c->err->status;
}

static void write_all(checkpoint *c, const char *json) {
    for (int i = 0; i < MODEL_COUNT && !err_failed(c->err); i++)
        (void)(write_model(c, i) == OVI_OK);
    if (!err_failed(c->err))
        (void)(tokenizer_write_small(c->spec.file[FILE_TOKENIZER], c->err) == OVI_OK);
    char *path = os_join(c->request->dir, "ovi.json", c->err);
    if (json && !err_failed(c->err)) /* last: its presence says that all is there */
        write_text(path, json, c->err);
    mem_free(path);
}

void ovi_checkpoint_init(ovi_checkpoint_request *request) {
    *request = (ovi_checkpoint_request){
        .struct_size = sizeof *request, .preset = "tiny", .seed = 1};
}

ovi_status ovi_make_checkpoint(const ovi_checkpoint_request *request,
                               ovi_message *message) {
    err e = {0};
    checkpoint c = {.request = request, .err = &e, .start = os_now()};
    c.n_threads = request->threads > 0 ? request->threads : os_cpu_count();
    if (c.n_threads > MAX_THREADS)
        c.n_threads = MAX_THREADS;
    const char *json = request->preset ? preset_json(request->preset) : NULL;
    if (!request->dir || !request->preset)
        err_set(&e, OVI_ARGUMENT, "make-checkpoint: expected a preset and a folder");
    else if (take_preset(&c, json) == OVI_OK) {
        model_spec copy = c.spec; /* file names stay here, sizes go to the models */
        memset(copy.file, 0, sizeof copy.file);
        c.memory = mem_alloc(&e, (size_t)c.n_threads * 2 * PIECE, sizeof(float));
        if (c.memory && models_init(&c.models, &copy, &e) == OVI_OK)
            write_all(&c, json);
    }
    forget_folders(&c);
    models_release(&c.models);
    spec_release(&c.spec);
    mem_free(c.memory);
    if (message)
        memcpy(message->text, e.text, sizeof message->text);
    return e.status;
}
