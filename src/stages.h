/* stages.h: the stages of the pipeline, what each needs, and the ways in which it can run. */
#ifndef OVI_STAGES_H
#define OVI_STAGES_H

#include "engine.h"

/* How a stage is run. Zero is the plain way: everything resident, all at once. No option
 * changes a bit of the result, blended tiles and the processor's excepted. */
typedef struct stage_options {
    bool streamed;      /* parts of the big model come through slots */
    int resident_parts; /* but for the first so many */
    int slots;
    bool in_turn; /* guidance branches one after the other in every block */
    int64_t ffn_rows, query_rows; /* rows at a time; 0: all */
    int tiles_y, tiles_x;         /* video decoder in exact parts; 0: the whole frame */
    int blended; /* the stages in front of them in so many parts a side: pixels change */
    bool on_cpu; /* beside the device: values differ by rounding */
    bool held;   /* weights of all phases stay, and after the stage as well (ovi_hold) */
} stage_options;

#define MAX_CANDIDATES 16

typedef struct stage_candidate {
    char what[96]; /* for people: "12 of 30 blocks resident, branches in turn" */
    stage_options options;
} stage_candidate;

/* One run of a stage on one device. */
typedef struct stage_context {
    job *job;
    models *models;
    device *dev;
    store *store;
    bool dry;
    stage_options options;
    double load_seconds; /* until each phase had its weights, in all */
    uint64_t bytes_read; /* of weight files, in the phases before this one */
    store_stats reused;  /* what the first phase found on the device */
    uint32_t resident;   /* models that were brought in, as bits */
} stage_context;

typedef struct stage {
    const char *name, *models; /* models: for people */
    model_id model;            /* the main one */
    uint32_t files;            /* that must be there, as bits (NEEDS) */
    void (*run)(stage_context *c);
    /* What is resident in a phase of the stage (0, 1, ..); false: there is no such phase. */
    bool (*needs)(const stage_context *c, int phase, store_needs *needs);
    /* Ways to run it, from fastest to smallest; the first is the plain way. */
    int (*candidates)(const ovi_engine *engine, stage_candidate *out);
} stage;

const stage *stage_at(stage_id id);
/* Host bytes that this way of running takes besides the job's own. */
size_t stage_extra_host_bytes(const stage_context *c);

/* What a way of running a stage needs, counted on the dry device. */
ovi_status stage_profile_count(job *j, stage_id id, const stage_options *options,
                               stage_profile *profile) OVI_MUST_CHECK;

typedef struct stage_choice {
    int way; /* index of the candidate */
    stage_candidate candidate;
    stage_profile profile;
    stage_profile plain;  /* of the first way that was weighed */
    memory_budget budget; /* that it was weighed against */
} stage_choice;

/* The first way that fits what may be used now; OVI_MEMORY if none does. */
ovi_status stage_choose(job *j, stage_id id, stage_choice *choice) OVI_MUST_CHECK;
#define PLAN_ADVICE_MAX OVI_ADVICE_MAX
/* For a budget that this request does not fit: the smallest that would do, and the nearest
 * request that fits, as words to append; "": neither is known. Stages before `from` fit or are
 * done. Needs an engine at rest. */
void plan_advice(const job *j, stage_id from, const memory_budget *budget,
                 char text[PLAN_ADVICE_MAX]);
/* ovi_make_plan; advise: also where it does not fit. */
ovi_status plan_make(ovi_engine *engine, const ovi_request *request, ovi_plan *plan,
                     bool advise) OVI_MUST_CHECK;
/* False, with the weight that is to blame or else the value named, if one of n results of this
 * stage is NaN or infinite. */
bool stage_expect_finite(stage_context *c, const char *what, const float *values,
                         size_t n);
/* Something that this stage has made is NaN or infinite: fails with the weight that is to blame,
 * else with its name ("a pixel"). */
void stage_blame(stage_context *c, const char *what);
/* Brings in what the phase needs and releases everything else; false: failed (latched). */
bool stage_enter(stage_context *c, const stage *st, int phase);
#endif
