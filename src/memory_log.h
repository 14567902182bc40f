/* memory_log.h: what was on the device when: lines that people know from the log, and samples
 * for the memory report. Every line is printed only when it is true. */
#ifndef OVI_MEMORY_LOG_H
#define OVI_MEMORY_LOG_H

#include "core/host.h"

#define MEMORY_MODELS 5 /* one for each model_id */

typedef struct memory_sample {
    double t;          /* seconds since the call began */
    const char *stage; /* "diffuse" */
    const char *event; /* "after load", "Fusion model unloaded"; NULL: a step between */
    size_t model[MEMORY_MODELS]; /* weights of each model */
    size_t arena;                /* the region of activations */
    size_t
        workspace; /* of the arena: the most that one operation has taken in this stage */
    size_t allocated; /* by our counters */
    size_t reserved;  /* what the system says our regions cost */
    size_t free;
    size_t own,
        files; /* with an event: our own pages, and those of mapped files beside them */
} memory_sample;

typedef struct memory_log {
    memory_sample *sample; /* owned */
    int n, capacity;
    int n_steps;     /* of the samples: without a line */
    int64_t n_asked; /* steps so far, */
    int thinned;     /* of which one in 1 << thinned has a sample */
    size_t bound;    /* least device memory that a stage was to fit; 0: none yet */
    double start;
} memory_log;

void memory_log_clear(memory_log *m);
void memory_log_begin(ovi_engine *engine);
/* A sample and its line: "GPU mem <when> -> alloc=.., reserved=.., free=..". */
void memory_log_event(ovi_engine *engine, const char *stage, const char *when);
/* The lines and samples around a release, each told if it is true. */
typedef struct memory_release {
    uint32_t models;   /* that go, as bits */
    const char *stage; /* that ends, or begins and needs others */
    bool diffused;     /* the fusion model has done its work: it goes after diffusion */
    bool for_vae;      /* and what comes next is a VAE */
} memory_release;
void memory_log_before_release(ovi_engine *engine, const memory_release *r);
void memory_log_after_release(ovi_engine *engine, const memory_release *r);
/* What a stage may take on the device, as it was chosen. */
void memory_log_bound(ovi_engine *engine, size_t bytes);
/* A sample only; of very many steps, of some. */
void memory_log_step(ovi_engine *engine, const char *stage);
/* What people are told to check when memory runs out: is the fusion model unloaded, what is
 * allocated, what is reserved, what do other programs hold. */
#define MEMORY_ANSWERS_MAX 256
void memory_log_answers(ovi_engine *engine, char text[MEMORY_ANSWERS_MAX]);
/* memory_report.c: as .svg or .json, by the ending of path. Can a report be written there? Asked
 * before any work. */
ovi_status memory_log_check(const char *path, err *e) OVI_MUST_CHECK;
/* The report of a call that ends as the engine's error says, if anything was measured. A call
 * that has failed already keeps its error. path: NULL: none is wanted. */
void memory_log_report(ovi_engine *engine, const char *path);
#endif
