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
            plan->stage[plan->n_stages].disk_seconds =
                (double)p.from_disk / engine->speed.disk_bytes;
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

ovi_status plan_make(ovi_engine *engine, const ovi_request *request, ovi_plan *plan,
                     bool advise) {
    job j = {0};
    *plan = (ovi_plan){0};
    if (call_begin(&j, engine, request, NULL) != OVI_OK)
        return call_end(&j, engine);
    if (job_plan_tokens(&j) != OVI_OK)
        return call_end(&j, engine);
    j.stages = stages_to_clip(&j);
    plan->shape = j.shape;
    /* A plan holds a named budget against what is needed; without one everything fits. */
    memory_budget budget = engine->budget;
    if (budget.device) /* the bound is for all that the process holds on the device */
        budget.device = engine_less_overhead(engine, budget.device);
    plan->budget_bytes = engine->budget.device;
    plan->host_budget_bytes = engine->budget.ram;
    plan->shared = engine->budget.unified;
    plan->fits = true;
    snprintf(plan->speed, sizeof plan->speed, "%s", engine->speed.name);
    stage_profile taken[OVI_MAX_STAGES];
    for (int id = 0; id < STAGE_COUNT; id++) {
        if (!(j.stages & STAGE(id)))
            continue;
        if (plan_stage(&j, (stage_id)id, &budget, plan, &taken[plan->n_stages]) != OVI_OK)
            break;
        plan->fits = plan->fits && plan->stage[plan->n_stages - 1].fits;
    }
    if (!plan->fits && advise && !err_failed(&engine->host.err))
        plan_advice(&j, 0, &budget, plan->advice);
    plan->warm_bytes = keep_planned_bytes(&j, &budget, taken, plan->n_stages);
    return call_end(&j, engine);
}

ovi_status ovi_make_plan(ovi_engine *engine, const ovi_request *request, ovi_plan *plan) {
    return plan_make(engine, request, plan, true);
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
        if (s->peak_bytes > 0) { /* else it runs beside the device */
            p.bytes[layer_of(s->name)] = s->weights_bytes;
            p.bytes[MEMORY_WORKSPACE] = s->workspace_bytes;
            p.bytes[MEMORY_ACTIVATIONS] =
                s->peak_bytes - s->weights_bytes - s->workspace_bytes;
        }
        memory_picture_add(&picture, &p);
        t += s->seconds;
        p.t = t;
        memory_picture_add(&picture, &p);
    }
    buf text = {0};
    if (!memory_picture_draw(&picture, &text))
        err_set(e, OVI_MEMORY, "out of memory while drawing %s", path);
    memory_picture_release(&picture);
    os_writer w;
    if (!err_failed(e) && os_writer_open(&w, path, e) == OVI_OK) {
        os_writer_put(&w, buf_text(&text), text.size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    buf_release(&text);
    return e->status;
}
