/* planning.c: what a request will need, by running its stages on the dry device. */
#include "engine.h"

static void add_stage(ovi_plan *plan, const stage_profile *p, const char *resident,
                      size_t host_bytes) {
    plan->stage[plan->n_stages++] = (ovi_stage_plan){
        .name = p->name,
        .models = resident,
        .weights_bytes = profile_weights(p),
        .in_place_bytes = p->in_place,
        .kept_bytes = p->keep,
        .scratch_bytes = p->arena - p->keep,
        .workspace_bytes = p->workspace,
        .peak_bytes = profile_peak(p),
        .host_bytes = host_bytes + p->staging,
        .flops = p->flops,
        .bytes_moved = p->bytes_moved,
    };
    if (profile_peak(p) > plan->peak_bytes)
        plan->peak_bytes = profile_peak(p);
    plan->flops += p->flops;
}

/* Buffers that the job holds from start to end, and the frames on their way out. */
static size_t host_bytes_of(const job *j, stage_id id) {
    const ovi_shape *s = &j->shape;
    size_t video = 4, audio = sizeof(float) * (size_t)s->audio[0] * (size_t)s->audio[1];
    for (int i = 0; i < 4; i++)
        video *= (size_t)s->video[i];
    size_t sum = video + audio, frame = (size_t)s->width * (size_t)s->height * 3;
    for (int i = 0; i < j->n_prompts; i++)
        sum += sizeof(float) * (size_t)j->rows[i] * (size_t)s->text_dim;
    if (j->image)
        sum += sizeof(float) * frame + video / (size_t)s->video[1];
    if (id == STAGE_DECODE_AUDIO)
        sum += sizeof(float) * (size_t)s->samples;
    if (id == STAGE_DECODE_VIDEO) {
        int group = (int)video_vae_time(&j->engine->models.spec.video_vae);
        media_format format = {
            .width = s->width, .height = s->height, .sample_rate = s->sample_rate};
        sum += (sizeof(float) + 1) * frame * (size_t)group +
               media_queue_bytes(&format, group);
    }
    return sum;
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
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        stage_profile profile;
        if (order[i] == STAGE_IMAGE_ENCODE && !j.image)
            continue;
        if (stage_profile_count(engine, order[i], &j, &profile) != OVI_OK)
            break;
        add_stage(plan, &profile, stage_models(order[i]), host_bytes_of(&j, order[i]));
    }
    return call_end(&j, engine);
}
