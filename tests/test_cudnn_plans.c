/* test_cudnn_plans.c: cuDNN's plans for the published sizes, chosen as the backend chooses
 * them, for six devices of which none is here. Problems are those that come by when the stages of
 * the published variants are planned, in every way of running them, and a few of odd sizes.
 * Held: each has a choice within the caps of cuda_sizes.h, and a family, which is the same
 * convolution or attention of any size, has one engine with one set of settings, so that parts
 * have the bits of the whole; and cuDNN has all of a family's convolutions or none.
 *
 * Held too: plans on disk are the same plans, and files that are damaged or of another problem
 * are said and made anew.
 *
 *   test_cudnn_plans [all] [print]   all: every variant, every attention; print: the choices
 *   Exit status 77: cuDNN is not here.
 *
 * Attention is compiled while it is planned, and the compiled code is handed to the driver:
 * tests/cuda_stub.c stands in for it. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda_dnn_graph.h"
#include "backend/cuda_sizes.h"
#include "core/os.h"
#include "ovi.h"

typedef struct profile {
    const char *name;
    int version, processors, shared_bytes; /* 90 for compute capability 9.0 */
} profile;

static const profile profiles[] = {
    {"A100", 80, 108, 166912},     {"RTX 3060", 86, 28, 101376},
    {"RTX 4090", 89, 128, 101376}, {"H200", 90, 132, 232448},
    {"B200", 100, 148, 232448},    {"RTX 5090", 120, 170, 101376}};
#define N_PROFILES ((int)(sizeof profiles / sizeof *profiles))

static void device_json(const profile *p, char *json, size_t size) {
    const bool large = p->shared_bytes > 160000;
    snprintf(json, size,
             "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
             "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"warpSize\":32,"
             "\"deviceVer\":%d,\"driverVer\":13000,\"cudaDeviceId\":0,"
             "\"smClockRateKHz\":1980000,\"memClockRateKHz\":3201000,"
             "\"l2CacheSize\":50331648,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxRegistersPerSM\":65536,\"pciDeviceId\":0,\"maxCtasPerSM\":%d,"
             "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"isTccDriver\":0,"
             "\"supportCoopLaunch\":1,\"totalGlobalMem\":25000000000,"
             "\"deviceName\":\"%s\"}",
             p->processors, 10 * p->version, p->shared_bytes,
             p->shared_bytes > 200000 ? 32 : 24, large ? 2048 : 1536, p->name);
}

#define MAX_FAMILIES 128

typedef struct family {
    dnn_problem problem; /* with no sizes */
    char words[64];      /* its engine and settings */
    const char *first;   /* who said so */
} family;

typedef struct checker {
    cuda_dnn *dnn;
    const profile *device;
    bool print;
    int checked, missing, split;
    size_t largest; /* workspace that was chosen */
    family families[MAX_FAMILIES];
    int n_families;
} checker;

/* The problem without what may differ between parts of one whole, which frames of zeros in
 * front do as well. Keys with a bias are a text, and stay. */
static dnn_problem family_of(const dnn_problem *p) {
    dnn_problem f = *p;
    memset(f.conv.size, 0, sizeof f.conv.size);
    memset(f.conv.out_size, 0, sizeof f.conv.out_size);
    f.conv.pad_lo[0] = f.conv.pad_hi[0] = 0;
    f.attention = (dnn_attention){.heads = p->attention.heads,
                                  .keys = p->attention.with_bias ? p->attention.keys : 0,
                                  .head_size = p->attention.head_size,
                                  .with_bias = p->attention.with_bias};
    return f;
}

/* Has the family no other engine so far? */
static void check_family(checker *c, const char *what, const dnn_problem *p,
                         const char *words) {
    const dnn_problem wanted = family_of(p);
    int i = 0;
    while (i < c->n_families &&
           memcmp(&c->families[i].problem, &wanted, sizeof wanted) != 0)
        i++;
    family *f = &c->families[i];
    if (i == MAX_FAMILIES)
        abort();
    if (i == c->n_families) {
        c->n_families++;
        f->problem = wanted;
        f->first = what;
        snprintf(f->words, sizeof f->words, "%s", words);
    } else if (strcmp(f->words, words) != 0) {
        printf("%s: %s: %s, but %s: %s\n", c->device->name, what, words, f->first,
               f->words);
        c->split++;
    }
}

static void check(checker *c, const char *what, const dnn_problem *p) {
    const dnn_plan *plan = cuda_dnn_plan(c->dnn, p);
    const size_t bytes = plan ? cuda_dnn_plan_bytes(plan) : 0;
    c->checked++;
    c->largest = bytes > c->largest ? bytes : c->largest;
    if (!plan) {
        c->missing++;
        printf("%s: %s: no plan within %lld bytes\n", c->device->name, what,
               (long long)p->workspace);
        return;
    }
    check_family(c, what, p, cuda_dnn_plan_words(plan));
    if (c->print)
        printf("%s: %s: %s, %zu bytes\n", c->device->name, what,
               cuda_dnn_plan_words(plan), bytes);
}

/* ---- problems of the published models ---- */

#define MAX_PROBLEMS 8192

static struct {
    dnn_problem problem[MAX_PROBLEMS];
    char what[MAX_PROBLEMS][128];
    int n;
} asked;

static void ask(const dnn_problem *p, const char *fmt, ...) OVI_PRINTF(2, 3);
static void ask(const dnn_problem *p, const char *fmt, ...) {
    va_list args;
    for (int i = 0; i < asked.n; i++)
        if (memcmp(&asked.problem[i], p, sizeof *p) == 0)
            return;
    if (asked.n == MAX_PROBLEMS)
        abort();
    va_start(args, fmt);
    vsnprintf(asked.what[asked.n], sizeof asked.what[0], fmt, args);
    va_end(args);
    asked.problem[asked.n++] = *p;
}

/* Convolutions that are alike but for sizes go all to cuDNN, or none. */
static struct {
    conv_desc like[MAX_FAMILIES];
    bool in_library[MAX_FAMILIES];
    int n, mixed;
} seen;

static bool are_alike(const conv_desc *a, const conv_desc *b) {
    return memcmp(&a->geometry, &b->geometry, sizeof a->geometry) == 0 &&
           memcmp(a->stride, b->stride, sizeof a->stride) == 0 &&
           memcmp(a->dilation, b->dilation, sizeof a->dilation) == 0 &&
           memcmp(&a->pad_lo[1], &b->pad_lo[1], 2 * sizeof a->pad_lo[1]) == 0 &&
           memcmp(&a->pad_hi[1], &b->pad_hi[1], 2 * sizeof a->pad_hi[1]) == 0 &&
           a->upsample == b->upsample && a->act == b->act && a->x.type == b->x.type &&
           !a->bias.data == !b->bias.data && !a->residual.data == !b->residual.data;
}

static void note_library(const conv_desc *d, bool in_library) {
    int i = 0;
    while (i < seen.n && !are_alike(&seen.like[i], d))
        i++;
    if (i == MAX_FAMILIES)
        abort();
    if (i == seen.n) {
        seen.like[seen.n++] = *d;
        seen.in_library[i] = in_library;
    } else if (seen.in_library[i] != in_library) {
        printf("conv %dx%dx%d %d -> %d, %d frames of %dx%d: %s cuDNN, others are %s\n",
               (int)d->geometry.kernel[0], (int)d->geometry.kernel[1],
               (int)d->geometry.kernel[2], (int)d->geometry.in_channels,
               (int)d->geometry.out_channels, (int)d->x.dim[0], (int)d->x.dim[1],
               (int)d->x.dim[2], in_library ? "for" : "not for",
               in_library ? "not" : "all");
        seen.mixed++;
    }
}

static void ask_conv(const conv_desc *d) {
    const conv_geometry *g = &d->geometry;
    dnn_problem p;
    if (dnn_problem_of_conv(d, &p))
        ask(&p, "conv %dx%dx%d %d -> %d, %d frames of %dx%d%s", (int)g->kernel[0],
            (int)g->kernel[1], (int)g->kernel[2], (int)g->in_channels,
            (int)g->out_channels, (int)d->x.dim[0], (int)d->x.dim[1], (int)d->x.dim[2],
            d->residual.data ? ", residual" : "");
}

/* One of 2x2 taps of those that stand for one behind a doubling (cuda_conv.c), of all frames
 * that are taken at a time. */
static void ask_folded(const conv_desc *d) {
    const int64_t all = d->x.dim[0], most = cuda_conv_pieces(d).frames;
    const int64_t counts[2] = {most, all % most};
    for (int i = 0; i < 2; i++) {
        const int64_t n = counts[i], out = d->geometry.out_channels;
        if (n == 0)
            continue;
        ask_conv(&(conv_desc){
            .geometry = {out, d->geometry.in_channels, {1, 2, 2}},
            .x = tensor_slice(d->x, 0, 0, n),
            .out = tensor_make(d->out.data, DTYPE_BF16,
                               SHAPE(n, d->x.dim[1] + 1, d->x.dim[2] + 1, out)),
            .pad_lo = {0, 1, 1},
            .pad_hi = {0, 1, 1}});
    }
}

#define TEXT_KEYS 576 /* more than any text has */
static int64_t text_step = CUDA_KEYS_GRAIN;

/* With a bias, which stands for a text, those of all lengths that prompts have. */
static void ask_attention(const attention_desc *d) {
    const int64_t first = d->key_bias.data ? CUDA_KEYS_GRAIN : d->k.dim[1];
    const int64_t last = d->key_bias.data ? TEXT_KEYS : first;
    attention_desc a = *d;
    for (int64_t keys = first; keys <= last; keys += text_step) {
        dnn_problem p;
        a.k.dim[1] = a.v.dim[1] = a.key_bias.dim[0] = keys;
        if (dnn_problem_of_attention(&a, &p))
            ask(&p, "attention %dx%d heads of %d, %d queries, %d keys%s", (int)a.q.dim[0],
                (int)a.q.dim[2], (int)a.q.dim[3], (int)a.q.dim[1], (int)keys,
                a.key_bias.data ? ", bias" : "");
    }
}

/* Stands in for what the backend offers: every operation of a plan comes by. */
static const char *collect(const device_options *o, op_kind op, const void *desc) {
    if (op == OP_CONV)
        note_library(desc, cuda_conv_is_folded(desc) || cuda_conv_in_library(desc));
    if (op == OP_CONV && cuda_conv_is_folded(desc))
        ask_folded(desc);
    else if (op == OP_CONV)
        ask_conv(desc);
    else if (op == OP_ATTENTION)
        ask_attention(desc);
    return cuda_supports(o, op, desc);
}

/* All stages of a variant in every way of running them, with a first frame and without. */
static void ask_variant(const char *name, const char *aspect) {
    ovi_settings settings;
    ovi_request request;
    ovi_engine *engine;
    ovi_plan plan;
    unsigned char grey[16 * 16 * 3] = {0};
    ovi_image image = {16, 16, grey, NULL};
    ovi_settings_init(&settings);
    settings.variant = name;
    settings.device = "cuda";
    settings.dtype = "bf16";
    ovi_request_init(&request);
    request.aspect = aspect;
    if (ovi_open_without_weights(&settings, &engine) != OVI_OK)
        abort();
    backend_cuda.supports = collect; /* opening fills the table */
    if (ovi_make_plan(engine, &request, &plan) != OVI_OK)
        abort();
    request.image = &image;
    if (ovi_make_plan(engine, &request, &plan) != OVI_OK)
        abort();
    ovi_close(engine);
}

/* Where every attention is compiled, texts are as short and as long as they may be: a third of a
 * second each, on six devices. */
static void ask_all(bool all) {
    if (all)
        text_step = TEXT_KEYS - CUDA_KEYS_GRAIN;
    ask_variant("720x720_5s", "1:1");
    if (!all)
        return;
    ask_variant("720x720_5s", "16:9");
    ask_variant("720x720_5s", "9:16");
    ask_variant("960x960_5s", "1:1");
    ask_variant("960x960_10s", "1:1");
}

static void *const somewhere = (void *)4096; /* never looked at */

static tensor frames(int64_t t, int64_t h, int64_t w, int64_t channels) {
    return tensor_make(somewhere, DTYPE_BF16, SHAPE(t, h, w, channels));
}

/* The convolution, giving so many frames, rows and columns. */
static void resize(dnn_conv *c, const int64_t out_size[3]) {
    for (int i = 0; i < 3; i++) {
        c->out_size[i] = out_size[i];
        c->size[i] = (out_size[i] - 1) * c->stride[i] +
                     c->dilation[i] * (c->kernel[i] - 1) + 1 - c->pad_lo[i] -
                     c->pad_hi[i];
    }
}

/* Convolutions of the families that came by, of sizes that no published way has. */
static void ask_odd_sizes(void) {
    static const int64_t pictures[][3] = {{1, 1, 1},     {1, 3, 200},  {1, 18, 29},
                                          {2, 31, 33},   {3, 177, 95}, {5, 64, 200},
                                          {7, 120, 121}, {6, 240, 240}};
    static const int64_t lines[][3] = {{1, 1, 1}, {1, 1, 50}, {1, 1, 314}, {1, 1, 1024}};
    const int published = asked.n;
    for (int i = 0; i < published; i++) {
        const dnn_conv *c = &asked.problem[i].conv;
        const bool line = c->kernel[1] == 1 && c->kernel[2] > 1;
        const size_t n =
            line ? sizeof lines / sizeof *lines : sizeof pictures / sizeof *pictures;
        for (size_t k = 0; k < n && c->in > 0; k++) {
            dnn_problem p = family_of(&asked.problem[i]);
            resize(&p.conv, line ? lines[k] : pictures[k]);
            if (p.conv.size[1] > 0 && p.conv.size[2] > 0)
                ask(&p, "conv %dx%dx%d %d -> %d to %d frames of %dx%d%s",
                    (int)c->kernel[0], (int)c->kernel[1], (int)c->kernel[2], (int)c->in,
                    (int)c->out, (int)p.conv.out_size[0], (int)p.conv.out_size[1],
                    (int)p.conv.out_size[2], c->with_residual ? ", residual" : "");
        }
    }
}

/* ---- plans on disk ---- */

#define N_KEPT 3

/* A convolution and an attention of the published sizes, without a bias and with one. */
static void kept_problems(dnn_problem p[N_KEPT]) {
    const tensor q = tensor_make(somewhere, DTYPE_BF16, SHAPE(1, 15004, 24, 128));
    const tensor text = tensor_slice(q, 1, 0, 130);
    const attention_desc attention = {.q = q, .k = q, .v = q, .out = q, .scale = 1};
    attention_desc biased = attention;
    biased.k = biased.v = text;
    biased.key_bias = tensor_make(somewhere, DTYPE_F32, SHAPE(130));
    conv_desc conv = {.geometry = {1024, 1024, {3, 3, 3}},
                      .x = frames(3, 44, 44, 1024),
                      .bias = tensor_make(somewhere, DTYPE_F32, SHAPE(1024)),
                      .out = frames(1, 44, 44, 1024),
                      .pad_lo = {0, 1, 1},
                      .pad_hi = {0, 1, 1}};
    if (!dnn_problem_of_attention(&attention, &p[0]) ||
        !dnn_problem_of_attention(&biased, &p[1]) || !dnn_problem_of_conv(&conv, &p[2]))
        abort();
}

static int warnings;
static void count_warnings(void *user, ovi_log_level level, const char *line) {
    (void)user;
    (void)line;
    warnings += level == OVI_LOG_WARN;
}

typedef struct kept_run {
    char words[N_KEPT][64];
    size_t bytes[N_KEPT];
    double seconds;
    int warnings;
} kept_run;

/* Opens the library anew and plans all of them. */
static bool plan_kept(const char *json, const char *folder, kept_run *run) {
    char why[512];
    host log = {.log = count_warnings, .level = OVI_LOG_WARN};
    dnn_problem p[N_KEPT];
    kept_problems(p);
    cuda_dnn *dnn = cuda_dnn_open(
        &(cuda_dnn_options){
            .device = json, .folders = CUDA_FOLDERS, .plans = folder, .host = &log},
        why, sizeof why);
    bool good = dnn != NULL;
    const double start = os_now();
    warnings = 0;
    for (int i = 0; i < N_KEPT && good; i++) {
        const dnn_plan *plan = cuda_dnn_plan(dnn, &p[i]);
        good = plan != NULL;
        if (good) {
            snprintf(run->words[i], 64, "%s", cuda_dnn_plan_words(plan));
            run->bytes[i] = cuda_dnn_plan_bytes(plan);
        }
    }
    run->seconds = os_now() - start;
    run->warnings = warnings;
    cuda_dnn_close(dnn);
    return good;
}

static bool same_plans(const kept_run *a, const kept_run *b) {
    return memcmp(a->words, b->words, sizeof a->words) == 0 &&
           memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* Calls on every file of the folder; returns how many there are. */
static int for_files(const char *folder, void (*call)(const char *path)) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[1024];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        call(path);
        n++;
    }
    if (dir)
        closedir(dir);
    return n;
}

/* One bit in the middle of the plan. */
static void damage(const char *path) {
    FILE *f = fopen(path, "r+b");
    if (!f || fseek(f, -100, SEEK_END) != 0)
        abort();
    const int c = fgetc(f);
    fseek(f, -100, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
}

static void cut_short(const char *path) {
    if (truncate(path, 40) != 0)
        abort();
}

static void remove_file(const char *path) {
    unlink(path);
}

/* One problem's plan under the name of the other. */
static char other_path[1024];
static void take_other(const char *path) {
    if (!other_path[0])
        snprintf(other_path, sizeof other_path, "%s", path);
    else
        rename(other_path, path);
}

static bool check_kept(const profile *here) {
    char json[2048], base[] = "/tmp/ovi-plans-XXXXXX", folder[64], real[300] = "";
    kept_run made = {0}, found = {0}, again = {0};
    void (*const spoil[])(const char *) = {damage, cut_short, take_other};
    const int missed[] = {N_KEPT, N_KEPT, 1};
    device_json(here, json, sizeof json);
    other_path[0] = '\0';
    if (!mkdtemp(base))
        return false;
    snprintf(folder, sizeof folder, "%s/plans", base);
    bool good = plan_kept(json, folder, &made) && plan_kept(json, folder, &found) &&
                same_plans(&made, &found) && found.warnings == 0;
    DIR *dir = opendir(base);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            snprintf(real, sizeof real, "%s/%s", base, e->d_name);
    if (dir)
        closedir(dir);
    printf("%s: made in %.3f s, from disk in %.3f s\n", here->name, made.seconds,
           found.seconds);
    for (int i = 0; i < 3 && good; i++) {
        good = for_files(real, spoil[i]) == N_KEPT && plan_kept(json, folder, &again) &&
               same_plans(&made, &again) && again.warnings == missed[i];
        if (!good)
            printf("spoiled in way %d: %d warnings\n", i, again.warnings);
    }
    for_files(real, remove_file);
    rmdir(real);
    rmdir(base);
    return good;
}

/* ---- notes of an engine, from a library that is played ---- */

static cudnnStatus_t make_nothing(cudnnBackendDescriptorType_t type,
                                  cudnnBackendDescriptor_t *made) {
    static int something;
    (void)type;
    *made = &something;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t drop_nothing(cudnnBackendDescriptor_t d) {
    (void)d;
    return CUDNN_STATUS_SUCCESS;
}

static struct {
    cudnnStatus_t status; /* of reading notes */
    int64_t n;            /* as many as it says there are, at most 64 are written */
    int value;
} notes;

static cudnnStatus_t get_notes(cudnnBackendDescriptor_t d,
                               cudnnBackendAttributeName_t name,
                               cudnnBackendAttributeType_t type, int64_t room, int64_t *n,
                               void *values) {
    (void)d, (void)type;
    *n = name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES ? 0 : 1;
    if (name != CUDNN_ATTR_ENGINE_NUMERICAL_NOTE &&
        name != CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE)
        return CUDNN_STATUS_SUCCESS;
    *n = notes.n;
    for (int64_t i = 0; i < notes.n && i < room; i++)
        ((int *)values)[i] = notes.value;
    return notes.status;
}

/* An engine is taken for one that repeats its bits and is compiled only if it says so. */
static bool check_notes(void) {
    const dnn_library played = {
        .make = make_nothing, .drop = drop_nothing, .get = get_notes};
    static const struct {
        cudnnStatus_t status;
        int64_t n;
        int value;
        bool repeats, compiles;
    } rows[] = {
        {CUDNN_STATUS_SUCCESS, 0, 0, true, false},
        {CUDNN_STATUS_SUCCESS, 1, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, true, true},
        {CUDNN_STATUS_SUCCESS, 1, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, false, false},
        {CUDNN_STATUS_NOT_SUPPORTED, 0, 0, false, true},
        {CUDNN_STATUS_SUCCESS, 100000, CUDNN_NUMERICAL_NOTE_FFT, false, true}};
    bool good = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int config;
        dnn_engine engine;
        notes.status = rows[i].status;
        notes.n = rows[i].n;
        notes.value = rows[i].value;
        if (!dnn_look_at(&played, &config, &engine) ||
            engine.repeats != rows[i].repeats || engine.compiles != rows[i].compiles) {
            printf("notes %zu: repeats %d, compiles %d\n", i, engine.repeats,
                   engine.compiles);
            good = false;
        }
    }
    return good;
}

/* ---- */

static bool check_profile(const profile *here, bool all, bool print, bool *skipped) {
    char json[2048], why[512] = "";
    device_json(here, json, sizeof json);
    checker c = {.device = here, .print = print};
    c.dnn = cuda_dnn_open(&(cuda_dnn_options){.device = json, .folders = CUDA_FOLDERS},
                          why, sizeof why);
    if (!c.dnn) {
        printf("%s\n", why);
        *skipped = true;
        return false;
    }
    int attentions[2] = {0};            /* without a bias, with one */
    for (int i = 0; i < asked.n; i++) { /* compiling an attention takes up to a second */
        const dnn_problem *p = &asked.problem[i];
        const bool compiles = p->conv.in == 0, biased = p->attention.with_bias != 0;
        if (compiles && !all && attentions[biased] == 2)
            continue;
        attentions[biased] += compiles;
        check(&c, asked.what[i], p);
    }
    printf("%s, cuDNN %s: %d plans of %d families, %d missing, %d of another engine, at "
           "most "
           "%zu bytes of workspace\n",
           here->name, cuda_dnn_version(c.dnn), c.checked, c.n_families, c.missing,
           c.split, c.largest);
    cuda_dnn_close(c.dnn);
    return c.missing == 0 && c.split == 0 && attentions[0] > 0 && attentions[1] > 0;
}

int main(int argc, char **argv) {
    bool print = false, all = false, good = true, skipped = false;
    for (int i = 1; i < argc; i++) {
        print = print || strcmp(argv[i], "print") == 0;
        all = all || strcmp(argv[i], "all") == 0;
    }
    if (!dlopen(CUDA_STUB, RTLD_NOW | RTLD_GLOBAL)) {
        printf("%s\n", dlerror());
        return 1;
    }
    ask_all(all);
    ask_odd_sizes();
    good = check_notes() && seen.mixed == 0;
    for (int i = 0; i < N_PROFILES && !skipped; i++)
        good = check_profile(&profiles[i], all, print, &skipped) && good;
    if (!skipped)
        good = check_kept(&profiles[1]) && check_kept(&profiles[3]) && good;
    return skipped ? 77 : good ? 0 : 1;
}
