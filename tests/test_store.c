/* The store: what is resident when, what it costs, and parts that stream through slots. The
 * S numbers are the invariants of store.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "residency/warm.h"
#include "store_fixture.h"

static void nap(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* ---- the process ---- */

static int count_files(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int count_threads(void) {
    DIR *dir = opendir("/proc/self/task");
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* ---- tests ---- */

/* S5, with none, some and all blocks resident beside the streamed ones. */
static void streamed_parts_have_the_bits_of_resident_ones(void **state) {
    (void)state;
    const dtype computes[] = {DTYPE_F32, DTYPE_BF16};
    for (int c = 0; c < 2; c++) {
        fixture f;
        row_bytes all;
        open_fixture(&f, computes[c]);
        take_rows(&f, &all);
        for (int slots = 0; slots <= 4; slots += slots ? 1 : 2) /* 0, 2, 3, 4 */
            for (int resident = 0; resident < BLOCKS; resident += 2) {
                uint64_t streamed = ALL_BLOCKS & ~(BIT(resident) - 1);
                enter(&f, needs_of(STORE_ALL_PARTS, streamed, slots));
                store_pin(f.store, MODEL, PART_STEP);
                for (int i = 0; i < 3 * BLOCKS; i++) {
                    use_part(&f, &all, i % BLOCKS);
                    check_part(&f, &all, PART_STEP);
                }
                store_unpin(f.store, MODEL, PART_STEP);
            }
        free_rows(&all);
        close_fixture(&f);
    }
}

/* Longer than what is read or converted at a time, and not a multiple of it. */
static void declare_long(weight_table *t, err *e) {
    weight_table_init(t, "model of long rows", e);
    weight_linear(t, 0, DTYPE_F32, 1031, 1021, "long.f32");
    weight_linear(t, 1, DTYPE_BF16, 2111, 1021, "long.bf16");
    weight_vector(t, 2, DTYPE_F16, SHAPE(70001), "long.f16");
    weight_linear(t, 3, DTYPE_F32, 301, 301, "turned.f32");
}

static void long_rows_come_in_pieces(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        fixture f;
        row_bytes all;
        open_model(&f, i % 2 ? DTYPE_BF16 : DTYPE_F32, declare_long);
        if (i < 2) {
            take_rows(&f, &all);
            enter(&f, needs_of(15, 15, 2));
            for (int part = 0; part < 8; part++)
                use_part(&f, &all, part % 4);
        } else {
            move_apart(&f);
            apart.refuse_pins = true; /* through staging */
            open_devices(&f, i % 2 ? DTYPE_BF16 : DTYPE_F32);
            take_rows(&f, &all); /* compares */
        }
        free_rows(&all);
        close_fixture(&f);
    }
}

static void parts_may_come_in_any_order(void **state) {
    (void)state;
    fixture f;
    row_bytes all;
    open_fixture(&f, DTYPE_F32);
    take_rows(&f, &all);
    enter(&f, needs_of(ALL_BLOCKS, ALL_BLOCKS, 2));
    const int order[] = {0, 1, 3, 4, 5, 0, 2, 5, 5, 1, 0, 4, 3, 2, 1, 0};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        use_part(&f, &all, order[i]);
    store_pin(f.store, MODEL, 4); /* held while others pass */
    for (int i = 0; i < 4; i++)
        use_part(&f, &all, i);
    check_part(&f, &all, 4);
    store_unpin(f.store, MODEL, 4);
    free_rows(&all);
    close_fixture(&f);
}

/* S1: rows of a streamed part keep their shape, and have data between pin and unpin only. */
static void streamed_rows_have_data_while_pinned(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    enter(&f, needs_of(ALL_BLOCKS, ALL_BLOCKS, 2));
    const tensor *t = weight_get(&f.table, 0);
    assert_int_equal(t->rank, 2);
    assert_null(t->data);
    store_pin(f.store, MODEL, 0);
    store_pin(f.store, MODEL, 0);
    store_unpin(f.store, MODEL, 0);
    assert_non_null(t->data);
    store_unpin(f.store, MODEL, 0);
    assert_null(t->data);
    assert_int_equal(store_resident(f.store), 1u << MODEL);
    store_leave(f.store);
    assert_int_equal(t->rank, 0);
    assert_int_equal(store_resident(f.store), 0);
    assert_int_equal(store_model_bytes(f.store, MODEL), 0);
    close_fixture(&f);
}

/* S2: what is announced is what is allocated, planned and real. */
static void check_sizes(fixture *f, store_needs needs) {
    store_bytes planned = store_needs_bytes(f->dry_store, &needs);
    store_bytes real = store_needs_bytes(f->store, &needs);
    assert_memory_equal(&planned, &real, sizeof real);
    assert_int_equal(store_enter(f->dry_store, &needs), OVI_OK);
    assert_int_equal(device_get_memory(f->dry).allocated,
                     planned.slab + planned.in_place);
    for (int i = 0; i < 2 * BLOCKS; i++) {
        store_pin(f->dry_store, MODEL, i % BLOCKS);
        assert_non_null(weight_get(&f->table, 8 * (i % BLOCKS))->data);
        store_unpin(f->dry_store, MODEL, i % BLOCKS);
    }
    assert_int_equal(store_get_stats(f->dry_store).bytes_read, 0);
    store_leave(f->dry_store);
    enter(f, needs);
    device_memory m = device_get_memory(f->dev);
    assert_int_equal(m.allocated, real.slab + real.in_place);
    assert_int_equal(m.regions, real.slab > 0);
    assert_int_equal(m.in_place, real.in_place);
    assert_int_equal(store_model_bytes(f->store, MODEL), m.allocated);
    store_leave(f->store);
    assert_int_equal(device_get_memory(f->dev).allocated, 0);
}

static void sizes_are_what_is_allocated(void **state) {
    (void)state;
    const dtype computes[] = {DTYPE_F32, DTYPE_BF16};
    for (int c = 0; c < 2; c++) {
        fixture f;
        open_fixture(&f, computes[c]);
        for (int resident = 0; resident <= BLOCKS; resident++)
            for (int slots = 2; slots < 5; slots++)
                check_sizes(&f, needs_of(STORE_ALL_PARTS,
                                         ALL_BLOCKS & ~(BIT(resident) - 1), slots));
        close_fixture(&f);
    }
}

static void slots_are_as_large_as_the_largest_streamed_part(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    store_needs needs = needs_of(STORE_ALL_PARTS, BIT(3), 2);
    store_bytes largest = store_needs_bytes(f.store, &needs);
    /* bf16, f32, f16 as f32, turned, norm, bias, folded: each from a multiple of 64 */
    size_t slot = 80 * 48 * 2 + 80 * 48 * 4 + 80 * 48 * 4 + 512 + 256 + 320 + 80 * 8 * 4;
    assert_int_equal(largest.slots_bytes, 2 * slot);
    assert_int_equal(largest.stream_bytes_per_pass,
                     80 * 48 * 8 + 512 + 49 * 2 + 320 + 80 * 8 * 4 + 32);
    needs = needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 3);
    assert_int_equal(store_needs_bytes(f.store, &needs).slots_bytes, 3 * slot);
    needs = needs_of(STORE_ALL_PARTS, 0, 3);
    assert_int_equal(store_needs_bytes(f.store, &needs).slots_bytes, 0);
    close_fixture(&f);
}

/* Without files a plan counts the published types, which this file has. */
static void a_plan_without_files_has_the_same_slots(void **state) {
    (void)state;
    fixture f;
    weight_table unbound;
    open_fixture(&f, DTYPE_BF16);
    store_needs needs = needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 3);
    store_bytes real = store_needs_bytes(f.store, &needs);
    declare(&unbound, &f.host.err);
    store *plan = store_create(f.dry, &f.host.err);
    store_add(plan, MODEL, &unbound);
    store_bytes planned = store_needs_bytes(plan, &needs);
    assert_int_equal(planned.slots_bytes, real.slots_bytes);
    assert_int_equal(planned.stream_bytes_per_pass, real.stream_bytes_per_pass);
    assert_int_equal(store_enter(plan, &needs), OVI_OK);
    store_pin(plan, MODEL, PART_STEP);
    assert_non_null(weight_get(&unbound, unbound.n - 2)->data);
    store_unpin(plan, MODEL, PART_STEP);
    store_free(plan);
    weight_table_release(&unbound);
    close_fixture(&f);
}

static void wait_for_loads(const fixture *f, uint64_t n) {
    while (store_get_stats(f->store).loads < n)
        nap(1);
}

static void reading_is_counted(void **state) {
    (void)state;
    fixture f;
    row_bytes all;
    open_fixture(&f, DTYPE_F32);
    take_rows(&f, &all);
    store_needs needs = needs_of(ALL_BLOCKS, ALL_BLOCKS, 2);
    uint64_t expected = 3 * store_needs_bytes(f.store, &needs).stream_bytes_per_pass;
    store_needs ahead = needs_of(3, 3, 2); /* the two parts in slots at the end */
    expected += store_needs_bytes(f.store, &ahead).stream_bytes_per_pass;
    enter(&f, needs);
    for (uint64_t i = 0; i < 3 * BLOCKS; i++) {
        use_part(&f, &all, (int)(i % BLOCKS));
        wait_for_loads(&f, i + 3);
    }
    nap(20);
    store_stats stats = store_get_stats(f.store);
    assert_int_equal(stats.loads, 3 * BLOCKS + 2);
    assert_int_equal(stats.bytes_read, expected);
    assert_int_equal(stats.passes, 3);
    assert_true(stats.waits_s > 0 && stats.waits_s < 60);
    store_leave(f.store);
    enter(&f, needs_of(BIT(PART_STEP), 0, 0)); /* counters start anew */
    stats = store_get_stats(f.store);
    assert_int_equal(stats.bytes_read, 8 * 4 * 3 * 2); /* the convolution */
    assert_int_equal(stats.loads, 0);
    free_rows(&all);
    close_fixture(&f);
}

/* S6, S7: the reading thread or an unpin sees it first; both name the file. */
static void check_read_error(fixture *f, const char *reason) {
    assert_true(pass_fails(f, 1, 3 * BLOCKS));
    assert_int_equal(f->host.err.status, OVI_IO);
    char expected[64 + 8];
    snprintf(expected, sizeof expected, "%s: ", f->path);
    assert_memory_equal(f->host.err.text, expected, strlen(expected));
    assert_non_null(strstr(f->host.err.text, reason));
    store_leave(f->store);
    assert_int_equal(device_get_memory(f->dev).allocated, 0);
}

static void a_file_that_shrinks_is_an_error(void **state) {
    (void)state;
    const off_t sizes[] = {0, 30000, 60000};
    for (int i = 0; i < 3; i++) {
        fixture f;
        open_fixture(&f, DTYPE_F32);
        enter(&f, needs_of(ALL_BLOCKS, ALL_BLOCKS, 2));
        assert_false(pass_fails(&f, 0, 2));
        assert_int_equal(truncate(f.path, sizes[i]), 0);
        check_read_error(&f, ": the file shrank since it was opened");
        close_fixture(&f);
    }
}

static void a_file_that_changes_is_an_error(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    enter(&f, needs_of(ALL_BLOCKS, ALL_BLOCKS, 2));
    assert_false(pass_fails(&f, 0, 1));
    nap(20); /* file times advance in steps of up to 10 ms */
    int fd = open(f.path, O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, 20000), 1);
    close(fd);
    check_read_error(&f, ": the file changed since it was opened");
    close_fixture(&f);
}

static void a_file_that_shrinks_before_loading_is_an_error(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_BF16);
    assert_int_equal(truncate(f.path, 50000), 0);
    store_needs needs = needs_of(STORE_ALL_PARTS, 0, 0);
    assert_int_equal(store_enter(f.store, &needs), OVI_IO);
    assert_non_null(strstr(f.host.err.text, "the file shrank"));
    assert_int_equal(store_resident(f.store), 0);
    close_fixture(&f);
}

static void cancelling_ends_a_wait(void **state) {
    (void)state;
    fixture f;
    row_bytes all;
    open_fixture(&f, DTYPE_F32);
    take_rows(&f, &all);
    store_needs needs = needs_of(ALL_BLOCKS, ALL_BLOCKS, 2);
    enter(&f, needs);
    atomic_store(&f.host.cancel, true);
    store_pin(f.store, MODEL,
              4); /* not among the first two, so it has to be waited for */
    store_unpin(f.store, MODEL, 4);
    assert_int_equal(f.host.err.status, OVI_CANCELLED);
    assert_null(weight_get(&f.table, 8 * 4)->data);
    store_leave(f.store);
    device_clear_failure(f.dev);
    needs = needs_of(STORE_ALL_PARTS, 0, 0);
    assert_int_equal(store_enter(f.store, &needs), OVI_CANCELLED); /* and a load */
    assert_int_equal(store_resident(f.store), 0);
    device_clear_failure(f.dev);
    atomic_store(&f.host.cancel, false);
    enter(&f, needs_of(ALL_BLOCKS, ALL_BLOCKS, 2)); /* the store works on */
    for (int i = 0; i < BLOCKS; i++)
        use_part(&f, &all, i);
    free_rows(&all);
    close_fixture(&f);
}

static void leaving_in_mid_pass_leaves_nothing(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    int threads = count_threads();
    for (int i = 0; i < 100; i++) {
        enter(&f, needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2 + i % 2));
        assert_int_equal(count_threads(), threads + 1);
        assert_false(pass_fails(&f, 0, i % 9));
        store_leave(f.store);
        assert_int_equal(count_threads(), threads); /* S4 */
        assert_int_equal(device_get_memory(f.dev).allocated, 0);
    }
    close_fixture(&f);
}

static void a_stage_that_needs_the_same_keeps_it(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    enter(&f, needs_of(STORE_ALL_PARTS, 0, 0));
    const void *before = weight_get(&f.table, 0)->data;
    enter(&f, needs_of(STORE_ALL_PARTS, 0, 3)); /* slots of nothing */
    assert_int_equal(store_get_stats(f.store).bytes_read, 0);
    assert_ptr_equal(weight_get(&f.table, 0)->data, before);
    enter(&f, needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2));
    assert_null(weight_get(&f.table, 0)->data);
    enter(&f, needs_of(0, 0, 0));
    assert_int_equal(store_resident(f.store), 0);
    assert_int_equal(device_get_memory(f.dev).allocated, 0);
    close_fixture(&f);
}

static void thousand_passes_do_not_grow(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_BF16);
    enter(&f, needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2));
    assert_false(pass_fails(&f, 0, 20 * BLOCKS));
    size_t before = os_resident_bytes();
    int files = count_files(), threads = count_threads();
    assert_false(pass_fails(&f, 0, 1000 * BLOCKS));
    assert_true(os_resident_bytes() < before + (1 << 20));
    assert_int_equal(count_files(), files);
    assert_int_equal(count_threads(), threads);
    assert_int_equal(store_get_stats(f.store).passes, 1020);
    close_fixture(&f);
}

static void check_refusal(fixture *f, store_needs needs, ovi_status status,
                          const char *sentence) {
    store *both[] = {f->store, f->dry_store};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_enter(both[i], &needs), status);
        assert_string_equal(f->host.err.text, sentence);
        assert_int_equal(store_resident(both[i]), 0);
        device_clear_failure(f->dev);
    }
}

static void what_cannot_be_streamed_is_refused(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    check_refusal(&f, needs_of(STORE_ALL_PARTS, BIT(PART_STEP), 2), OVI_UNSUPPORTED,
                  "small model: part 6 cannot be streamed: step.conv is a convolution");
    check_refusal(&f, needs_of(3, 7, 2), OVI_INTERNAL,
                  "small model: parts are streamed that are not needed");
    check_refusal(&f, needs_of(3, 3, 1), OVI_INTERNAL,
                  "small model: expected 2 to 64 slots, found 1");
    check_refusal(&f, needs_of(3, 3, 65), OVI_INTERNAL,
                  "small model: expected 2 to 64 slots, found 65");
    close_fixture(&f);
}

static void parts_that_are_not_needed_cannot_be_used(void **state) {
    (void)state;
    fixture f;
    open_fixture(&f, DTYPE_F32);
    enter(&f, needs_of(3, 2, 2));
    store_pin(f.store, MODEL, 2);
    store_unpin(f.store, MODEL, 2);
    assert_int_equal(f.host.err.status, OVI_INTERNAL);
    assert_string_equal(f.host.err.text,
                        "part 2 of the small model is used but not resident");
    store_pin(f.store, MODEL, 1); /* does nothing any more */
    assert_null(weight_get(&f.table, 8)->data);
    store_unpin(f.store, MODEL, 1);
    close_fixture(&f);
}

static void a_model_without_files_is_not_loaded(void **state) {
    (void)state;
    fixture f;
    weight_table unbound;
    open_fixture(&f, DTYPE_F32);
    declare(&unbound, &f.host.err);
    store_add(f.store, 0, &unbound);
    store_needs needs = needs_of(STORE_ALL_PARTS, 0, 0);
    needs.parts[0] = 1;
    assert_int_equal(store_enter(f.store, &needs), OVI_NOT_LOADED);
    assert_string_equal(f.host.err.text, "small model not loaded");
    assert_int_equal(store_resident(f.store), 0);
    close_fixture(&f);
    weight_table_release(&unbound);
}

/* Rows go out of pinned windows of the mapping, or through staging where the system does not
 * pin: the same bits, resident or streamed, and nothing stays pinned. */
static void a_device_apart_gets_the_same_bytes(void **state) {
    (void)state;
    static const struct way {
        bool refuse_pins, refuse_mappings, refuse_reads;
        const char *emulate;
    } ways[] = {{false, false, false, NULL},     {true, false, false, NULL},
                {false, true, false, NULL},      {false, true, true, "no-cache"},
                {false, false, false, "direct"}, {true, true, false, "direct"}};
    enum { N = sizeof ways / sizeof *ways };
    uint64_t read[2 * N];
    for (int k = 0; k < 2 * N; k++) {
        const struct way *way = &ways[k % N];
        fixture f;
        row_bytes here, there;
        open_fixture(&f, DTYPE_BF16);
        take_rows(&f, &here);
        move_apart(&f);
        apart.n_threads = k < N ? 7 : 8;
        apart.refuse_pins = way->refuse_pins;
        apart.refuse_mappings = way->refuse_mappings;
        apart.refuse_reads = way->refuse_reads;
        apart.emulate = way->emulate;
        open_devices(&f, DTYPE_BF16);
        take_rows(&f, &there);
        for (int i = 0; i < f.table.n; i++) {
            assert_int_equal(here.n[i], there.n[i]);
            if (here.n[i])
                assert_memory_equal(here.data[i], there.data[i], here.n[i]);
        }
        enter(&f, needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2));
        for (int i = 0; i < 3 * BLOCKS; i++)
            use_part(&f, &here, i % BLOCKS);
        assert_int_equal(apart.fences, 3 * BLOCKS);
        assert_int_equal(apart.most_pinned > 0, !way->refuse_pins);
        read[k] = store_get_stats(f.store).bytes_read;
        store_leave(f.store);
        assert_int_equal(apart.pinned, 0);
        free_rows(&here);
        free_rows(&there);
        close_fixture(&f);
    }
    assert_true(read[2] < read[3]);     /* what stays in pinned memory is read once */
    assert_true(read[N + 2] > read[2]); /* threads enough: nothing stays */
}

/* ---- what is kept for the next time ---- */

static double by_one(const float *v, int64_t n, const float *by) {
    (void)v, (void)n, (void)by;
    return 1;
}

static const weight_scaling scaling = {.scale = by_one};

enum { CONVERTED, PACKED, SCALED };

static void declare_made(weight_table *t, err *e) {
    weight_table_init(t, "model that is made", e);
    weight_linear(t, 0, DTYPE_F16, 256, 256, "converted");
    weight_conv(t, 0, DTYPE_BF16, SHAPE(64, 64, 9), "packed");
    weight_add(t, &(weight_spec){.use = WEIGHT_CONV,
                                 .published = DTYPE_F32,
                                 .n_parts = 1,
                                 .part = {{"scaled", SHAPE(64, 64, 9)}},
                                 .scaling = &scaling});
    assert_int_equal(e->status, OVI_OK);
}

/* As much as the plan says, and the same bytes come back from there. */
static void check_kept(fixture *f, size_t expected) {
    warm *kept = warm_create(&f->host.err);
    const store_needs needs = needs_of(1, 0, 0);
    row_bytes made, again;
    warm_set_limit(kept, (size_t)64 << 20);
    store_set_warm(f->store, kept);
    assert_int_equal(store_needs_bytes(f->dry_store, &needs).warm, expected);
    take_rows(f, &made);
    assert_int_equal(warm_get_stats(kept).bytes, expected);
    assert_int_equal(warm_get_stats(kept).hits, 0);
    take_rows(f, &again);
    assert_true(warm_get_stats(kept).hits > 0);
    for (int i = 0; i < f->table.n; i++)
        assert_memory_equal(made.data[i], again.data[i], made.n[i]);
    free_rows(&made);
    free_rows(&again);
    store_set_warm(f->store, NULL);
    warm_free(kept);
}

/* Threads bring in as fast as a copy what a device apart packs. */
static void what_a_device_packs_is_not_kept(void **state) {
    (void)state;
    fixture f;
    open_model(&f, DTYPE_BF16, declare_made);
    size_t bytes[3];
    enter(&f, needs_of(1, 0, 0));
    for (int i = 0; i < 3; i++)
        bytes[i] = tensor_bytes(weight_get(&f.table, i));
    store_leave(f.store);
    check_kept(&f, bytes[CONVERTED] + bytes[PACKED] + bytes[SCALED]);
    move_apart(&f);
    open_devices(&f, DTYPE_BF16);
    check_kept(&f, bytes[CONVERTED]);
    close_fixture(&f);
}

/* ---- pages of large files ---- */

#define LARGE_BLOCKS 4

/* A model of four blocks of one matrix, in a file of holes: no disk, but pages as any. */
static void open_large(fixture *f, int64_t block_bytes) {
    *f = (fixture){0};
    make_path(f->path);
    weight_table_init(&f->table, "large model", &f->host.err);
    char header[520];
    int n = snprintf(header + 8, sizeof header - 8, "{");
    for (int b = 0; b < LARGE_BLOCKS; b++) {
        weight_linear(&f->table, b, DTYPE_BF16, block_bytes / 2048, 1024, "b%d", b);
        n += snprintf(header + 8 + n, sizeof header - 8 - (size_t)n,
                      "%s\"b%d\":{\"dtype\":\"BF16\",\"shape\":[%lld,1024],"
                      "\"data_offsets\":[%lld,%lld]}",
                      b ? "," : "", b, (long long)block_bytes / 2048,
                      (long long)(b * block_bytes), (long long)((b + 1) * block_bytes));
    }
    /* Spaces up to a whole line: rows in place have to be aligned. */
    n += snprintf(header + 8 + n, sizeof header - 8 - (size_t)n, "}%*s", 504 - 1 - n, "");
    uint64_t length = (uint64_t)n;
    memcpy(header, &length, 8);
    int fd = open(f->path, O_WRONLY);
    assert_int_equal(write(fd, header, (size_t)n + 8), n + 8);
    assert_int_equal(ftruncate(fd, n + 8 + LARGE_BLOCKS * block_bytes), 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    assert_int_equal(weights_open(&f->files, f->path, &f->host.err), OVI_OK);
    assert_int_equal(weight_table_bind(&f->table, f->files, &f->host.err), OVI_OK);
    f->backend = backend_ref;
    open_devices(f, DTYPE_F32);
}

static int touch(const tensor *t) {
    int sum = 0;
    const volatile char *bytes = t->data;
    for (size_t i = 0; i < tensor_bytes(t); i += 4096)
        sum += bytes[i];
    return sum;
}

/* S3 */
static void leaving_gives_pages_back_at_once(void **state) {
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its shadow of the slots stays */
#endif
    const size_t mb = 1 << 20;
    fixture f;
    open_large(&f, 50 << 20);
    size_t before =
        os_resident_bytes(); /* entering looks at values that are used in place */
    enter(&f, needs_of(STORE_ALL_PARTS, 0, 0));
    assert_int_equal(device_get_memory(f.dev).in_place, 200 * mb);
    for (int b = 0; b < LARGE_BLOCKS; b++)
        assert_int_equal(touch(weight_get(&f.table, b)), 0);
    assert_true(os_resident_bytes() > before + 190 * mb);
    store_leave(f.store);
    assert_true(os_resident_bytes() < before + mb);
    enter(&f, needs_of(STORE_ALL_PARTS, BIT(2) | BIT(3), 2));
    for (int b = 0; b < LARGE_BLOCKS; b++) {
        store_pin(f.store, MODEL, b);
        assert_int_equal(touch(weight_get(&f.table, b)), 0);
        store_unpin(f.store, MODEL, b);
    }
    assert_true(os_resident_bytes() > before + 190 * mb);
    store_leave(f.store);
    assert_true(os_resident_bytes() < before + mb);
    close_fixture(&f);
}

/* Pages of the file that are in the page cache. */
static size_t cached_pages(const char *path) {
    static unsigned char in[65536];
    struct stat st;
    int fd = open(path, O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    size_t size = (size_t)st.st_size, n = 0, pages = (size + 4095) / 4096;
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    assert_true(map != MAP_FAILED && pages <= sizeof in);
    assert_int_equal(mincore(map, size, in), 0);
    for (size_t i = 0; i < pages; i++)
        n += in[i] & 1;
    munmap(map, size);
    return n;
}

static void large_pass(fixture *f) {
    for (int b = 0; b < LARGE_BLOCKS; b++) {
        store_pin(f->store, MODEL, b);
        touch(weight_get(&f->table, b));
        store_unpin(f->store, MODEL, b);
    }
}

static void evicting_leaves_the_page_cache_empty(void **state) {
    (void)state;
    fixture f;
    struct statfs fs;
    open_large(&f, 4 << 20);
    assert_int_equal(statfs(f.path, &fs), 0);
    bool in_memory = fs.f_type == TMPFS_MAGIC; /* its pages are the file */
    for (int streamed = 0; streamed < 2 && !in_memory; streamed++) {
        uint64_t flow = streamed ? STORE_ALL_PARTS : 0;
        store_set_evict(f.store, false);
        enter(&f, needs_of(STORE_ALL_PARTS, flow, 2));
        large_pass(&f);
        store_leave(f.store);
        assert_true(cached_pages(f.path) >= 4096);
        store_set_evict(f.store, true);
        enter(&f, needs_of(STORE_ALL_PARTS, flow, 2));
        large_pass(&f);
        store_leave(f.store);
        assert_true(cached_pages(f.path) < 256); /* what was read ahead of the reads */
    }
    close_fixture(&f);
    if (in_memory)
        skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_parts_have_the_bits_of_resident_ones),
        cmocka_unit_test(long_rows_come_in_pieces),
        cmocka_unit_test(parts_may_come_in_any_order),
        cmocka_unit_test(streamed_rows_have_data_while_pinned),
        cmocka_unit_test(sizes_are_what_is_allocated),
        cmocka_unit_test(slots_are_as_large_as_the_largest_streamed_part),
        cmocka_unit_test(a_plan_without_files_has_the_same_slots),
        cmocka_unit_test(reading_is_counted),
        cmocka_unit_test(a_file_that_shrinks_is_an_error),
        cmocka_unit_test(a_file_that_changes_is_an_error),
        cmocka_unit_test(a_file_that_shrinks_before_loading_is_an_error),
        cmocka_unit_test(cancelling_ends_a_wait),
        cmocka_unit_test(leaving_in_mid_pass_leaves_nothing),
        cmocka_unit_test(a_stage_that_needs_the_same_keeps_it),
        cmocka_unit_test(thousand_passes_do_not_grow),
        cmocka_unit_test(what_cannot_be_streamed_is_refused),
        cmocka_unit_test(parts_that_are_not_needed_cannot_be_used),
        cmocka_unit_test(a_model_without_files_is_not_loaded),
        cmocka_unit_test(a_device_apart_gets_the_same_bytes),
        cmocka_unit_test(what_a_device_packs_is_not_kept),
        cmocka_unit_test(leaving_gives_pages_back_at_once),
        cmocka_unit_test(evicting_leaves_the_page_cache_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
