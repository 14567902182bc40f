/* noise.h: the standard-normal noise a clip starts from.
 *
 * portable    our own: element i of a stream depends on (seed, stream, i) alone and has
 *             the same bits on every machine.
 * torch-cuda  what the published program draws on a GPU of 132 multiprocessors with 2,048
 *             threads each, rounded to bf16; torch-cuda:PxQ imitates another GPU.
 * torch-cpu   what PyTorch draws on a CPU in f32.
 * With the last two, every stream starts the same sequence anew, as published. */
#ifndef OVI_SAMPLE_NOISE_H
#define OVI_SAMPLE_NOISE_H

#include "core/err.h"

typedef enum noise_kind { NOISE_PORTABLE, NOISE_TORCH_CUDA, NOISE_TORCH_CPU } noise_kind;

typedef struct noise_source {
    noise_kind kind;
    uint64_t seed;
    uint32_t multiprocessors, threads; /* torch-cuda: of the GPU to imitate */
    bool bf16;                         /* torch-cuda: round to bf16 */
} noise_source;

/* Reads a generator's name into kind, multiprocessors, threads and bf16; seed stays. */
ovi_status noise_parse(noise_source *s, const char *name, err *e) OVI_MUST_CHECK;

/* The whole tensor of n elements, row-major, of one stream (0 video, 1 audio). */
ovi_status noise_fill(const noise_source *s, uint32_t stream, float *dst, size_t n,
                      err *e) OVI_MUST_CHECK;

/* n elements of the portable generator from element `first` on. */
void noise_portable(const noise_source *s, uint32_t stream, uint64_t first, float *dst,
                    size_t n);
#endif
