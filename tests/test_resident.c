/* test_resident.c: what the system says this process holds, against the plan, on the mid
 * preset (1 GB of weights). Our count of device bytes is exact by construction; here its
 * meaning is checked from outside.
 *
 * Sampled at the end of each stage, before its release, when all it uses has been touched.
 * ALLOWED is what libraries add, once: code and descriptors of oneDNN for the shapes of this
 * model (14 MB), stacks of threads, and staging that was freed but not yet given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/os.h"
#include "engine_fixture.h"

#define ALLOWED   20e6
#define TOLERANCE 0.03
#define LARGE     1e8 /* stages from here on are held to both bounds */

/* The sanitizer holds back what is freed: there is nothing to measure. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

static int make_all(void **state) {
    (void)make_root(state);
    make_models("mid", "mid", 1);
    return 0;
}

static double anonymous_bytes(void) {
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    double bytes = -1;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "Anonymous:", 10) == 0)
            bytes = 1024 * strtod(line + 10, NULL);
    fclose(f);
    assert_true(bytes >= 0);
    return bytes;
}

/* Resident pages of shared libraries: code that is run for the first time comes in. */
static double library_bytes(void) {
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    double bytes = 0;
    bool library = false;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' '))
            library = strstr(line, ".so") != NULL;
        else if (library && strncmp(line, "Rss:", 4) == 0)
            bytes += 1024 * strtod(line + 4, NULL);
    }
    fclose(f);
    assert_true(bytes > 0);
    return bytes;
}

typedef struct samples {
    int n;
    double at_end[OVI_MAX_STAGES], released[OVI_MAX_STAGES];
} samples;

/* The lines that come when a stage is done, and when it has been released. */
static void sample(void *user, ovi_log_level level, const char *line) {
    samples *s = user;
    if (level != OVI_LOG_DEBUG || s->n == OVI_MAX_STAGES)
        return;
    if (strstr(line, "mem before cleanup"))
        s->at_end[s->n] = anonymous_bytes();
    else if (strstr(line, "mem after cleanup"))
        s->released[s->n++] = anonymous_bytes();
}

/* Buffers on the host may or may not have been touched. */
static void expect_stage(const ovi_stage_plan *p, double grown) {
    double device = (double)(p->peak_bytes - p->in_place_bytes);
    double most = (device + (double)p->host_bytes) * (1 + TOLERANCE) + ALLOWED;
    double least = device * (1 - TOLERANCE);
    print_message("%s: %.1f MB anonymous; plan %.1f MB on the device, %.1f MB beside\n",
                  p->name, grown / 1e6, device / 1e6, (double)p->host_bytes / 1e6);
    if (grown > most || (device > LARGE && grown < least))
        fail_msg("%s: expected %.0f to %.0f bytes anonymous, found %.0f", p->name, least,
                 most, grown);
}

static void the_system_counts_what_the_plan_counts(void **state) {
    (void)state;
    if (SANITIZED)
        skip();
    samples s = {0};
    ovi_settings settings;
    ovi_settings_init(&settings);
    settings.models = in_root("mid");
    settings.log = sample;
    settings.log_user = &s;
    settings.log_level = OVI_LOG_DEBUG;
    ovi_engine *engine;
    if (ovi_open(&settings, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    ovi_request request;
    ovi_request_init(&request);
    request.prompt = "A red kite. <S>Up it goes.<E> <AUDCAP>Wind.<ENDAUDCAP>";
    request.steps = 1;
    request.output = in_root("clip.y4m");
    ovi_plan plan;
    if (ovi_make_plan(engine, &request, &plan) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    double anonymous = anonymous_bytes(), resident = (double)os_resident_bytes(),
           libraries = library_bytes();
    if (ovi_generate(engine, &request, NULL) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    assert_int_equal(s.n, plan.n_stages);
    for (int i = 0; i < s.n; i++) {
        expect_stage(&plan.stage[i], s.at_end[i] - anonymous);
        double held = s.released[i] - anonymous - (double)plan.stage[i].host_bytes;
        if (held > ALLOWED)
            fail_msg("%s: %.0f bytes are held after its release", plan.stage[i].name,
                     held);
    }
    /* in place pages of the file are resident as well, and in the plan */
    libraries = library_bytes() - libraries;
    const ovi_stage_plan *largest = &plan.stage[0];
    for (int i = 1; i < plan.n_stages; i++)
        if (plan.stage[i].peak_bytes > largest->peak_bytes)
            largest = &plan.stage[i];
    double peak = (double)os_resident_peak() - resident - libraries,
           least = (double)plan.peak_bytes * (1 - TOLERANCE),
           most = (double)(plan.peak_bytes + largest->host_bytes) * (1 + TOLERANCE) +
                  ALLOWED;
    print_message(
        "peak resident: %.1f MB above the start, and %.1f MB of libraries; plan "
        "%.1f MB, %.1f MB beside\n",
        peak / 1e6, libraries / 1e6, (double)plan.peak_bytes / 1e6,
        (double)largest->host_bytes / 1e6);
    if (peak < least || peak > most)
        fail_msg("expected a peak of %.0f to %.0f bytes, found %.0f", least, most, peak);
    ovi_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_system_counts_what_the_plan_counts),
    };
    return cmocka_run_group_tests(tests, make_all, remove_root);
}
