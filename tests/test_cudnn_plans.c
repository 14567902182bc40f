/* test_cudnn_plans.c: cuDNN's plans for the published sizes, chosen as the backend chooses
 * them, for six devices of which none is here. Held: every product of the video decoder and
 * every attention has a choice within the caps of cuda_sizes.h.
 *
 * Held too: plans on disk are the same plans, and files that are damaged or of another problem
 * are said and made anew.
 *
 *   test_cudnn_plans [all | print]   all: every size, on every device; print: the choices
 *   Exit status 77: cuDNN is not here.
 *
 * Attention is compiled while it is planned, and the compiled code is handed to the driver:
 * tests/cuda_stub.c stands in for it. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda_sizes.h"
#include "core/os.h"

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

typedef struct checker {
    cuda_dnn *dnn;
    const profile *device;
    bool print;
    int checked, missing;
    size_t largest; /* workspace that was chosen */
} checker;

static void check(checker *c, const char *what, const dnn_problem *p) {
    const dnn_plan *plan = cuda_dnn_plan(c->dnn, p);
    const size_t bytes = plan ? cuda_dnn_plan_bytes(plan) : 0;
    c->checked++;
    c->largest = bytes > c->largest ? bytes : c->largest;
    if (!plan) {
        c->missing++;
        printf("%s: %s: no plan within %lld bytes\n", c->device->name, what,
               (long long)p->workspace);
    } else if (c->print) {
        printf("%s: %s: %s, %zu bytes\n", c->device->name, what,
               cuda_dnn_plan_words(plan), bytes);
    }
}

/* ---- convolutions of the video decoder ---- */

static void *const somewhere = (void *)4096; /* never looked at */

static tensor frames(int64_t t, int64_t h, int64_t w, int64_t channels) {
    return tensor_make(somewhere, DTYPE_BF16, SHAPE(t, h, w, channels));
}

/* pad_t: zero frames instead of history. */
static void check_conv(checker *c, const int64_t kernel[3], tensor x, int64_t out,
                       int64_t pad_t, bool residual) {
    conv_desc d = {.geometry = {out, x.dim[3], {kernel[0], kernel[1], kernel[2]}},
                   .x = x,
                   .bias = tensor_make(somewhere, DTYPE_F32, SHAPE(out))};
    d.pad_lo[0] = pad_t;
    for (int i = 1; i < 3; i++)
        d.pad_lo[i] = d.pad_hi[i] = kernel[i] / 2;
    d.out = frames(x.dim[0] + pad_t - kernel[0] + 1, x.dim[1], x.dim[2], out);
    if (residual)
        d.residual = d.out;
    char what[128];
    snprintf(what, sizeof what, "conv %dx%dx%d %lld -> %lld, %lld frames of %lldx%lld%s",
             (int)kernel[0], (int)kernel[1], (int)kernel[2], (long long)x.dim[3],
             (long long)out, (long long)x.dim[0], (long long)x.dim[1],
             (long long)x.dim[2], residual ? ", residual" : "");
    dnn_problem p;
    if (dnn_problem_of_conv(&d, &p))
        check(c, what, &p);
    else
        c->missing++, printf("%s: not for cuDNN\n", what);
}

/* One of 2x2 taps of those that stand for one behind a doubling. */
static void check_folded(checker *c, tensor x, int64_t out) {
    conv_desc d = {
        .geometry = {out, x.dim[3], {1, 2, 2}},
        .x = x,
        .out = frames(x.dim[0], x.dim[1] + 1, x.dim[2] + 1, out),
        .pad_lo = {0, 1, 1},
        .pad_hi = {0, 1, 1},
    };
    char what[128];
    snprintf(what, sizeof what, "folded %lld -> %lld, %lld frames of %lldx%lld",
             (long long)x.dim[3], (long long)out, (long long)x.dim[0],
             (long long)x.dim[1], (long long)x.dim[2]);
    dnn_problem p;
    if (dnn_problem_of_conv(&d, &p))
        check(c, what, &p);
    else
        c->missing++, printf("%s: not for cuDNN\n", what);
}

static const int64_t cube[3] = {3, 3, 3}, point[3] = {1, 1, 1}, in_time[3] = {3, 1, 1};

/* The two convolutions of a residual block over t new frames, and its shortcut. */
static void check_block(checker *c, int64_t t, int64_t h, int64_t w, int64_t in,
                        int64_t out, bool first) {
    const int64_t history = first ? 0 : 2, pad = first ? 2 : 0;
    check_conv(c, cube, frames(history + t, h, w, in), out, pad, false);
    check_conv(c, cube, frames(history + t, h, w, out), out, pad, true);
    if (in != out)
        check_conv(c, point, frames(t, h, w, in), out, 0, false);
}

/* A chunk of the decoder over latents of h x w (video_decode.c). */
static void check_decoder(checker *c, int64_t h, int64_t w, bool first) {
    const int64_t history = first ? 0 : 2, pad = first ? 2 : 0, t = first ? 1 : 2;
    check_conv(c, cube, frames(first ? 1 : 3, h, w, 48), 1024, pad, false);
    check_block(c, 1, h, w, 1024, 1024, first);
    if (!first)
        check_conv(c, in_time, frames(history + 1, h, w, 1024), 2048, 0, false);
    check_folded(c, frames(t, h, w, 1024), 1024);
    check_block(c, t, 2 * h, 2 * w, 1024, 1024, first);
    if (!first)
        check_conv(c, in_time, frames(history + t, 2 * h, 2 * w, 1024), 2048, 0, false);
    check_folded(c, frames(first ? 1 : 2, 2 * h, 2 * w, 1024), 1024);
    check_block(c, first ? 1 : 4, 4 * h, 4 * w, 1024, 512, first);
    check_block(c, first ? 1 : 4, 4 * h, 4 * w, 512, 512, first);
    check_folded(c, frames(1, 4 * h, 4 * w, 512), 512);
    check_block(c, first ? 1 : 4, 8 * h, 8 * w, 512, 256, first);
    check_block(c, first ? 1 : 4, 8 * h, 8 * w, 256, 256, first);
}

/* ---- attention ---- */

static void check_attention(checker *c, int64_t batch, int64_t heads, int64_t queries,
                            int64_t keys, int64_t head) {
    /* q, k and v as columns of one tensor, as the fusion model has them */
    const tensor q =
        tensor_make(somewhere, DTYPE_BF16, SHAPE(batch, queries, 3 * heads, head));
    const tensor k =
        tensor_make(somewhere, DTYPE_BF16, SHAPE(batch, keys, 3 * heads, head));
    attention_desc d = {
        .q = tensor_slice(q, 2, 0, heads),
        .k = tensor_slice(k, 2, heads, heads),
        .v = tensor_slice(k, 2, 2 * heads, heads),
        .out = tensor_make(somewhere, DTYPE_BF16, SHAPE(batch, queries, heads, head)),
        .scale = 1};
    char what[128];
    snprintf(what, sizeof what,
             "attention %lldx%lld heads of %lld, %lld queries, %lld keys",
             (long long)batch, (long long)heads, (long long)head, (long long)queries,
             (long long)keys);
    dnn_problem p;
    if (dnn_problem_of_attention(&d, &p))
        check(c, what, &p);
    else
        c->missing++, printf("%s: not for cuDNN\n", what);
}

static void check_attentions(checker *c, int64_t video, int64_t audio) {
    check_attention(c, 2, 24, video, video, 128);
    check_attention(c, 1, 24, audio, audio, 128);
    check_attention(c, 1, 24, audio, video, 128);
    check_attention(c, 1, 24, video, audio, 128);
    check_attention(c, 1, 24, video, 150, 128);
}

/* ---- plans on disk ---- */

/* An attention and a convolution of the published sizes. */
static void kept_problems(dnn_problem p[2]) {
    const tensor q = tensor_make(somewhere, DTYPE_BF16, SHAPE(1, 15004, 24, 128));
    conv_desc conv = {.geometry = {1024, 1024, {3, 3, 3}},
                      .x = frames(3, 44, 44, 1024),
                      .bias = tensor_make(somewhere, DTYPE_F32, SHAPE(1024)),
                      .out = frames(1, 44, 44, 1024),
                      .pad_lo = {0, 1, 1},
                      .pad_hi = {0, 1, 1}};
    if (!dnn_problem_of_attention(
            &(attention_desc){.q = q, .k = q, .v = q, .out = q, .scale = 1}, &p[0]) ||
        !dnn_problem_of_conv(&conv, &p[1]))
        abort();
}

static int warnings;
static void count_warnings(void *user, ovi_log_level level, const char *line) {
    (void)user;
    (void)line;
    warnings += level == OVI_LOG_WARN;
}

typedef struct kept_run {
    char words[2][64];
    size_t bytes[2];
    double seconds;
    int warnings;
} kept_run;

/* Opens the library anew and plans both problems. */
static bool plan_both(const char *json, const char *folder, kept_run *run) {
    char why[512];
    host log = {.log = count_warnings, .level = OVI_LOG_WARN};
    dnn_problem p[2];
    kept_problems(p);
    cuda_dnn *dnn = cuda_dnn_open(
        &(cuda_dnn_options){
            .device = json, .folders = CUDA_FOLDERS, .plans = folder, .host = &log},
        why, sizeof why);
    bool good = dnn != NULL;
    const double start = os_now();
    warnings = 0;
    for (int i = 0; i < 2 && good; i++) {
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
    const int missed[] = {2, 2, 1};
    device_json(here, json, sizeof json);
    other_path[0] = '\0';
    if (!mkdtemp(base))
        return false;
    snprintf(folder, sizeof folder, "%s/plans", base);
    bool good = plan_both(json, folder, &made) && plan_both(json, folder, &found) &&
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
        good = for_files(real, spoil[i]) == 2 && plan_both(json, folder, &again) &&
               same_plans(&made, &again) && again.warnings == missed[i];
        if (!good)
            printf("spoiled in way %d: %d warnings\n", i, again.warnings);
    }
    for_files(real, remove_file);
    rmdir(real);
    rmdir(base);
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
    check_decoder(&c, 44, 44, false);
    if (all) {
        check_decoder(&c, 44, 44, true);
        check_decoder(&c, 60, 60, false);
        check_decoder(&c, 60, 60, true);
        check_decoder(&c, 30, 54, false);
        check_attentions(&c, 15004, 157);
        check_attentions(&c, 27900, 157);
        check_attentions(&c, 54900, 314);
    } else if (here->version == 90 || here->version == 86) {
        check_attention(&c, 1, 24, 15004, 15004, 128);
        check_attention(&c, 1, 24, 157, 15004, 128);
    }
    printf("%s, cuDNN %s: %d plans, %d missing, at most %zu bytes of workspace\n",
           here->name, cuda_dnn_version(c.dnn), c.checked, c.missing, c.largest);
    cuda_dnn_close(c.dnn);
    return c.missing == 0;
}

int main(int argc, char **argv) {
    const bool print = argc > 1 && strcmp(argv[1], "print") == 0;
    const bool all = argc > 1 && strcmp(argv[1], "all") == 0;
    bool good = true, skipped = false;
    if (!dlopen(CUDA_STUB, RTLD_NOW | RTLD_GLOBAL)) {
        printf("%s\n", dlerror());
        return 1;
    }
    for (int i = 0; i < N_PROFILES && !skipped; i++)
        good = check_profile(&profiles[i], all, print, &skipped) && good;
    if (!skipped)
        good = check_kept(&profiles[1]) && check_kept(&profiles[3]) && good;
    return skipped ? 77 : good ? 0 : 1;
}
