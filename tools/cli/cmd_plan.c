/* cmd_plan.c: what a request will need, as a table for people or JSON for programs. */
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "cli.h"

static json_t *stage_json(const ovi_stage_plan *s) {
    return json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:b}",
        "name", s->name, "models", s->models, "weights_bytes",
        (json_int_t)s->weights_bytes, "in_place_bytes", (json_int_t)s->in_place_bytes,
        "kept_bytes", (json_int_t)s->kept_bytes, "scratch_bytes",
        (json_int_t)s->scratch_bytes, "workspace_bytes", (json_int_t)s->workspace_bytes,
        "peak_bytes", (json_int_t)s->peak_bytes, "host_bytes", (json_int_t)s->host_bytes,
        "disk_bytes", (json_int_t)s->disk_bytes, "flops", s->flops, "bytes_moved",
        s->bytes_moved, "seconds", s->seconds, "disk_seconds", s->disk_seconds, "fits",
        s->fits);
}

static json_t *way_json(const ovi_plan *plan, const ovi_way *w) {
    return json_pack("{s:s, s:s, s:I, s:I, s:f, s:b, s:b}", "stage",
                     plan->stage[w->stage].name, "way", w->what, "peak_bytes",
                     (json_int_t)w->peak_bytes, "host_bytes", (json_int_t)w->host_bytes,
                     "seconds", w->seconds, "fits", w->fits, "chosen", w->chosen);
}

static json_t *shape_json(const ovi_shape *s) {
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:[i,i,i,i], s:[i,i], s:i, s:i}",
                     "width", s->width, "height", s->height, "frames", s->frames, "fps",
                     s->fps, "samples", s->samples, "sample_rate", s->sample_rate,
                     "video_latents", s->video[0], s->video[1], s->video[2], s->video[3],
                     "audio_latents", s->audio[0], s->audio[1], "video_tokens",
                     s->video_tokens, "audio_tokens", s->audio_tokens);
}

static void print_json(const ovi_plan *plan) {
    json_t *stages = json_array(), *ways = json_array();
    for (int i = 0; i < plan->n_stages; i++)
        json_array_append_new(stages, stage_json(&plan->stage[i]));
    for (int i = 0; i < plan->n_ways; i++)
        json_array_append_new(ways, way_json(plan, &plan->way[i]));
    json_t *root =
        json_pack("{s:o, s:o, s:o, s:I, s:I, s:b, s:b, s:I, s:I, s:f, s:f, s:s, s:s}",
                  "shape", shape_json(&plan->shape), "stages", stages, "ways", ways,
                  "budget_bytes", (json_int_t)plan->budget_bytes, "host_budget_bytes",
                  (json_int_t)plan->host_budget_bytes, "unified", plan->shared, "fits",
                  plan->fits, "peak_bytes", (json_int_t)plan->peak_bytes, "warm_bytes",
                  (json_int_t)plan->warm_bytes, "flops", plan->flops, "seconds",
                  plan->seconds, "speed", plan->speed, "advice", plan->advice);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

/* "against 6.00 GB on the device and 5.00 GB for both together"; "": without a bound. */
static void say_bounds(const ovi_plan *plan, char *text, size_t size) {
    char device[32], host[32];
    const bool by_vram = plan->budget_bytes, by_ram = plan->host_budget_bytes;
    snprintf(text, size, "%s%s%s%s%s%s", by_vram || by_ram ? " against " : "",
             by_vram ? cli_bytes(device, plan->budget_bytes) : "",
             by_vram ? " on the device" : "", by_vram && by_ram ? " and " : "",
             by_ram ? cli_bytes(host, plan->host_budget_bytes) : "",
             !by_ram        ? ""
             : plan->shared ? " of the device and the host together"
                            : " on the host");
}

/* Every way of every stage, with its verdict. */
static void print_ways(const ovi_plan *plan) {
    char peak[32], host[32], bounds[128];
    say_bounds(plan, bounds, sizeof bounds);
    printf("\nways%s:\n  %-13s %-66s %10s %10s %11s\n", bounds, "", "", "device", "host",
           "time");
    for (int i = 0; i < plan->n_ways; i++) {
        const ovi_way *w = &plan->way[i];
        printf("  %-13s %-66s %10s %10s %9.1f s  %s\n", plan->stage[w->stage].name,
               w->what, cli_bytes(peak, w->peak_bytes), cli_bytes(host, w->host_bytes),
               w->seconds,
               w->chosen ? "taken"
               : w->fits ? "fits"
                         : "too large");
    }
}

static void print_table(const ovi_plan *plan) {
    const ovi_shape *s = &plan->shape;
    printf(
        "%dx%d, %d frames at %d fps, %.2f s of sound; %d video and %d audio tokens\n\n",
        s->width, s->height, s->frames, s->fps, (double)s->samples / s->sample_rate,
        s->video_tokens, s->audio_tokens);
    printf("%-13s %-21s %10s %10s %10s %10s %10s %10s\n", "stage", "models", "weights",
           "kept", "scratch", "workspace", "peak", "TFLOP");
    for (int i = 0; i < plan->n_stages; i++) {
        const ovi_stage_plan *p = &plan->stage[i];
        char weights[32], kept[32], scratch[32], workspace[32], peak[32];
        printf("%-13s %-21s %10s %10s %10s %10s %10s %10.3f\n", p->name, p->models,
               cli_bytes(weights, p->weights_bytes), cli_bytes(kept, p->kept_bytes),
               cli_bytes(scratch, p->scratch_bytes),
               cli_bytes(workspace, p->workspace_bytes), cli_bytes(peak, p->peak_bytes),
               p->flops / 1e12);
    }
    char peak[32];
    printf("\npeak %s, %.1f TFLOP, about %.0f s on %s (workspace is part of scratch)\n",
           cli_bytes(peak, plan->peak_bytes), plan->flops / 1e12, plan->seconds,
           plan->speed);
    for (int i = 0; i < plan->n_stages; i++)
        if (plan->stage[i].disk_bytes)
            printf("%s reads %s from disk, because host memory does not hold the files: "
                   "about %.0f s\n",
                   plan->stage[i].name, cli_bytes(peak, plan->stage[i].disk_bytes),
                   plan->stage[i].disk_seconds);
    if (plan->warm_bytes)
        printf("kept on the host for the next clip, beside every stage: %s\n",
               cli_bytes(peak, plan->warm_bytes));
    if (!plan->fits)
        printf("does not fit%s\n", plan->advice);
    if (plan->budget_bytes || plan->host_budget_bytes || !plan->fits)
        print_ways(plan);
}

/* A published configuration can be planned before its models are there. */
static void drop_missing_models(cli_args *args) {
    ovi_settings *s = &args->settings;
    if (!s->models || s->models != args->config.ckpt_dir || access(s->models, F_OK) == 0)
        return;
    fprintf(stderr, "%s is not there yet: planned from the published sizes\n", s->models);
    s->models = NULL;
    if (s->fusion == args->config.fusion)
        s->fusion = NULL;
}

int cli_plan(cli_args *args) {
    ovi_image image = {0};
    ovi_message message;
    if (!args->image && args->config.mode != MODE_T2V)
        args->image = args->config.image;
    if (args->image) {
        if (ovi_image_load(args->image, &image, &message) != OVI_OK) {
            cli_complain("ovi: %s", message.text);
            return EXIT_FAILED;
        }
        args->request.image = &image;
        args->request.size = args->request.aspect = NULL; /* the image decides */
    }
    if (!args->dry_run)
        drop_missing_models(args);
    int code = EXIT_FAILED;
    /* With named models the plan takes types and layout from the files themselves; a dry run
     * has those that the run would have. */
    ovi_engine *engine =
        cli_open(args, args->dry_run || args->settings.models ? CLI_TO_PLAN
                                                              : CLI_TO_PLAN_BY_SIZES);
    if (engine) {
        ovi_plan plan;
        ovi_status status = ovi_make_plan(engine, &args->request, &plan);
        code = status == OVI_OK ? EXIT_DONE : cli_failure(engine, status);
        if (status == OVI_OK && args->json)
            print_json(&plan);
        else if (status == OVI_OK)
            print_table(&plan);
        if (status == OVI_OK && args->svg && !cli_may_write(args, args->svg)) {
            code = EXIT_FAILED;
        } else if (status == OVI_OK && args->svg) {
            status = ovi_plan_svg(engine, &plan, args->svg);
            code = status == OVI_OK ? code : cli_failure(engine, status);
        }
        cli_close(engine);
    }
    ovi_free((void *)(uintptr_t)image.rgb);
    return code;
}
