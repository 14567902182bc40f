/* planning.c: what a request will need, by running its stages on the dry device in every way
 * there is. */
#include <stdio.h>
#include <string.h>

#include "keep.h"
#include "memory_svg.h"

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
    int n = st->candidates(&engine->models, candidates);
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
                         .seconds = profile_seconds(&p, engine->speed),
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

ovi_status ovi_make_plan(ovi_engine *engine, const ovi_request *request, ovi_plan *plan) {
    static const stage_id order[] = {STAGE_IMAGE_ENCODE, STAGE_TEXT_ENCODE, STAGE_DIFFUSE,
                                     STAGE_DECODE_AUDIO, STAGE_DECODE_VIDEO};
    job j = {0};
    *plan = (ovi_plan){0};
    if (call_begin(&j, engine, request, NULL) != OVI_OK)
        return call_end(&j, engine);
    if (request->prompt && engine->models.tokenizer && job_tokenize(&j) != OVI_OK)
        return call_end(&j, engine);
    plan->shape = j.shape;
    /* A plan holds a named budget against what is needed; without one everything fits. */
    memory_budget budget = engine->budget;
    plan->budget_bytes = budget.device;
    stage_profile taken[OVI_MAX_STAGES];
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        if (order[i] == STAGE_IMAGE_ENCODE && !j.image)
            continue;
        if (plan_stage(&j, order[i], &budget, plan, &taken[plan->n_stages]) != OVI_OK)
            break;
    }
    plan->warm_bytes = keep_planned_bytes(&j, &budget, taken, plan->n_stages);
    return call_end(&j, engine);
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
    if (fits)
        engine->budget = *budget;
    fits = fits && ovi_make_plan(engine, j->request, &plan) == OVI_OK;
    for (int i = 0; fits && i < plan.n_stages; i++)
        fits = plan.stage[i].fits;
    ovi_close(engine);
    return fits;
}

void plan_advice(const job *j, const memory_budget *budget, char text[PLAN_ADVICE_MAX]) {
    const char *name = j->engine->models.spec.name;
    dtype compute = device_compute(j->engine->dev);
    int own = 0;
    text[0] = '\0';
    while (spec_variant_name(own) && strcmp(spec_variant_name(own), name) != 0)
        own++;
    if (!spec_variant_name(own))
        return;
    if (compute == DTYPE_F32 && try_request(j, budget, name, DTYPE_BF16)) {
        snprintf(text, PLAN_ADVICE_MAX, "; it would fit with dtype bf16");
        return;
    }
    for (int i = own - 1; i >= 0; i--) { /* shorter, then smaller */
        if (try_request(j, budget, spec_variant_name(i), DTYPE_BF16)) {
            snprintf(text, PLAN_ADVICE_MAX, "; variant %s would fit",
                     spec_variant_name(i));
            return;
        }
    }
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
