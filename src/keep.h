/* keep.h: --keep-warm, for the engine: texts that were encoded, the limit, the plan. */
#ifndef OVI_KEEP_H
#define OVI_KEEP_H

#include "stages.h"

/* Makes the engine's store of what is kept, if it is wanted. */
ovi_status keep_open(ovi_engine *engine, bool wanted) OVI_MUST_CHECK;

/* Features of texts that an earlier clip has encoded go to the job's buffers. */
void keep_take_texts(job *j);
bool keep_has_all_texts(const job *j);
/* The stage that encodes what is missing, and keeps it; nothing if all are there. */
ovi_status keep_encode_texts(job *j) OVI_MUST_CHECK;

/* What is kept must fit beside this stage and the files that it streams; what does not is
 * dropped, and said. */
void keep_limit(ovi_engine *engine, const stage_profile *p);
/* What will be kept of a clip that runs its n stages in this way. */
size_t keep_planned_bytes(const job *j, const memory_budget *budget,
                          const stage_profile *p, int n);
/* One line about what a stage has saved. */
void keep_report(ovi_engine *engine, const char *name);
#endif
