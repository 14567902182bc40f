/* pipeline.c: the spine. How a stage is planned, run and released, and the way through all
 * of them.
 *
 *   image   -> image_encode -> first frame [48, 1, h, w]         (host)
 *   prompts -> text_encode -> features [rows, 4096] x 3          (host)
 *   noise   -> diffuse -> latents [48, F, h, w], [L, 20]         (host, then a file)
 *   latents -> decode_audio -> samples                           (sinks, writer)
 *   latents -> decode_video -> frames, group by group            (sinks, writer)
 *
 * A stage's code runs twice: on the dry device, which counts what it needs, and on the real
 * one, in an arena of just that size. Before each stage the free memory is read again and the
 * first way of running it that fits is taken. Between stages nothing is on the device. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/place.h"
#include "keep.h"
#include "outputs.h"
#include "residency/upload.h"

/* ---- counting ---- */

static engine_place place_of(const ovi_engine *engine, const stage_options *options) {
    if (options->on_cpu)
        return engine->cpu;
    return (engine_place){engine->dev, engine->dry, engine->store, engine->dry_store};
}

/* Bytes through slots: in all, and what comes in every round of the last phase. */
typedef struct flow_bytes {
    size_t all;
    upload_flow last;
} flow_bytes;

/* Weights by placement, over the phases of the stage. */
static store_bytes weights_of(const stage_context *c, const stage *st, flow_bytes *flow) {
    store_bytes most = {0};
    store_needs needs = {0};
    *flow = (flow_bytes){0};
    for (int phase = 0; st->needs(c, phase, &needs); phase++, needs = (store_needs){0}) {
        store_bytes b = store_needs_bytes(c->store, &needs);
        if (b.in_place > most.in_place)
            most.in_place = b.in_place;
        if (b.staging > most.staging)
            most.staging = b.staging;
        most.warm += b.warm;
        flow->all += (size_t)needs.rounds * b.stream_bytes_per_pass;
        if (b.stream_bytes_per_pass) {
            flow->last = (upload_flow){.pass = b.stream_bytes_per_pass,
                                       .windows = b.stream_windows,
                                       .rounds = needs.rounds};
        }
    }
    return most;
}

size_t engine_room_beside(const ovi_engine *engine, const stage_profile *p) {
    const memory_budget *b = &engine->budget;
    const bool shared = b->unified || device_shares_memory(engine->dev);
    size_t most = SIZE_MAX / 2, used = profile_ram(p, shared);
    if (!device_is_null(engine->dev)) {
        const size_t now = os_free_memory();
        most = now - now / 16;
        if (engine->warm)
            most += warm_get_stats(engine->warm).bytes;
    }
    const size_t room = most > used ? most - used : 0;
    used = profile_ram(p, b->unified);
    const size_t named = b->ram > used ? b->ram - used : 0;
    return b->ram && named < room ? named : room;
}

/* Host memory and the files that come round again: what they would take, what they may, and
 * what is therefore read from disk. */
static void count_files(const stage_context *c, upload_flow flow, stage_profile *p) {
    p->room = flow.room = engine_room_beside(c->job->engine, p);
    if (flow.rounds <= 1 || device_backend(c->dev)->host_memory)
        return;
    p->files = upload_wanted(&flow);
    p->from_disk = (size_t)flow.rounds * upload_missed(&flow);
}

/* The stage's code on the dry device, which counts from 0. */
static void dry_run(stage_context *c, const stage *st) {
    device_reset_counters(c->dev);
    device_arena_open(c->dev, 0);
    if (stage_enter(c, st, 0))
        st->run(c);
}

static void dry_end(const stage_context *c) {
    store_leave(c->store);
    device_arena_close(c->dev);
}

ovi_status stage_profile_count(job *j, stage_id id, const stage_options *options,
                               stage_profile *profile) {
    ovi_engine *engine = j->engine;
    const stage *st = stage_at(id);
    const engine_place place = place_of(engine, options);
    stage_context c = {.job = j,
                       .models = &engine->models,
                       .dev = place.dry,
                       .store = place.dry_store,
                       .dry = true,
                       .options = *options};
    flow_bytes flow;
    store_bytes placed = weights_of(&c, st, &flow);
    dry_run(&c, st);
    device_memory memory = device_get_memory(c.dev);
    const device_counters *n = device_get_counters(c.dev);
    *profile = (stage_profile){
        .name = st->name,
        .on_cpu = options->on_cpu,
        .weights = memory.peak,
        .in_place = placed.in_place,
        .arena = device_round(c.dev, memory.arena_peak),
        .keep = memory.arena_keep_peak,
        .workspace = n->workspace_peak,
        .host = job_host_bytes(j, id) + placed.staging + stage_extra_host_bytes(&c),
        .warm = placed.warm,
        .streamed = flow.all,
        .flops = n->flops,
        .f8_flops = n->f8_flops,
        .bytes_moved = n->bytes,
    };
    if (options->on_cpu)
        profile->host += memory.peak - placed.in_place + profile->arena;
    count_files(&c, flow.last, profile);
    dry_end(&c);
    return engine->host.err.status;
}

double engine_seconds(const ovi_engine *engine, const stage_profile *p) {
    return profile_seconds(p, p->on_cpu ? speed_find("cpu") : &engine->speed);
}

/* ---- choosing ---- */

size_t engine_less_overhead(const ovi_engine *engine, size_t bytes) {
    const size_t overhead = device_overhead(engine->dev);
    return bytes > overhead ? bytes - overhead : 1;
}

memory_budget engine_budget_now(const ovi_engine *engine) {
    memory_budget b = engine->budget;
    /* What a stage before has left there (ovi_hold) is released or used. */
    size_t free_now = device_free_memory(engine->dev) + store_slab_bytes(engine->store);
    size_t usable = free_now - free_now / 16; /* others live here too */
    if (b.device)
        b.device = engine_less_overhead(engine, b.device);
    if (usable == 0)
        usable = 1; /* 0 would be no bound */
    if (!b.device || usable < b.device)
        b.device = usable;
    if (!b.ram) { /* auto */
        free_now = os_free_memory();
        b.ram = free_now - free_now / 16;
    }
    return b;
}

/* An amount that people can compare, or to the byte. */
static const char *amount(char text[32], size_t bytes, bool exact) {
    if (exact)
        snprintf(text, 32, "%zu bytes", bytes);
    else if (bytes >= 1000000000)
        snprintf(text, 32, "%.2f GB", (double)bytes / 1e9);
    else
        snprintf(text, 32, "%.2f MB", (double)bytes / 1e6);
    return text;
}

static ovi_status nothing_fits(const job *j, stage_id id, const char *what,
                               const stage_profile *smallest,
                               const memory_budget *budget) {
    char advice[PLAN_ADVICE_MAX], peak[32], host_bytes[32], usable[32], ram[32];
    plan_advice(j, id, budget, advice);
    return err_set(&j->engine->host.err, OVI_MEMORY,
                   "%s: no way of running it fits: the smallest (%s) needs %s on the "
                   "device and %s of our own on the host, what may be used is %s and "
                   "%s%s%s",
                   smallest->name, what, amount(peak, profile_peak(smallest), false),
                   amount(host_bytes, smallest->host, false),
                   amount(usable, budget->device, false), amount(ram, budget->ram, false),
                   budget->unified ? " for both together" : "", advice);
}

/* The plain way with its weights left on the device for the next call. */
static bool fits_held(job *j, stage_id id, const memory_budget *budget,
                      stage_choice *choice) {
    stage_options *options = &choice->candidate.options;
    options->held = true;
    bool fits = stage_profile_count(j, id, options, &choice->profile) == OVI_OK &&
                profile_fits(&choice->profile, budget);
    choice->plain = choice->profile;
    options->held = fits;
    return fits;
}

/* Stages of such a call follow each other: none is held. */
static bool runs_several(const job *j) {
    return (j->stages & (j->stages - 1)) != 0;
}

ovi_status stage_choose(job *j, stage_id id, stage_choice *choice) {
    ovi_engine *engine = j->engine;
    const memory_budget budget = engine_budget_now(engine);
    stage_candidate candidates[MAX_CANDIDATES];
    int n = stage_at(id)->candidates(engine, candidates);
    stage_profile first = {0};
    const int least = j->least_way[id] < n ? j->least_way[id] : n - 1;
    choice->budget = budget;
    assert(j->stages & STAGE(id));
    for (int i = least; i < n; i++) {
        choice->way = i;
        choice->candidate = candidates[i];
        if (i == 0 && engine->hold && !runs_several(j) &&
            fits_held(j, id, &budget, choice))
            return OVI_OK;
        if (stage_profile_count(j, id, &candidates[i].options, &choice->profile) !=
            OVI_OK)
            return engine->host.err.status;
        if (i == least)
            first = choice->profile;
        if (!profile_fits(&choice->profile, &budget))
            continue;
        choice->plain = first;
        keep_limit(engine, &choice->profile);
        return OVI_OK;
    }
    return nothing_fits(j, id, choice->candidate.what, &choice->profile, &budget);
}

/* Two amounts, to the byte where they would read the same. */
static void amounts(char a[32], size_t a_bytes, char b[32], size_t b_bytes) {
    const bool same = strcmp(amount(a, a_bytes, false), amount(b, b_bytes, false)) == 0;
    (void)amount(a, a_bytes, same);
    (void)amount(b, b_bytes, same);
}

/* Why this way, in one line, unless it is the plain one. */
static void log_choice(ovi_engine *engine, const stage_choice *choice) {
    const memory_budget now = choice->budget;
    const stage_profile *p = &choice->profile, *plain = &choice->plain;
    const bool by_ram = profile_peak(plain) <= now.device;
    char peak[32], takes[32], usable[32], price[48] = "", disk[96] = "";
    if (choice->way == 0)
        return;
    const double times = engine_seconds(engine, p) / engine_seconds(engine, plain);
    if (times >= 1.005)
        snprintf(price, sizeof price, "; about %.2f times as long", times);
    if (p->from_disk)
        snprintf(disk, sizeof disk,
                 "; reads %.2f GB from disk, because host memory does not hold the files",
                 (double)p->from_disk / 1e9);
    if (by_ram)
        amounts(takes, profile_ram(plain, now.unified), usable, now.ram);
    else
        amounts(takes, profile_peak(plain), usable, now.device);
    host_log(&engine->host, OVI_LOG_INFO,
             "%s: %s, %s, because all at once takes %s%s and %s may be used%s%s", p->name,
             choice->candidate.what, amount(peak, profile_peak(p), false), takes,
             !by_ram       ? ""
             : now.unified ? " together with host memory"
                           : " of host memory",
             usable, price, disk);
}

/* ---- running ---- */

static void report_ops(const device_counters *n, ovi_stage_report *r) {
    _Static_assert(OP_COUNT <= OVI_MAX_OPS, "every operation has a row");
    for (int i = 0; i < OP_COUNT; i++)
        if (n->calls[i] > 0)
            r->op[r->n_ops++] = (ovi_op_report){.name = op_name((op_kind)i),
                                                .calls = n->calls[i],
                                                .flops = n->op_flops[i],
                                                .bytes = n->op_bytes[i],
                                                .seconds = n->op_seconds[i]};
}

/* P3 */
static void expect_planned(device *d, const char *name, const char *what, size_t planned,
                           size_t measured) {
    if (planned != measured && !device_failed(d))
        device_fail(d, OVI_INTERNAL, "%s: planned %zu bytes of %s, measured %zu", name,
                    planned, what, measured);
}

static void expect_prepared(device *d, const char *name) {
    const uint64_t late = device_late_objects(d);
    if (late > 0 && !device_failed(d))
        device_fail(d, OVI_INTERNAL,
                    "%s: expected every library object to be there, %llu were made while "
                    "it ran",
                    name, (unsigned long long)late);
}

/* Objects of libraries that the stage will need are made while it has no memory yet: a library
 * that ends the process where it gets none does so before the stage, if at all. */
static void make_objects(const stage_context *c, const stage *st) {
    const engine_place place = place_of(c->job->engine, &c->options);
    stage_context dry = *c;
    if (!device_has_objects(c->dev))
        return;
    dry.dev = place.dry;
    dry.store = place.dry_store;
    dry.dry = true;
    device_prepare_on(place.dry, place.dev);
    dry_run(&dry, st);
    device_prepare_on(place.dry, NULL);
    dry_end(&dry);
}

static void report_stage(const stage_context *c, const stage *st,
                         const stage_profile *planned, double seconds) {
    ovi_engine *engine = c->job->engine;
    ovi_report *r = &engine->report;
    device_memory m = device_get_memory(c->dev);
    const size_t arena = device_round(c->dev, m.arena_peak),
                 of_weights = m.peak - m.arena_capacity;
    expect_planned(c->dev, planned->name, "activations", planned->arena, arena);
    expect_planned(c->dev, planned->name, "weights", planned->weights, of_weights);
    expect_prepared(c->dev, planned->name);
    if (r->n_stages == OVI_MAX_STAGES)
        return;
    ovi_stage_report *row = &r->stage[r->n_stages++];
    *row = (ovi_stage_report){
        .name = planned->name,
        .resident = st->models,
        .planned_peak_bytes = profile_peak(planned),
        .measured_peak_bytes = c->dev == engine->dev
                                   ? of_weights + arena
                                   : device_get_memory(engine->dev).peak,
        .seconds = seconds,
        .load_seconds = c->load_seconds,
        .fallbacks = device_get_counters(c->dev)->fallbacks,
        .slow_products = device_slow_products(c->dev),
        .bytes_read = c->bytes_read + store_get_stats(c->store).bytes_read,
        .reused = c->reused.n_reused,
        .reused_bytes = c->reused.reused_bytes,
    };
    report_ops(device_get_counters(c->dev), row);
}

/* Memory ran out although the plan fitted: what people are told to check, as it was then, and
 * the next smaller way. Counting that needs the weights released. */
static void explain_no_memory(job *j, stage_id id, const stage_choice *failed,
                              const char *answers) {
    err *e = &j->engine->host.err, cause = *e;
    const int least = j->least_way[id];
    char smaller[160] = "no smaller way of running this stage fits";
    stage_choice next;
    err_clear(e);
    j->least_way[id] = failed->way + 1;
    if (stage_choose(j, id, &next) == OVI_OK && next.way > failed->way)
        snprintf(smaller, sizeof smaller, "a smaller way fits: %s, %.2f GB",
                 next.candidate.what, (double)profile_peak(&next.profile) / 1e9);
    j->least_way[id] = least;
    err_clear(e);
    err_set(e, cause.status, "%s: %s; %s; %s", failed->profile.name, cause.text, answers,
            smaller);
}

void pipeline_release(ovi_engine *engine, const store_needs *needs, const char *whose) {
    const uint32_t gone = store_surplus(engine->store, needs);
    const memory_release r = {.models = gone,
                              .stage = whose,
                              .diffused = gone & NEEDS(MODEL_FUSION), /* else not held */
                              .for_vae = needs->parts[MODEL_VIDEO_VAE] ||
                                         needs->parts[MODEL_AUDIO_VAE]};
    if (!gone)
        return;
    memory_log_before_release(engine, &r);
    store_trim(engine->store, needs);
    os_give_back();
    memory_log_after_release(engine, &r);
}

/* What stages before have left goes before the arena comes, unless it is what is needed. */
static void release_others(const stage_context *c, const stage *st) {
    store_needs needs = {0};
    if (st->needs(c, 0, &needs))
        pipeline_release(c->job->engine, &needs, st->name);
}

/* The end of a stage: nothing is left on the device, unless it is held. */
static void release_stage(const stage_context *c, const stage *st) {
    ovi_engine *engine = c->job->engine;
    if (c->options.held && !err_failed(&engine->host.err)) {
        device_arena_close(c->dev);
        return;
    }
    const bool diffused = st == stage_at(STAGE_DIFFUSE) && !err_failed(&engine->host.err);
    const uint32_t to_decode = STAGE(STAGE_DECODE_AUDIO) | STAGE(STAGE_DECODE_VIDEO);
    const memory_release r = {.models = c->resident,
                              .stage = st->name,
                              .diffused = diffused,
                              .for_vae = diffused && (c->job->stages & to_decode)};
    memory_log_before_release(engine, &r);
    device_arena_close(c->dev);
    store_leave(c->store);
    os_give_back();
    memory_log_after_release(engine, &r);
}

ovi_status stage_run(job *j, stage_id id) {
    ovi_engine *engine = j->engine;
    const stage *st = stage_at(id);
    stage_choice choice;
    if (stage_choose(j, id, &choice) != OVI_OK)
        return engine->host.err.status;
    j->least_way[id] = choice.way;
    log_choice(engine, &choice);
    memory_log_bound(engine, choice.budget.device);
    const engine_place place = place_of(engine, &choice.candidate.options);
    stage_context c = {.job = j,
                       .models = &engine->models,
                       .dev = place.dev,
                       .store = place.store,
                       .options = choice.candidate.options};
    char answers[MEMORY_ANSWERS_MAX] = "";
    double start = j->stage_start = os_now();
    device_range_begin(c.dev, "%s", st->name);
    j->first_step = 0;
    release_others(&c, st);
    make_objects(&c, st);
    device_reset_counters(engine->dev);
    device_reset_counters(c.dev);
    memory_log_event(engine, st->name, "before load");
    job_progress(j, st->name, 0, 1);
    store_set_room(c.store, choice.profile.room);
    device_arena_open(c.dev, choice.profile.arena);
    if (stage_enter(&c, st, 0)) {
        c.reused = store_get_stats(c.store);
        c.resident = store_resident(c.store);
        c.load_seconds = os_now() - start;
        memory_log_event(engine, st->name, "after load");
        st->run(&c);
        (void)(device_sync(c.dev) == OVI_OK && store_intact(c.store));
        report_stage(&c, st, &choice.profile, os_now() - start);
    }
    device_range_end(c.dev);
    const bool no_memory = engine->host.err.status == OVI_MEMORY;
    j->ran_out = no_memory;
    if (no_memory)
        memory_log_answers(engine, answers);
    release_stage(&c, st);
    keep_report(engine, st->name);
    if (no_memory)
        explain_no_memory(j, id, &choice, answers);
    return engine->host.err.status;
}

/* ---- the way through ---- */

uint32_t stages_to_decode(const job *j) {
    const media_parts parts = job_parts(j);
    return (parts.sound ? STAGE(STAGE_DECODE_AUDIO) : 0) |
           (parts.picture ? STAGE(STAGE_DECODE_VIDEO) : 0);
}

uint32_t stages_to_clip(const job *j) {
    uint32_t set = STAGE(STAGE_DIFFUSE) | stages_to_decode(j);
    if (j->image && !j->resume)
        set |= STAGE(STAGE_IMAGE_ENCODE);
    if (!j->resume && !keep_has_all_texts(j))
        set |= STAGE(STAGE_TEXT_ENCODE);
    return set;
}

ovi_status job_require(const job *j) {
    uint32_t files = 0;
    for (int id = 0; id < STAGE_COUNT; id++)
        if (j->stages & STAGE(id))
            files |= stage_at((stage_id)id)->files;
    return call_require(j->engine, files);
}

ovi_status pipeline_expect_memory(job *j) {
    err *e = &j->engine->host.err;
    stage_choice choice;
    for (int id = 0; id < STAGE_COUNT && !err_failed(e); id++)
        if (j->stages & STAGE(id))
            (void)(stage_choose(j, (stage_id)id, &choice) == OVI_OK);
    return e->status;
}

const char *job_output(const job *j) {
    const char *output = j->request->output;
    return output && strcmp(output, "-") != 0 ? output : NULL;
}

char *job_path_beside(const job *j, const char *ending, err *e) {
    const char *output = job_output(j);
    return output ? place_beside(output, ending, e) : NULL;
}

static ovi_status decode_once(job *j, const media_format *format) {
    ovi_engine *engine = j->engine;
    const char *output = j->request->output;
    if (output && media_open(&j->writer, output, format, &engine->host) != OVI_OK)
        return engine->host.err.status;
    const bool has_sound = j->handed_samples && !j->writer; /* from the time before */
    if (format->sample_rate && !has_sound && stage_run(j, STAGE_DECODE_AUDIO) != OVI_OK)
        return engine->host.err.status;
    if (format->width && stage_run(j, STAGE_DECODE_VIDEO) != OVI_OK)
        return engine->host.err.status;
    media_writer *writer = j->writer;
    j->writer = NULL;
    return writer ? media_finish(writer) : OVI_OK;
}

/* Memory vanished while decoding: the next smaller way, once. Frames that the caller has had
 * cannot be taken back; where no way fits there is none. */
static bool may_try_smaller(job *j) {
    err *e = &j->engine->host.err;
    if (e->status != OVI_MEMORY || !j->ran_out || j->handed_frames)
        return false;
    host_log(&j->engine->host, OVI_LOG_WARN, "decoding again with less memory: %s",
             e->text);
    j->least_way[STAGE_DECODE_VIDEO]++;
    media_abort(j->writer);
    j->writer = NULL;
    j->ran_out = false;
    err_clear(e);
    return true;
}

static ovi_status decode(job *j) {
    err *e = &j->engine->host.err;
    const bool picture = (j->stages & STAGE(STAGE_DECODE_VIDEO)) != 0;
    const bool sound = (j->stages & STAGE(STAGE_DECODE_AUDIO)) != 0;
    char *metadata = job_request_json(j, true, e);
    media_format format = {.width = picture ? j->shape.width : 0,
                           .height = picture ? j->shape.height : 0,
                           .fps = j->shape.fps,
                           .sample_rate = sound ? j->shape.sample_rate : 0,
                           .quality = j->request->quality,
                           .sound = j->request->sound,
                           .keep_existing = j->request->keep_existing != 0,
                           .metadata = metadata};
    if (metadata && decode_once(j, &format) != OVI_OK && may_try_smaller(j))
        (void)(decode_once(j, &format) == OVI_OK);
    mem_free(metadata);
    return e->status;
}

/* First frame and features: made here, or by the run that is continued. */
static ovi_status make_conditions(job *j) {
    if (j->resume)
        return OVI_OK;
    if (j->image &&
        (job_take_image(j) != OVI_OK || stage_run(j, STAGE_IMAGE_ENCODE) != OVI_OK))
        return j->engine->host.err.status;
    return keep_encode_texts(j);
}

/* Diffusion, and its result on disk before anything of it is decoded. */
static ovi_status make_latents(job *j, outputs *o) {
    if (make_conditions(j) == OVI_OK && stage_run(j, STAGE_DIFFUSE) == OVI_OK)
        outputs_keep_latents(o, j);
    return j->engine->host.err.status;
}

ovi_status pipeline_run(job *j) {
    err *e = &j->engine->host.err;
    outputs o;
    if (outputs_take(&o, j, false) == OVI_OK && pipeline_expect_memory(j) == OVI_OK &&
        (j->resume || job_take_digest(j) == OVI_OK) && make_latents(j, &o) == OVI_OK) {
        (void)(decode(j) == OVI_OK);
        (void)(outputs_end(&o, j) == OVI_OK);
    }
    outputs_release(&o);
    return e->status;
}

ovi_status pipeline_decode(job *j) {
    outputs o;
    if (outputs_take(&o, j, true) == OVI_OK && pipeline_expect_memory(j) == OVI_OK)
        (void)(decode(j) == OVI_OK);
    outputs_release(&o);
    return j->engine->host.err.status;
}
