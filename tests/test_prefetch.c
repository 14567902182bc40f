/* The prefetcher: slots, order, failures, cancelling. Parts are runs of one byte; the F
 * numbers are the invariants of prefetch.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/os.h"
#include "residency/prefetch.h"

#define SLOT_BYTES 4096
#define MOST_SLOTS 8

/* A source of parts that can be slow, can fail, and remembers what it was asked for. */
typedef struct source {
    atomic_int reads[PREFETCH_MAX_PARTS];
    atomic_int dropped;
    atomic_int fails_at; /* this part cannot be read; NONE */
    atomic_int hangs_at; /* reading this part ends only when it is dropped */
    host host;
    char slots[MOST_SLOTS][SLOT_BYTES];
    err err;
} source;

#define NONE (-1)

static void nap(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static bool read_run(void *user, int part, char *slot, const atomic_bool *stop, err *e) {
    source *s = user;
    atomic_fetch_add(&s->reads[part], 1);
    if (atomic_load(&s->fails_at) == part) {
        err_set(e, OVI_IO, "part %d cannot be read", part);
        return false;
    }
    memset(slot, part, SLOT_BYTES / 2);
    while (atomic_load(&s->hangs_at) == part && !atomic_load(stop))
        nap(1);
    if (atomic_load(stop)) {
        atomic_fetch_add(&s->dropped, 1);
        return false;
    }
    memset(slot + SLOT_BYTES / 2, part, SLOT_BYTES / 2);
    return true;
}

static prefetch *start_rounds(source *s, uint64_t parts, int n_slots, int rounds) {
    atomic_store(&s->fails_at, NONE);
    atomic_store(&s->hangs_at, NONE);
    prefetch_desc desc = {.parts = parts,
                          .slots = s->slots[0],
                          .slot_bytes = SLOT_BYTES,
                          .n_slots = n_slots,
                          .rounds = rounds,
                          .read = read_run,
                          .user = s,
                          .host = &s->host};
    prefetch *p = prefetch_start(&desc, &s->err);
    assert_non_null(p);
    return p;
}

static prefetch *start(source *s, uint64_t parts, int n_slots) {
    return start_rounds(s, parts, n_slots, 0);
}

static void check_bytes(const char *slot, int part) {
    for (int i = 0; i < SLOT_BYTES; i++)
        assert_int_equal(slot[i], part);
}

static void use(source *s, prefetch *p, int part) {
    const char *slot = prefetch_pin(p, part, &s->err);
    assert_int_equal(s->err.status, OVI_OK);
    check_bytes(slot, part);
    assert_true(prefetch_unpin(p, part));
}

static int total_reads(source *s) {
    int n = 0;
    for (int i = 0; i < PREFETCH_MAX_PARTS; i++)
        n += atomic_load(&s->reads[i]);
    return n;
}

/* Until the thread has nothing to do: no read for a while. */
static void settle(source *s) {
    for (int before = NONE; before != total_reads(s); nap(20))
        before = total_reads(s);
}

/* F5: each use frees a slot for the next part, and nothing more is read. */
static void rounds_read_every_part_once_each(void **state) {
    (void)state;
    for (int n_slots = 2; n_slots <= 4; n_slots++) {
        source s = {0};
        prefetch *p = start(&s, 0x3f, n_slots);
        for (int i = 0; i < 3 * 6; i++) {
            use(&s, p, i % 6);
            while (total_reads(&s) < n_slots + i + 1)
                nap(1);
        }
        settle(&s);
        for (int i = 0; i < 6; i++)
            assert_int_equal(atomic_load(&s.reads[i]), i < n_slots ? 4 : 3);
        assert_int_equal(atomic_load(&s.dropped), 0);
        prefetch_stop(p);
    }
}

/* F5, with an end: also where a part is left out, and what comes after the end is served. */
static void nothing_is_read_past_the_last_round(void **state) {
    (void)state;
    for (int n_slots = 2; n_slots <= 7; n_slots++) {
        source s = {0};
        prefetch *p = start_rounds(&s, 0x3f, n_slots, 3);
        for (int i = 0; i < 3 * 6; i++)
            if (i != 6 + 5)
                use(&s, p, i % 6);
        settle(&s);
        for (int i = 0; i < 6; i++)
            assert_in_range(atomic_load(&s.reads[i]), 1, 3);
        int before = total_reads(&s);
        assert_in_range(before, 6, 3 * 6);
        for (int i = 0; i < 6; i++)
            use(&s, p, i);
        settle(&s);
        assert_in_range(total_reads(&s), before, before + 6);
        prefetch_stop(p);
    }
}

static void any_order_is_served(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    uint64_t random = 1;
    for (int i = 0; i < 500; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        use(&s, p, (int)((random >> 33) % 6));
    }
    prefetch_stop(p);
}

static void a_part_left_out_is_not_read_again(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    for (int round = 0; round < 10; round++)
        for (int i = 0; i < 6; i++)
            if (i != 3)
                use(&s, p, i);
    settle(&s);
    assert_true(atomic_load(&s.reads[3]) <= 1); /* expected in the first round only */
    assert_int_equal(atomic_load(&s.reads[5]), 10);
    prefetch_stop(p);
}

static void what_nobody_waits_for_is_dropped(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    settle(&s);
    atomic_store(&s.hangs_at, 2);
    use(&s, p, 0);
    while (atomic_load(&s.reads[2]) == 0)
        nap(1);
    use(&s, p, 5);
    assert_int_equal(atomic_load(&s.dropped), 1);
    prefetch_stop(p);
}

/* F1, with all slots but one held. */
static void pinned_slots_keep_their_bytes(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 3);
    const char *five = prefetch_pin(p, 5, &s.err), *zero = prefetch_pin(p, 0, &s.err);
    assert_ptr_equal(prefetch_pin(p, 5, &s.err), five);
    assert_false(prefetch_unpin(p, 5));
    for (int round = 0; round < 3; round++)
        for (int i = 1; i < 5; i++) {
            use(&s, p, i);
            check_bytes(five, 5);
            check_bytes(zero, 0);
        }
    assert_true(prefetch_unpin(p, 5));
    assert_true(prefetch_unpin(p, 0));
    prefetch_stop(p);
}

static void more_pins_than_slots_are_refused(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    assert_non_null(prefetch_pin(p, 0, &s.err));
    assert_non_null(prefetch_pin(p, 1, &s.err));
    assert_null(prefetch_pin(p, 2, &s.err));
    assert_int_equal(s.err.status, OVI_INTERNAL);
    assert_string_equal(s.err.text, "part 2 is used while all 2 slots are pinned");
    prefetch_stop(p);
}

/* F3: not before the part is needed, and then in the reader's words. */
static void a_failed_read_comes_out_of_its_pin(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    settle(&s);
    atomic_store(&s.fails_at, 2);
    use(&s, p, 0);
    settle(&s);
    assert_int_equal(atomic_load(&s.reads[2]), 1);
    use(&s, p, 1);
    assert_null(prefetch_pin(p, 2, &s.err));
    assert_int_equal(s.err.status, OVI_IO);
    assert_string_equal(s.err.text, "part 2 cannot be read");
    err_clear(&s.err);
    assert_null(prefetch_pin(p, 3, &s.err)); /* latched */
    assert_int_equal(s.err.status, OVI_IO);
    prefetch_stop(p);
}

/* F4 */
static void waiting_ends_with_a_cancel(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    use(&s, p, 0);
    atomic_store(&s.hangs_at, 3);
    atomic_store(&s.host.cancel, true);
    double from = os_now();
    assert_null(prefetch_pin(p, 3, &s.err));
    assert_int_equal(s.err.status, OVI_CANCELLED);
    assert_true(os_now() - from < 1); /* 0.1 s on a machine with nothing else to do */
    prefetch_stop(p);
}

/* F4: the read under way hangs until it is dropped. */
static void stopping_does_not_wait_for_the_read(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, 0x3f, 2);
    atomic_store(&s.hangs_at, 3);
    use(&s, p, 1);
    use(&s, p, 2);
    while (atomic_load(&s.reads[3]) == 0)
        nap(1);
    prefetch_stop(p);
    assert_int_equal(atomic_load(&s.dropped), 1);
}

static void a_dry_run_has_slots_without_a_thread(void **state) {
    (void)state;
    source s = {0};
    prefetch_desc desc = {.parts = 0x15, .slot_bytes = 64, .n_slots = 2, .host = &s.host};
    desc.slots = s.slots[0];
    prefetch *p = prefetch_start(&desc, &s.err);
    assert_non_null(p);
    for (int i = 0; i < 12; i++) {
        int part = 2 * (i % 3);
        char *slot = prefetch_pin(p, part, &s.err);
        assert_true(slot == s.slots[0] || slot == s.slots[0] + 64);
        assert_true(prefetch_unpin(p, part));
    }
    prefetch_stop(p);
    prefetch_stop(NULL);
}

static void one_part_may_flow_alone(void **state) {
    (void)state;
    source s = {0};
    prefetch *p = start(&s, (uint64_t)1 << 63, 2);
    for (int i = 0; i < 5; i++)
        use(&s, p, 63);
    assert_int_equal(atomic_load(&s.reads[63]), 1);
    prefetch_stop(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_read_every_part_once_each),
        cmocka_unit_test(nothing_is_read_past_the_last_round),
        cmocka_unit_test(any_order_is_served),
        cmocka_unit_test(a_part_left_out_is_not_read_again),
        cmocka_unit_test(what_nobody_waits_for_is_dropped),
        cmocka_unit_test(pinned_slots_keep_their_bytes),
        cmocka_unit_test(more_pins_than_slots_are_refused),
        cmocka_unit_test(a_failed_read_comes_out_of_its_pin),
        cmocka_unit_test(waiting_ends_with_a_cancel),
        cmocka_unit_test(stopping_does_not_wait_for_the_read),
        cmocka_unit_test(a_dry_run_has_slots_without_a_thread),
        cmocka_unit_test(one_part_may_flow_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
