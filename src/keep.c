/* keep.c: what --keep-warm keeps, and that it stays within the budget of host memory.
 *
 * Features are kept under the tokens of their text: the encoder sees nothing else, and treats
 * each text alone. So the same prompt with another seed does not enter the encoder, and another
 * prompt with the same negative ones enters it for one text instead of three. */
#include "keep.h"

#define TEXT_KIND 't'
#define MAX_TEXTS 16 /* 8 MB each in the published sizes */

static warm_key key_of(const job *j, int i) {
    return (warm_key){TEXT_KIND, j->ids[i], (size_t)j->rows[i] * sizeof j->ids[i][0]};
}

static size_t feature_bytes(const job *j, int i) {
    return (size_t)j->rows[i] * (size_t)j->shape.text_dim * sizeof(float);
}

void keep_take_texts(job *j) {
    warm *w = j->engine->warm;
    if (!w)
        return;
    warm_count_anew(w);
    int n = 0;
    for (int i = 0; i < j->n_prompts; i++) {
        const void *kept = warm_find(w, key_of(j, i), feature_bytes(j, i));
        if (kept)
            memcpy(j->features[i], kept, feature_bytes(j, i));
        j->encoded_before[i] = kept != NULL;
        n += kept != NULL;
    }
    if (n > 0)
        host_log(&j->engine->host, OVI_LOG_DEBUG,
                 "keep-warm: %d of %d texts were encoded before, %.3f s saved%s", n,
                 j->n_prompts, warm_get_stats(w).saved_s,
                 n == j->n_prompts ? "; the text encoder is not loaded" : "");
    warm_count_anew(w);
}

bool keep_has_all_texts(const job *j) {
    bool all = true;
    for (int i = 0; i < j->n_prompts; i++)
        all = all && j->encoded_before[i];
    return all;
}

ovi_status keep_encode_texts(job *j) {
    warm *w = j->engine->warm;
    if (keep_has_all_texts(j))
        return OVI_OK;
    const double start = os_now();
    if (stage_run(j, STAGE_TEXT_ENCODE) != OVI_OK || !w)
        return j->engine->host.err.status;
    int n = 0;
    for (int i = 0; i < j->n_prompts; i++)
        n += !j->encoded_before[i];
    const double each = (os_now() - start) / n;
    for (int i = 0; i < j->n_prompts; i++) {
        if (j->encoded_before[i] || warm_has(w, key_of(j, i))) /* two equal ones */
            continue;
        void *room = warm_put(w, key_of(j, i), feature_bytes(j, i), each);
        if (room)
            memcpy(room, j->features[i], feature_bytes(j, i));
    }
    return OVI_OK;
}

void keep_limit(ovi_engine *engine, const stage_profile *p) {
    if (!engine->warm)
        return;
    size_t room = engine_room_beside(engine, p);
    room -= p->files < room ? p->files : room;
    if (room > engine->keep_room) /* an earlier stage of this call left less */
        room = engine->keep_room;
    engine->keep_room = room;
    const size_t dropped = warm_set_limit(engine->warm, room);
    if (dropped)
        host_log(&engine->host, OVI_LOG_INFO,
                 "keep-warm: %.1f MB that were kept are dropped: beside %s there is room "
                 "for %.1f MB",
                 (double)dropped / 1e6, p->name, (double)room / 1e6);
}

void keep_report(ovi_engine *engine, const char *name) {
    if (!engine->warm)
        return;
    const warm_stats now = warm_get_stats(engine->warm);
    if (now.hits)
        host_log(
            &engine->host, OVI_LOG_DEBUG,
            "keep-warm: %s: %llu weights copied instead of made again, %.3f s saved; "
            "%.1f MB are kept",
            name, (unsigned long long)now.hits, now.saved_s, (double)now.bytes / 1e6);
    if (now.refused)
        host_log(
            &engine->host, OVI_LOG_INFO,
            "keep-warm: not all is kept for the next clip: there is room for %.1f MB",
            (double)engine->keep_room / 1e6);
    warm_count_anew(engine->warm);
}

ovi_status keep_open(ovi_engine *engine, bool wanted) {
    host *h = &engine->host;
    if (!wanted)
        return OVI_OK;
    engine->warm = warm_create(&h->err);
    if (!engine->warm)
        return h->err.status;
    warm_set_most(engine->warm, TEXT_KIND, MAX_TEXTS);
    if (engine->budget.unified)
        host_log(
            h, OVI_LOG_INFO,
            "keep-warm: device and host share one memory: texts are kept, and no weight "
            "is held twice");
    else
        store_set_warm(engine->store, engine->warm);
    return OVI_OK;
}

size_t keep_planned_bytes(const job *j, const memory_budget *budget,
                          const stage_profile *p, int n) {
    size_t bytes = 0, room = SIZE_MAX;
    if (!j->engine->warm)
        return 0;
    for (int i = 0; i < j->n_prompts; i++)
        bytes += feature_bytes(j, i);
    for (int i = 0; i < n; i++) {
        bytes += budget->unified ? 0 : p[i].warm;
        size_t used = profile_ram(&p[i], budget->unified) + p[i].files;
        size_t left = !budget->ram         ? SIZE_MAX
                      : budget->ram > used ? budget->ram - used
                                           : 0;
        room = left < room ? left : room;
    }
    return bytes < room ? bytes : room;
}
