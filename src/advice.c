/* advice.c: what would fit where a request does not: the least budget for its stages, and the
 * nearest request. Whatever is named has been counted. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "stages.h"

typedef struct advice {
    char *text;
    size_t n;
} advice;

static void say(advice *a, const char *fmt, ...) OVI_PRINTF(2, 3);

static void say(advice *a, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(a->text + a->n, PLAN_ADVICE_MAX - a->n, fmt, args);
    va_end(args);
    a->n += n > 0 ? (size_t)n : 0;
    a->n = a->n < PLAN_ADVICE_MAX ? a->n : PLAN_ADVICE_MAX - 1;
}

/* ---- budgets ---- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The least that the ways of one stage take, of host memory (by_ram) or of the device's, within
 * the other's bound; SIZE_MAX: no way is within it. */
static size_t least_of_stage(job *j, stage_id id, const memory_budget *budget,
                             bool by_ram) {
    memory_budget other = *budget;
    stage_candidate way[MAX_CANDIDATES];
    const int n = stage_at(id)->candidates(j->engine, way);
    size_t least = SIZE_MAX;
    *(by_ram ? &other.ram : &other.device) = 0;
    for (int k = 0; k < n; k++) {
        stage_profile p;
        if (stage_profile_count(j, id, &way[k].options, &p) != OVI_OK)
            return SIZE_MAX;
        const size_t bytes = by_ram ? profile_ram(&p, budget->unified) : profile_peak(&p);
        if (profile_fits(&p, &other) && bytes < least)
            least = bytes;
    }
    return least;
}

static size_t least_budget(const job *j, const memory_budget *budget, bool by_ram) {
    job counted = *j;
    size_t least = 0;
    for (int id = 0; id < STAGE_COUNT; id++)
        if (j->stages & STAGE(id))
            least = larger(least, least_of_stage(&counted, (stage_id)id, budget, by_ram));
    return least;
}

/* What must be free for a stage to be given so much: a sixteenth is left to others. */
static size_t free_for(size_t bytes) {
    return bytes > 0 ? bytes + (bytes - 1) / 15 : 0;
}

/* Where the bound is not one that was named, but what others have left. */
static void say_least(advice *a, const ovi_engine *engine, size_t least, bool by_ram) {
    const size_t named = by_ram ? engine->budget.ram : engine->budget.device,
                 all = least + (by_ram ? 0 : device_overhead(engine->dev));
    if (named && all > named)
        say(a, "the smallest --%s that would do is %zu bytes", by_ram ? "ram" : "vram",
            all);
    else
        say(a, "it takes %zu bytes that are free on the %s", free_for(least),
            by_ram ? "host" : "device");
}

static void advise_budget(const job *j, const memory_budget *budget, advice *a) {
    const ovi_engine *engine = j->engine;
    size_t vram = least_budget(j, budget, false), ram = least_budget(j, budget, true);
    const bool by_vram = budget->device && vram != SIZE_MAX && vram > budget->device,
               by_ram = budget->ram && ram != SIZE_MAX && ram > budget->ram;
    say(a, by_vram || by_ram ? "; " : "");
    if (by_vram)
        say_least(a, engine, vram, false);
    say(a, by_vram && by_ram ? ", or " : "");
    if (by_ram)
        say_least(a, engine, ram, true);
    if (by_vram || by_ram)
        return;
    /* Neither helps alone. */
    memory_budget both = *budget;
    both.ram = 0;
    both.device = vram = least_budget(j, &both, false);
    ram = least_budget(j, &both, true);
    if (vram == SIZE_MAX || ram == SIZE_MAX)
        return;
    say(a, "; ");
    say_least(a, engine, vram, false);
    say(a, engine->budget.ram ? ", with a --ram of %zu" : ", and %zu on the host", ram);
}

/* ---- requests ---- */

static bool stage_fits(job *j, stage_id id, const memory_budget *budget) {
    stage_candidate way[MAX_CANDIDATES];
    stage_profile p;
    for (int k = stage_at(id)->candidates(j->engine, way) - 1; k >= 0; k--) {
        if (stage_profile_count(j, id, &way[k].options, &p) != OVI_OK)
            return false;
        if (profile_fits(&p, budget))
            return true;
    }
    return false;
}

static bool job_fits(const job *j, const memory_budget *budget) {
    job counted = *j;
    for (int id = 0; id < STAGE_COUNT; id++)
        if ((j->stages & STAGE(id)) && !stage_fits(&counted, (stage_id)id, budget))
            return false;
    return true;
}

static void no_notice(void *user, const ovi_notice *notice) {
    (void)user;
    (void)notice;
}

/* The job with another request, of whose texts it has the tokens; false: there is none. */
static bool job_with(job *other, const job *j, const ovi_request *request) {
    ovi_engine *engine = j->engine;
    engine->notice = no_notice;
    const bool ok = job_init(other, engine, request, NULL) == OVI_OK;
    engine->notice = NULL;
    err_clear(&engine->host.err);
    for (int i = 0; i < other->n_prompts; i++)
        other->rows[i] = j->rows[i];
    other->image = j->image;
    other->stages = j->stages;
    return ok;
}

/* With the same models on the same device. */
static bool fits_in_bf16(const job *j, const memory_budget *budget) {
    ovi_engine *engine = j->engine;
    device *const own[] = {engine->dry, engine->cpu.dry};
    store *const own_store[] = {engine->dry_store, engine->cpu.dry_store};
    device *dry[] = {NULL, NULL};
    store *dry_store[] = {NULL, NULL};
    bool ok = true;
    for (int i = 0; i < 2 && ok; i++) {
        if (!own[i])
            continue;
        device_options o = *device_get_options(own[i]);
        o.compute = DTYPE_BF16;
        dry[i] = device_open_null(&engine->host, device_backend(own[i]), &o);
        ok = dry[i] && engine_make_store(engine, dry[i], &dry_store[i]) == OVI_OK;
    }
    engine->dry = dry[0];
    engine->dry_store = dry_store[0];
    engine->cpu.dry = dry[1];
    engine->cpu.dry_store = dry_store[1];
    ok = ok && job_fits(j, budget);
    engine->dry = own[0];
    engine->dry_store = own_store[0];
    engine->cpu.dry = own[1];
    engine->cpu.dry_store = own_store[1];
    for (int i = 0; i < 2; i++) {
        store_free(dry_store[i]);
        device_close(dry[i]);
    }
    err_clear(&engine->host.err);
    return ok;
}

/* Sizes follow from the aspect, and some of them are smaller than others. */
typedef struct aspect_size {
    const char *aspect;
    int tokens, width, height;
} aspect_size;

#define N_ASPECTS 9

/* Those with fewer tokens than this job has, from many to few, one of each count. */
static int smaller_sizes(const job *j, aspect_size out[N_ASPECTS]) {
    static const char *const aspects[N_ASPECTS] = {"1:1",  "4:3",  "3:4", "3:2", "2:3",
                                                   "16:9", "9:16", "2:1", "21:9"};
    ovi_request request = *j->request;
    int n = 0;
    request.size = NULL;
    for (int i = 0; i < N_ASPECTS; i++) {
        job other;
        request.aspect = aspects[i];
        if (!job_with(&other, j, &request))
            continue;
        const int count = other.shape.video_tokens;
        int at = n;
        while (at > 0 && out[at - 1].tokens < count)
            at--;
        if (count >= j->shape.video_tokens || (at > 0 && out[at - 1].tokens == count))
            continue;
        memmove(out + at + 1, out + at, (size_t)(n++ - at) * sizeof *out);
        out[at] = (aspect_size){aspects[i], count, other.shape.width, other.shape.height};
    }
    return n;
}

static bool aspect_fits(const job *j, const memory_budget *budget, const char *aspect) {
    ovi_request request = *j->request;
    job other;
    request.size = NULL;
    request.aspect = aspect;
    return job_with(&other, j, &request) && job_fits(&other, budget);
}

/* The largest that fits. */
static bool advise_aspect(const job *j, const memory_budget *budget, advice *a) {
    aspect_size size[N_ASPECTS];
    const int n = smaller_sizes(j, size);
    int i = 0;
    if (n == 0 || !aspect_fits(j, budget, size[n - 1].aspect))
        return false;
    while (i < n - 1 && !aspect_fits(j, budget, size[i].aspect))
        i++;
    say(a, "; it would fit with aspect %s, %dx%d", size[i].aspect, size[i].width,
        size[i].height);
    return true;
}

/* Both scales 1: no negative pass. */
static bool fits_without_guidance(const job *j, const memory_budget *budget) {
    ovi_request request = *j->request;
    job other;
    request.video_guidance = request.audio_guidance = 1;
    return j->guided && job_with(&other, j, &request) && job_fits(&other, budget);
}

static bool sound_fits(const job *j, const memory_budget *budget) {
    job other = *j;
    const uint32_t both = STAGE(STAGE_DECODE_AUDIO) | STAGE(STAGE_DECODE_VIDEO);
    other.stages &= ~STAGE(STAGE_DECODE_VIDEO);
    return (j->stages & both) == both && job_fits(&other, budget);
}

/* Another published variant, which is another checkpoint. */
static bool variant_fits(const job *j, const memory_budget *budget, const char *variant,
                         dtype compute) {
    const ovi_engine *own = j->engine;
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.variant = variant;
    settings.device = device_backend(own->dev)->name;
    settings.dtype = compute == DTYPE_BF16 ? "bf16" : "f32";
    settings.fp8_products = own->models.f8_products ? "yes" : "no";
    settings.threads = device_get_options(own->dev)->n_threads;
    ovi_engine *engine = NULL;
    ovi_plan plan;
    bool fits = ovi_open_without_weights(&settings, &engine) == OVI_OK;
    if (fits) {
        engine->caller_bytes = own->caller_bytes;
        engine->budget = *budget;
        if (budget->device) /* planning takes it off again */
            engine->budget.device += device_overhead(engine->dev);
    }
    fits = fits && plan_make(engine, j->request, &plan, false) == OVI_OK && plan.fits;
    ovi_close(engine);
    return fits;
}

/* Shorter, then smaller. */
static void advise_variant(const job *j, const memory_budget *budget, advice *a) {
    const char *name = j->engine->models.spec.name;
    const dtype own = device_compute(j->engine->dev);
    int i = 0;
    while (spec_variant_name(i) && strcmp(spec_variant_name(i), name) != 0)
        i++;
    if (!spec_variant_name(i))
        return;
    while (--i >= 0) {
        const char *other = spec_variant_name(i);
        const bool fits = variant_fits(j, budget, other, own);
        if (!fits && (own == DTYPE_BF16 || !variant_fits(j, budget, other, DTYPE_BF16)))
            continue;
        say(a, "; variant %s, another checkpoint, would fit%s", other,
            fits ? "" : " with dtype bf16");
        return;
    }
}

/* From what changes least on. What is continued, and latents, have their sizes. */
static void advise_request(const job *j, const memory_budget *budget, advice *a) {
    const bool fresh = (j->stages & STAGE(STAGE_DIFFUSE)) && !j->resume;
    if (device_compute(j->engine->dev) == DTYPE_F32 && !j->resume &&
        fits_in_bf16(j, budget)) {
        say(a, "; it would fit with dtype bf16");
        return;
    }
    if (fresh && !j->image && advise_aspect(j, budget, a))
        return;
    if (fresh)
        advise_variant(j, budget, a);
    if (fresh && fits_without_guidance(j, budget))
        say(a, "; it would fit without guidance, both scales 1");
    else if (sound_fits(j, budget))
        say(a, "; the sound alone, as .wav, would fit");
}

void plan_advice(const job *j, stage_id from, const memory_budget *budget,
                 char text[PLAN_ADVICE_MAX]) {
    advice a = {.text = text};
    job left = *j;
    if (from > STAGE_DECODE_AUDIO) /* latents that are kept are decoded in one call */
        from = STAGE_DECODE_AUDIO;
    left.stages &= ~(STAGE(from) - 1);
    text[0] = '\0';
    advise_budget(&left, budget, &a);
    advise_request(j, budget, &a);
}
