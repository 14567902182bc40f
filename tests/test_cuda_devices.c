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
    };
    return cmocka_run_group_tests(tests, open_two, remove_root);
}
