/* test_cuda_devices.c: the cuda backend on two GPUs that are not here (fake/fake_gpu.h): engines
 * keep to their own, whatever thread calls; GPUs that are only listed are left alone; those that
 * cannot be used are passed over. */
#include <pthread.h>

#include "cuda_fixture.h"

static int *(*current)(void); /* card of the calling thread */

static ovi_engine *open_on(const char *name) {
    ovi_settings s = fake_settings();
    s.device = name;
    return open_fake(&s);
}

static void generate(ovi_engine *engine) {
    ovi_request r = fake_request("clip.y4m");
    must(engine, ovi_generate(engine, &r, NULL));
    assert_expected("clip.y4m");
}

static void assert_untouched(const fake_card *card) {
    assert_int_equal(card->opened, 0);
    assert_int_equal(card->peak, 0);
}

static void assert_given_back(const fake_card *card) {
    assert_int_equal(card->taken, 0);
    assert_int_equal(card->live, 0);
    assert_int_equal(card->objects, 0);
}

static int two_cards(void **state) {
    (void)state;
    const fake_card usual = {.sm = 90,
                             .total = (size_t)8 << 30,
                             .context = (size_t)300 << 20,
                             .loaded = (size_t)40 << 20};
    gpu->card[0] = gpu->card[1] = usual;
    gpu->devices = 2;
    *current() = 0;
    return 0;
}

static void *generate_elsewhere(void *engine) {
    ovi_request r = fake_request("clip.y4m");
    static ovi_status status;
    status = ovi_generate(engine, &r, NULL);
    return &status;
}

static void *close_elsewhere(void *engine) {
    ovi_close(engine);
    return NULL;
}

static void *in_a_thread(void *(*what)(void *), void *engine) {
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, what, engine), 0);
    pthread_join(thread, &result);
    return result;
}

/* A new thread's current card is the first. */
static void an_engine_keeps_to_its_card_on_every_thread(void **state) {
    (void)state;
    ovi_engine *engine = open_on("cuda:1");
    must(engine, *(ovi_status *)in_a_thread(generate_elsewhere, engine));
    assert_expected("clip.y4m");
    *current() = 0;
    generate(engine);
    (void)in_a_thread(close_elsewhere, engine);
    assert_true(gpu->card[1].peak > 0);
    assert_given_back(&gpu->card[1]);
    assert_untouched(&gpu->card[0]);
}

/* One clip is made inside of another. */
static void make_one_between(void *user, const ovi_progress *p) {
    if (strcmp(p->stage, "diffuse") == 0 && p->step == 2) {
        ovi_request r = fake_request("between.y4m");
        must(user, ovi_generate(user, &r, NULL));
    }
}

static void two_engines_of_a_thread_keep_to_their_cards(void **state) {
    (void)state;
    ovi_engine *first = open_on("cuda:0"), *second = open_on("cuda:1");
    ovi_request r = fake_request("clip.y4m");
    ovi_sinks sinks = {.user = first, .progress = make_one_between};
    generate(first);
    assert_int_equal(gpu->card[1].peak, 0);
    must(second, ovi_generate(second, &r, &sinks));
    assert_expected("clip.y4m");
    assert_expected("between.y4m");
    generate(first);
    ovi_close(first);
    assert_given_back(&gpu->card[0]);
    generate(second);
    ovi_close(second);
    assert_given_back(&gpu->card[1]);
    assert_true(gpu->card[0].peak > 0 && gpu->card[1].peak > 0);
}

/* ---- those that are only listed, or cannot be used ---- */

static const char old[] =
    "GPU 0 has compute capability 7.5: expected 8.0 or later, which multiplies bf16";

/* The row of this device in the list; usable 0: it is not there. */
static ovi_device_info row_of(const char *name) {
    ovi_settings s = fake_settings();
    ovi_device_info info;
    for (int i = 0; ovi_device_at(&s, i, &info); i++)
        if (strcmp(info.name, name) == 0)
            return info;
    fail_msg("%s is not listed", name);
    return info;
}

static void a_list_leaves_devices_alone(void **state) {
    (void)state;
    *current() = 1;
    gpu->card[0].others = (size_t)1 << 30;
    const ovi_device_info first = row_of("cuda:0"), second = row_of("cuda:1");
    assert_true(first.usable && second.usable);
    assert_int_equal(first.memory_total, (size_t)8 << 30);
    assert_int_equal(first.memory_free, ((size_t)7 << 30) - ((size_t)400 << 20));
    assert_int_equal(second.memory_free, ((size_t)8 << 30) - ((size_t)400 << 20));
    assert_int_equal(*current(), 1);
    assert_untouched(&gpu->card[0]);
    assert_untouched(&gpu->card[1]);
}

static void a_list_says_why_a_device_is_not_used(void **state) {
    (void)state;
    gpu->card[0].sm = 75;
    const ovi_device_info first = row_of("cuda:0"), second = row_of("cuda:1");
    assert_int_equal(first.usable, 0);
    assert_string_equal(first.missing, old);
    assert_non_null(strstr(first.what, "fake GPU"));
    assert_int_equal(second.usable, 1);
}

static int n_lines; /* of the log that speak of a device that is passed over */
static void count_lines(void *user, ovi_log_level level, const char *line) {
    listen(user, level, line);
    n_lines += strstr(line, "is passed over") != NULL;
}

/* What auto takes, which works. On a card the values are the reference's. */
static ovi_engine *open_auto(void) {
    ovi_settings s = fake_settings();
    ovi_request r = fake_request("auto.y4m");
    ovi_engine *engine;
    s.device = "auto";
    s.log = count_lines;
    n_lines = 0;
    if (ovi_open(&s, &engine) != OVI_OK)
        fail_msg("%s", ovi_error(engine));
    must(engine, ovi_generate(engine, &r, NULL));
    if (gpu->card[0].peak + gpu->card[1].peak > 0 && !gpu->lost)
        assert_expected("auto.y4m");
    return engine;
}

static void expect_refusal(const char *device, const char *words) {
    ovi_settings s = fake_settings();
    ovi_engine *engine;
    s.device = device;
    assert_int_not_equal(ovi_open(&s, &engine), OVI_OK);
    assert_says(ovi_error(engine), words);
    ovi_close(engine);
}

static void auto_passes_over_what_cannot_be_used(void **state) {
    gpu->card[0].sm = 75;
    ovi_close(open_auto());
    assert_int_equal(n_lines, 1);
    assert_true(was_said("cuda:0 is passed over: GPU 0 has compute capability 7.5"));
    assert_untouched(&gpu->card[0]);
    assert_true(gpu->card[1].peak > 0);
    expect_refusal("cuda", old);
    (void)two_cards(state);
    gpu->card[0].no_blas = 1;
    ovi_close(open_auto());
    assert_int_equal(n_lines, 1);
    assert_true(was_said("cuda:0 is passed over: cuBLASLt does not start on GPU 0"));
    assert_given_back(&gpu->card[0]);
    assert_true(gpu->card[1].peak > 0);
    expect_refusal("cuda:0", "cuBLASLt does not start on GPU 0");
    (void)two_cards(state);
    gpu->card[0].sm = 61;
    gpu->card[1].no_blas = 1;
    ovi_close(open_auto());
    assert_int_equal(n_lines, 2);
    assert_int_equal(gpu->card[0].peak + gpu->card[1].peak, 0);
    (void)two_cards(state);
    gpu->devices = 0;
    ovi_close(open_auto());
    assert_int_equal(n_lines, 0);
}

/* ---- a device that is lost: after the first failure every call fails ---- */

static void expect_loss(ovi_engine *engine, const char *words) {
    ovi_request r = fake_request("lost.y4m");
    assert_int_equal(ovi_generate(engine, &r, NULL), OVI_DEVICE);
    assert_true(gpu->lost);
    if (!strstr(ovi_error(engine), "unspecified launch failure"))
        assert_says(ovi_error(engine), words);
    assert_null(strchr(ovi_error(engine), '\n'));
}

static void lose_at(int kind, int at, const char *words) {
    ovi_engine *engine = open_on("cuda:0");
    gpu->fail[kind] = at;
    gpu->sticky = 1;
    expect_loss(engine, words);
    expect_loss(engine, words);
    expect_refusal("cuda", "unspecified launch failure");
    if (at == 1) {
        ovi_close(open_auto()); /* computes elsewhere */
        assert_int_equal(n_lines, 2);
    }
    ovi_close(engine);
    gpu->sticky = gpu->lost = 0;
    assert_given_back(&gpu->card[0]);
    assert_int_equal(gpu->pinned, 0);
}

static void a_device_that_is_lost_is_one_sentence(void **state) {
    (void)state;
    static const struct loss {
        int kind;
        const char *words; /* of the failure itself */
    } losses[] = {{FAKE_LAUNCH, "unspecified launch failure"},
                  {FAKE_COPY, "a fake error"},
                  {FAKE_SYNC, "unspecified launch failure"}};
    alarm(300); /* nothing waits for what does not come */
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        const int kind = losses[i].kind;
        ovi_engine *engine = open_on("cuda:0");
        const long before = gpu->calls[kind];
        generate(engine);
        ovi_close(engine);
        const int all = (int)(gpu->calls[kind] - before);
        for (int at = 1; at <= all; at += 1 + all / 12)
            lose_at(kind, at, losses[i].words);
    }
    alarm(0);
}

/* ---- */

static int open_two(void **state) {
    const int result = open_fakes(state);
    *(void **)&current = dlsym(RTLD_DEFAULT, "fake_current_of_thread");
    return result;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_engine_keeps_to_its_card_on_every_thread, two_cards),
        cmocka_unit_test_setup(two_engines_of_a_thread_keep_to_their_cards, two_cards),
        cmocka_unit_test_setup(a_list_leaves_devices_alone, two_cards),
        cmocka_unit_test_setup(a_list_says_why_a_device_is_not_used, two_cards),
        cmocka_unit_test_setup(auto_passes_over_what_cannot_be_used, two_cards),
        cmocka_unit_test_setup(a_device_that_is_lost_is_one_sentence, two_cards),
    };
    return cmocka_run_group_tests(tests, open_two, remove_root);
}
