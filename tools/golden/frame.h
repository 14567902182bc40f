/* frame.h: what golden.c (files, passes), compare.c (comparisons) and report.c (what is
 * printed) share and handlers do not see. */
#ifndef OVI_GOLDEN_FRAME_H
#define OVI_GOLDEN_FRAME_H

#include "gold.h"

typedef struct gold_settings {
    const backend *backend;
    device_options device;
    const char *dump; /* NULL: nothing is kept */
    bool json, verbose;
} gold_settings;

/* How far one value was off. Errors are infinite where a NaN stands or shapes differ. */
typedef struct gold_error {
    double l2, max, max_rms, abs;
} gold_error;

/* One comparison; kept in order. */
typedef struct gold_result {
    char *name;   /* owned */
    char *detail; /* owned; NULL: passed, "": the name says it all */
    gold_error error;
    bool values; /* error holds numbers (not a JSON comparison) */
} gold_result;

/* A compared value, kept for --dump. */
typedef struct gold_value {
    char *name; /* owned */
    shape s;
    float *data; /* owned */
} gold_value;

typedef struct gold_frame {
    const gold_settings *settings;
    char sentence[ERR_TEXT_MAX]; /* why the handler could not run; "" if it could */
    gold_result *result;
    int n_results, capacity;
    int n_failed;
    bool *compared; /* per tensor of the file */
    gold_value *value;
    int n_values;
    gold_limit (*limit_of)(gold *g, const char *name);
    void **owned; /* memory of gold_input, freed after the pass */
    int n_owned;
    weights **opened; /* by gold_open, closed after the pass */
    int n_opened;
    size_t arena_bytes;     /* what the dry pass planned */
    uint64_t fallbacks;     /* operations that the backend left to the reference */
    uint64_t slow_products; /* that were made without tensor cores */
} gold_frame;

static inline gold_frame *frame_of(const gold *g) {
    return g->frame;
}

/* Adds a result; detail NULL: it passed. */
void frame_add(gold *g, const char *name, const gold_error *error, const char *detail);
/* Every mid. and output. tensor must have been compared. */
void frame_check_coverage(gold *g);
void frame_release_pass(gold *g); /* what the handler got, after each pass */
void frame_release(gold *g);

bool frame_passed(const gold *g);
void report_text(const gold *g);
json_t *report_json(const gold *g);
/* Writes all kept values to settings->dump. */
ovi_status report_dump(const gold *g, err *e) OVI_MUST_CHECK;
#endif
