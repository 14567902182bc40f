/* noise.c: standard-normal noise, three generators (spec: Salmon et al. 2011 for Philox,
 * Matsumoto and Nishimura 1998 for MT19937, Box and Muller for the normals).
 *
 *   seed, stream, element -> counter -> Philox4x32-10 -> 4 words -> 2 pairs -> 4 normals
 *
 * Logarithm, sine and cosine are written out in f64 with + - * / and sqrt alone, each
 * rounded once (this tree is compiled without contraction), so that no libm decides bits.
 * Memory: the caller's array, nothing else. */
#include "sample/noise.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/dtype.h"

/* ------------------------------------------------------------- words to normals ---- */

typedef struct words4 {
    uint32_t w[4];
} words4;

static words4 philox(words4 c, uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p = 0xD2511F53ull * c.w[0], q = 0xCD9E8D57ull * c.w[2];
        c = (words4){{(uint32_t)(q >> 32) ^ c.w[1] ^ k0, (uint32_t)q,
                      (uint32_t)(p >> 32) ^ c.w[3] ^ k1, (uint32_t)p}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

/* ln a for 0 < a <= 1: a = m 2^e with m in [sqrt(1/2), sqrt(2)), then the series of
 * 2 artanh((m - 1)/(m + 1)). */
static double log_unit(double a) {
    static const double inverse_odd[] = {1.0,      1.0 / 3,  1.0 / 5,  1.0 / 7,
                                         1.0 / 9,  1.0 / 11, 1.0 / 13, 1.0 / 15,
                                         1.0 / 17, 1.0 / 19, 1.0 / 21};
    int e;
    double m = frexp(a, &e);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e -= 1;
    }
    double t = (m - 1) / (m + 1), z = t * t, p = inverse_odd[10];
    for (int k = 9; k >= 0; k--)
        p = p * z + inverse_odd[k];
    return 2 * t * p + e * 0.69314718055994530942;
}

/* sin and cos of b turns, 0 <= b < 1: Taylor series about the nearest quarter turn. */
static void sin_cos_turns(double b, double *sine, double *cosine) {
    static const double even[] = {/* 1/(2j)! */
                                  1.0,
                                  1.0 / 2,
                                  1.0 / 24,
                                  1.0 / 720,
                                  1.0 / 40320,
                                  1.0 / 3628800,
                                  1.0 / 479001600,
                                  1.0 / 87178291200,
                                  1.0 / 20922789888000};
    static const double odd[] = {/* 1/(2j + 1)! */
                                 1.0,
                                 1.0 / 6,
                                 1.0 / 120,
                                 1.0 / 5040,
                                 1.0 / 362880,
                                 1.0 / 39916800,
                                 1.0 / 6227020800,
                                 1.0 / 1307674368000,
                                 1.0 / 355687428096000};
    double k = floor(4 * b + 0.5), w = (b - k * 0.25) * 6.28318530717958647692;
    double y = w * w, c = even[8], s = odd[8];
    for (int j = 7; j >= 0; j--) {
        c = even[j] - c * y;
        s = odd[j] - s * y;
    }
    s *= w;
    switch ((int)k & 3) {
    case 0:
        *cosine = c, *sine = s;
        break;
    case 1:
        *cosine = -s, *sine = c;
        break;
    case 2:
        *cosine = -c, *sine = -s;
        break;
    default:
        *cosine = s, *sine = -c;
        break;
    }
}

/* Box-Muller: sqrt(-2 ln a) times sine and cosine of b turns. */
static void normal_pair(double a, double b, float *with_sine, float *with_cosine) {
    double sine, cosine, radius = sqrt(-2 * log_unit(a));
    sin_cos_turns(b, &sine, &cosine);
    *with_sine = (float)(radius * sine);
    *with_cosine = (float)(radius * cosine);
}

/* The middle of the word's interval of [0, 1). */
static double unit_of_word(uint32_t word) {
    return ((double)word + 0.5) * 0x1p-32;
}

static void normals_of_words(words4 r, bool radius_from_f32, float out[4]) {
    for (int pair = 0; pair < 4; pair += 2) {
        double a = unit_of_word(r.w[pair]), b = unit_of_word(r.w[pair + 1]);
        if (radius_from_f32)
            a = (double)(float)a;
        normal_pair(a, b, &out[pair], &out[pair + 1]);
    }
}

/* ------------------------------------------------------------------- generators ---- */

void noise_portable(const noise_source *s, uint32_t stream, uint64_t first, float *dst,
                    size_t n) {
    float lane[4];
    for (size_t done = 0; done < n;) {
        uint64_t i = first + done, call = i >> 2;
        words4 counter = {{(uint32_t)call, (uint32_t)(call >> 32), stream, 0}};
        normals_of_words(philox(counter, s->seed), false, lane);
        for (size_t k = i & 3; k < 4 && done < n; k++)
            dst[done++] = lane[k];
    }
}

/* PyTorch starts T threads; thread t's call g serves elements 4 g T + lane T + t. */
static void fill_torch_cuda(const noise_source *s, float *dst, size_t n) {
    size_t blocks = (n + 255) / 256;
    size_t most = (size_t)s->multiprocessors * (s->threads / 256);
    size_t n_threads = 256 * (blocks < most ? blocks : most);
    float normal[4];
    for (size_t g = 0; g * 4 * n_threads < n; g++) {
        for (size_t t = 0; t < n_threads; t++) {
            words4 counter = {{(uint32_t)g, 0, (uint32_t)t, 0}};
            normals_of_words(philox(counter, s->seed), true, normal);
            for (size_t lane = 0; lane < 4; lane++) {
                size_t i = (4 * g + lane) * n_threads + t;
                if (i < n)
                    dst[i] =
                        s->bf16 ? bf16_to_f32(f32_to_bf16(normal[lane])) : normal[lane];
            }
        }
    }
}

#define MT_WORDS 624

typedef struct mt19937 {
    uint32_t word[MT_WORDS];
    int used;
} mt19937;

static void mt_seed(mt19937 *m, uint32_t seed) {
    m->word[0] = seed;
    for (uint32_t i = 1; i < MT_WORDS; i++) {
        uint32_t last = m->word[i - 1];
        m->word[i] = 1812433253u * (last ^ (last >> 30)) + i;
    }
    m->used = MT_WORDS;
}

static void mt_refill(mt19937 *m) {
    for (int i = 0; i < MT_WORDS; i++) {
        uint32_t next = m->word[(i + 1) % MT_WORDS];
        uint32_t y = (m->word[i] & 0x80000000u) | (next & 0x7fffffffu);
        m->word[i] = m->word[(i + 397) % MT_WORDS] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    m->used = 0;
}

/* 24 bits of one output as a number in [0, 1). */
static float mt_uniform(mt19937 *m) {
    if (m->used == MT_WORDS)
        mt_refill(m);
    uint32_t y = m->word[m->used++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    y ^= y >> 18;
    return (float)(y & 0xffffffu) * 0x1p-24f;
}

/* 16 uniforms become 16 normals in place: u[j] gives the radius, u[j + 8] the angle. */
static void normals_of_block(float *u) {
    for (int j = 0; j < 8; j++)
        normal_pair(1 - (double)u[j], (double)u[j + 8], &u[j + 8], &u[j]);
}

static void fill_torch_cpu(const noise_source *s, float *dst, size_t n) {
    mt19937 m;
    mt_seed(&m, (uint32_t)s->seed);
    for (size_t i = 0; i < n; i++)
        dst[i] = mt_uniform(&m);
    for (size_t i = 0; i + 16 <= n; i += 16)
        normals_of_block(dst + i);
    if (n % 16 == 0)
        return;
    float *last = dst + n - 16;
    for (int j = 0; j < 16; j++)
        last[j] = mt_uniform(&m);
    normals_of_block(last);
}

ovi_status noise_fill(const noise_source *s, uint32_t stream, float *dst, size_t n,
                      err *e) {
    switch (s->kind) {
    case NOISE_PORTABLE:
        noise_portable(s, stream, 0, dst, n);
        break;
    case NOISE_TORCH_CUDA:
        fill_torch_cuda(s, dst, n);
        break;
    case NOISE_TORCH_CPU:
        if (n < 16) /* PyTorch draws such small tensors in another way */
            return err_set(e, OVI_ARGUMENT,
                           "noise torch-cpu needs at least 16 elements, found %zu", n);
        fill_torch_cpu(s, dst, n);
        break;
    }
    return OVI_OK;
}

/* ------------------------------------------------------------------------- names ---- */

/* "PxQ" with 1..65536 multiprocessors of 256..65536 threads. */
static bool parse_gpu(const char *text, uint32_t *p, uint32_t *q) {
    int end = 0;
    if (strspn(text, "0123456789x") != strlen(text) || strlen(text) > 11 ||
        sscanf(text, "%5ux%5u%n", p, q, &end) != 2 || text[end] != '\0')
        return false;
    return *p >= 1 && *p <= 65536 && *q >= 256 && *q <= 65536;
}

ovi_status noise_parse(noise_source *s, const char *name, err *e) {
    static const char cuda[] = "torch-cuda:";
    uint32_t p = 132, q = 2048;
    noise_kind kind;
    if (strcmp(name, "portable") == 0)
        kind = NOISE_PORTABLE;
    else if (strcmp(name, "torch-cpu") == 0)
        kind = NOISE_TORCH_CPU;
    else if (strcmp(name, "torch-cuda") == 0 || (strncmp(name, cuda, strlen(cuda)) == 0 &&
                                                 parse_gpu(name + strlen(cuda), &p, &q)))
        kind = NOISE_TORCH_CUDA;
    else
        return err_set(
            e, OVI_ARGUMENT,
            "noise: expected portable, torch-cuda, torch-cuda:PxQ "
            "(multiprocessors x threads, 256 or more) or torch-cpu, found '%s'",
            name);
    s->kind = kind;
    s->multiprocessors = p;
    s->threads = q;
    s->bf16 = kind == NOISE_TORCH_CUDA;
    return OVI_OK;
}
