/* gold.h: the frame in which a golden file is run.
 *
 * A handler is found by the file's `kind`. The frame opens the file, and for safetensors
 * kinds calls the handler twice: on a dry run of the device (comparisons are skipped and
 * the arena's peak is noted) and on the real one with an arena of exactly that size,
 * where measured peak must equal planned peak. Handlers compare by name; every tensor of
 * the file under "mid." and "output." must have been compared at the end, or the file
 * fails. */
#ifndef OVI_GOLDEN_GOLD_H
#define OVI_GOLDEN_GOLD_H

#include <jansson.h>

#include "backend/backend.h"
#include "residency/store.h"
#include "weights/bind.h"
#include "weights/weights.h"

/* How far a tensor may be off; all bounds that are not 0 must hold. */
typedef struct gold_limit {
    double l2;      /* |a - r|_2 / |r|_2 */
    double max;     /* max|a - r| / max|r| */
    double max_rms; /* max|a - r| / rms(r) */
    double abs;     /* max|a - r| */
    bool equal;     /* bit for bit */
    bool per_row;   /* l2 and max row by row (last axis) */
} gold_limit;

typedef struct gold gold;

struct gold {
    host *host;
    device *dev; /* the device of this pass */
    bool dry;    /* first pass: no data */
    bool bf16;   /* device_compute(dev) == DTYPE_BF16 */
    const char *path, *dir, *kind;
    weights *file;  /* the safetensors file; NULL for JSON kinds */
    json_t *config; /* its config (borrowed), or the whole JSON document */
    void *frame;    /* private to golden.c */
};

typedef void (*gold_handler)(gold *g);

typedef struct gold_kind {
    const char *kind;
    gold_handler run;
    bool uses_device; /* run twice: dry and real */
} gold_kind;

/* One table of all kinds in golden.c; each handler lives in golden_<area>.c. */
gold_handler gold_find(const char *kind);

/* A second file of the same folder (pipeline_tiny names its weights); owned by the
 * frame. */
weights *gold_open(gold *g, const char *name);

/* Reads tensor `name` (must exist) into owned memory, freed after the handler returns. */
float *gold_input(gold *g, const char *name, shape *s);
/* The same for a shape that is known; -1 stands for any size. */
float *gold_input_as(gold *g, const char *name, shape want, shape *s);
const weights_entry *gold_find_tensor(gold *g, const char *name); /* NULL if absent */

/* Compares. The value is converted to f32 and made dense; its shape must equal the file's
 * (axes of size 1 ignored). A name that the file lacks is ignored: handlers may offer
 * more than a file holds. */
void gold_check(gold *g, const char *name, const tensor *value, gold_limit limit);
void gold_check_f32(gold *g, const char *name, const float *value, shape s,
                    gold_limit limit);
void gold_check_i64(gold *g, const char *name, const int64_t *value, shape s);
/* One comparison of a JSON table (text, ids, sizes): counts it, prints detail if not
 * ok. */
void gold_check_that(gold *g, bool ok, const char *fmt, ...) OVI_PRINTF(3, 4);

/* While set, every device_tap of model code is compared under its traced name, with the
 * limit that limit_of gives for it. */
void gold_trace(gold *g, gold_limit (*limit_of)(gold *g, const char *name));
void gold_trace_off(gold *g);

/* Anything that keeps the handler from running: fails the file with this sentence. */
void gold_fail(gold *g, const char *fmt, ...) OVI_PRINTF(2, 3);
bool gold_failed(const gold *g);

/* Binds a table to the golden file (or `files`), ignoring input., mid., output.,
 * const. */
bool gold_bind(gold *g, weight_table *t, const weights *files);

/* Handlers. */
void gold_text_clean(gold *g);
void gold_sizes_prompts(gold *g);
void gold_image_resize(gold *g);
void gold_umt5(gold *g);
void gold_ops(gold *g);
void gold_rope(gold *g);
void gold_block(gold *g);
void gold_fusion(gold *g);
void gold_sampling(gold *g);
void gold_pipeline(gold *g);
void gold_torch_noise(gold *g);
void gold_wan_vae(gold *g);
void gold_mmaudio_vae(gold *g);
void gold_bigvgan(gold *g);
void gold_audio_e2e(gold *g);
void gold_mel(gold *g);
void gold_torch_archives(gold *g);
#endif
