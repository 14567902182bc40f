/* planning.c: what a request will need, by running its stages on the dry device in every way
 * there is. */
#include <stdio.h>
#include <string.h>

#include "keep.h"
#include "memory_svg.h"

static const stage_id planned[] = {STAGE_IMAGE_ENCODE, STAGE_TEXT_ENCODE, STAGE_DIFFUSE,
                                   STAGE_DECODE_AUDIO, STAGE_DECODE_VIDEO};
#define N_PLANNED (sizeof planned / sizeof planned[0])

/* The chosen way of a stage becomes its row; if none fits, the last and smallest. */
static void take_way(ovi_plan *plan, const stage_profile *p, const char *resident,
                     int index) {
    const ovi_way *way = &plan->way[index];
    ovi_stage_plan *row = &plan->stage[way->stage];
    *row = (ovi_stage_plan){
        .name = p->name,
        .models = resident,
        .weights_bytes = p->weights,
        .in_place_bytes = p->in_place,
        .kept_bytes = p->keep,
        .scratch_bytes = p->arena - p->keep,
        .workspace_bytes = p->workspace,
        .peak_bytes = profile_peak(p),
        .host_bytes = p->host,
        .disk_bytes = p->from_disk,
        .flops = p->flops,
        .bytes_moved = p->bytes_moved,
        .seconds = way->seconds,
        .way = index,
        .fits = way->fits,
    };
}

/* taken: the profile of the chosen way. */
static ovi_status plan_stage(job *j, stage_id id, const memory_budget *budget,
                             ovi_plan *plan, stage_profile *taken) {
    ovi_engine *engine = j->engine;
    const stage *st = stage_at(id);
    stage_candidate candidates[MAX_CANDIDATES];
    int n = st->candidates(engine, candidates);
    bool found = false;
    for (int i = 0; i < n; i++) {
        stage_profile p;
        if (stage_profile_count(j, id, &candidates[i].options, &p) != OVI_OK)
            return engine->host.err.status;
        int index = plan->n_ways++;
        ovi_way *way = &plan->way[index];
        *way = (ovi_way){.stage = plan->n_stages,
                         .peak_bytes = profile_peak(&p),
                         .host_bytes = p.host,
                         .seconds = engine_seconds(engine, &p),
                         .fits = profile_fits(&p, budget)};
        memcpy(way->what, candidates[i].what, sizeof way->what);
        if (!found) {
            take_way(plan, &p, st->models, index);
            *taken = p;
        }
        found = found || way->fits;
        way->chosen = way->fits && plan->stage[plan->n_stages].way == index;
    }
    const ovi_stage_plan *row = &plan->stage[plan->n_stages++];
    plan->peak_bytes =
        row->peak_bytes > plan->peak_bytes ? row->peak_bytes : plan->peak_bytes;
    plan->flops += row->flops;
    plan->seconds += row->seconds;
    return OVI_OK;
}

static ovi_status make_plan(ovi_engine *engine, const ovi_request *request,
                            ovi_plan *plan, bool advise) {
    job j = {0};
    *plan = (ovi_plan){0};
    if (call_begin(&j, engine, request, NULL) != OVI_OK)
        return call_end(&j, engine);
    if (job_plan_tokens(&j) != OVI_OK)
        return call_end(&j, engine);
    plan->shape = j.shape;
    /* A plan holds a named budget against what is needed; without one everything fits. */
    memory_budget budget = engine->budget;
    if (budget.device) /* the bound is for all that the process holds on the device */
        budget.device = engine_less_overhead(engine, budget.device);
    plan->budget_bytes = engine->budget.device;
    stage_profile taken[OVI_MAX_STAGES];
    const media_parts parts = job_parts(&j);
    bool fits = true;
    for (size_t i = 0; i < N_PLANNED; i++) {
        if ((planned[i] == STAGE_IMAGE_ENCODE && !j.image) ||
            (planned[i] == STAGE_DECODE_AUDIO && !parts.sound) ||
            (planned[i] == STAGE_DECODE_VIDEO && !parts.picture))
            continue;
        if (plan_stage(&j, planned[i], &budget, plan, &taken[plan->n_stages]) != OVI_OK)
            break;
        fits = fits && plan->stage[plan->n_stages - 1].fits;
    }
    if (!fits && advise && !err_failed(&engine->host.err))
        plan_advice(&j, &budget, plan->advice);
    plan->warm_bytes = keep_planned_bytes(&j, &budget, taken, plan->n_stages);
    return call_end(&j, engine);
}

ovi_status ovi_make_plan(ovi_engine *engine, const ovi_request *request, ovi_plan *plan) {
    return make_plan(engine, request, plan, true);
}

/* Does another published variant or type fit this budget? Its words, else "". */
static bool try_request(const job *j, const memory_budget *budget, const char *variant,
                        dtype compute) {
    const device *d = j->engine->dev;
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.variant = variant;
    settings.device = device_backend(d)->name;
    settings.dtype = compute == DTYPE_BF16 ? "bf16" : "f32";
    settings.threads = device_get_options(d)->n_threads;
    ovi_engine *engine = NULL;
    ovi_plan plan;
    bool fits = ovi_open_without_weights(&settings, &engine) == OVI_OK;
    if (fits) {
        engine->budget = *budget;
        if (budget->device) /* planning takes it off again */
            engine->budget.device += device_overhead(engine->dev);
    }
    fits = fits && make_plan(engine, j->request, &plan, false) == OVI_OK;
    for (int i = 0; fits && i < plan.n_stages; i++)
        fits = plan.stage[i].fits;
    ovi_close(engine);
    return fits;
}

/* The nearest request that fits, as words to append: another type, then shorter, then
 * smaller. */
static void advise_request(const job *j, const memory_budget *budget, char *text,
                           size_t room) {
    const char *name = j->engine->models.spec.name;
    dtype compute = device_compute(j->engine->dev);
    int own = 0;
    while (spec_variant_name(own) && strcmp(spec_variant_name(own), name) != 0)
        own++;
    if (!spec_variant_name(own))
        return;
    if (compute == DTYPE_F32 && try_request(j, budget, name, DTYPE_BF16)) {
        snprintf(text, room, "; it would fit with dtype bf16");
        return;
    }
    for (int i = own - 1; i >= 0; i--) { /* shorter, then smaller */
        if (try_request(j, budget, spec_variant_name(i), DTYPE_BF16)) {
            snprintf(text, room, "; variant %s would fit", spec_variant_name(i));
            return;
        }
    }
}

/* The least budget in which every stage has a way; by_ram: of host memory, else of the
 * device's. 0: it could not be counted. */
static size_t least_budget(const job *j, const memory_budget *budget, bool by_ram) {
    size_t least = 0;
    job counted = *j;
    for (size_t i = 0; i < N_PLANNED; i++) {
        stage_candidate way[MAX_CANDIDATES];
        size_t of_stage = SIZE_MAX;
        int n = stage_at(planned[i])->candidates(j->engine, way);
        if (planned[i] == STAGE_IMAGE_ENCODE && !j->image)
            continue;
        for (int k = 0; k < n; k++) {
            stage_profile p;
            if (stage_profile_count(&counted, planned[i], &way[k].options, &p) != OVI_OK)
                return 0;
            const size_t bytes =
                by_ram ? profile_ram(&p, budget->unified) : profile_peak(&p);
            of_stage = bytes < of_stage ? bytes : of_stage;
        }
        least = of_stage > least ? of_stage : least;
    }
    return least;
}

void plan_advice(const job *j, const memory_budget *budget, char text[PLAN_ADVICE_MAX]) {
    int n = 0;
    text[0] = '\0';
    for (int by_ram = 0; by_ram < 2; by_ram++) {
        size_t least = least_budget(j, budget, by_ram);
        size_t given = by_ram ? budget->ram : budget->device;
        if (given && least > given)
            n += snprintf(text + n, PLAN_ADVICE_MAX - (size_t)n,
                          "; the smallest --%s that would do is %zu bytes",
                          by_ram ? "ram" : "vram",
                          least + (by_ram ? 0 : device_overhead(j->engine->dev)));
    }
    advise_request(j, budget, text + n, PLAN_ADVICE_MAX - (size_t)n);
}

/* Which of the picture's layers a stage's weights belong to. */
static int layer_of(const char *stage_name) {
    for (int id = 0; id < STAGE_COUNT; id++)
        if (strcmp(stage_at((stage_id)id)->name, stage_name) == 0)
            return (int)stage_at((stage_id)id)->model;
    return 0;
}

ovi_status ovi_plan_svg(ovi_engine *engine, const ovi_plan *plan, const char *path) {
    err *e = &engine->host.err;
    memory_picture picture = {.title = "planned device memory",
                              .budget = plan->budget_bytes,
                              .planned = plan->peak_bytes};
    double t = 0;
    err_clear(e);
    for (int i = 0; i < plan->n_stages; i++) {
        const ovi_stage_plan *s = &plan->stage[i];
        memory_point p = {.t = t, .stage = s->name};
        p.bytes[layer_of(s->name)] = s->weights_bytes;
        p.bytes[MEMORY_LAYERS - 1] = s->peak_bytes - s->weights_bytes;
        memory_picture_add(&picture, &p);
        t += s->seconds;
        p.t = t;
        memory_picture_add(&picture, &p);
    }
    buf text = {0};
    memory_picture_draw(&picture, &text);
    memory_picture_release(&picture);
    os_writer w;
    if (os_writer_open(&w, path, e) == OVI_OK) {
        os_writer_put(&w, buf_text(&text), text.size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    buf_release(&text);
    return e->status;
}
