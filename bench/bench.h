/* bench.h: what the benchmark programs share: options, devices, the rows that they print.
 *
 * Each row runs a piece of ours and the products it is made of by oneDNN alone
 * (products.h) in turn, several times, and prints the medians and their ratio: time of
 * oneDNN over time of ours, so 1 is as fast and more is faster. Only ratios within one
 * run mean anything.
 *
 *   --threads N   of both sides
 *   --repeat N    rounds that count; the first of all warms up and does not
 *   --only WORD   rows whose name holds it
 *   --type F32|BF16   rows of this type; without it both, BF16 where it is native
 *   --clock wall|cpu   cpu: processor time of the process, for a machine that others use
 *                 as well; with one thread only, as threads that wait use it too
 *   --profile     where our time goes, operation by operation
 *   --json        one object with all rows, each with its profile */
#ifndef OVI_BENCH_H
#define OVI_BENCH_H

#include "backend/backend.h"

typedef struct bench {
    host host;
    const backend *backend;
    device *d; /* while rows run */
    int n_threads, repeat;
    const char *only; /* NULL: all rows */
    bool json, profile, cpu_clock;
    bool types[DTYPE_COUNT]; /* which types are run */
    int n_rows;
    bool failed;
} bench;

/* What is measured. */
typedef struct bench_case {
    const char *name;
    void (*prepare)(device *d, void *user); /* before each run, not timed; may be NULL */
    void (*run)(device *d, void *user);
    void *user;
    size_t arena; /* bytes that one run takes at most */
} bench_case;

/* main() of a program: calls rows once for each compute type that is fast here. */
int bench_main(int argc, char **argv, void (*rows)(bench *b, dtype type));

/* Shall a row of this name be run? */
bool bench_wanted(const bench *b, const char *name);
void bench_row(bench *b, const bench_case *c);

/* -0.5 .. 0.5 */
float bench_random(uint32_t *state);
/* Keeps a tensor of such numbers: nothing is denormal or overflows. */
tensor bench_operand(device *d, dtype type, shape s);
#endif
