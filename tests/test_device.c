/* test_device.c: the frame around the operations: arena, regions, latched failures,
 * cancel, fallbacks, the dry run, movement to and from the host, and the trace. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "core/os.h"

static host test_host;
static const device_options options = {.compute = DTYPE_BF16, .n_threads = 3};

static int open_ref(void **state) {
    test_host = (host){0};
    *state = device_open(&test_host, &backend_ref, &options);
    return *state ? 0 : -1;
}

static int open_dry(void **state) {
    test_host = (host){0};
    *state = device_open_null(&test_host, &backend_ref, &options);
    return *state ? 0 : -1;
}

static int close_device(void **state) {
    device_close(*state);
    return 0;
}

static void expect_failure(const device *d, ovi_status status, const char *words) {
    const err *e = &device_host(d)->err;
    assert_true(device_failed(d));
    assert_int_equal(e->status, status);
    if (!strstr(e->text, words))
        fail_msg("expected \"%s\" in \"%s\"", words, e->text);
}

/* -------------------------------------------------------------------- open, find ---- */

static void backends_are_found_by_name(void **state) {
    (void)state;
    assert_ptr_equal(backend_find("ref"), &backend_ref);
    assert_null(backend_find("abacus"));
    assert_non_null(backend_find(NULL));
#ifdef OVI_WITH_CPU
    assert_ptr_equal(backend_find("cpu"), &backend_cpu);
    assert_ptr_equal(backend_find(NULL), &backend_cpu);
#endif
}

static void threads_of_zero_mean_all_processors(void **state) {
    (void)state;
    device_options o = {.compute = DTYPE_F32};
    device *d = device_open(&test_host, &backend_ref, &o);
    assert_non_null(d);
    assert_true(device_get_options(d)->n_threads >= 1);
    assert_int_equal(device_compute(d), DTYPE_F32);
    device_close(d);
}

static void wrong_options_are_refused(void **state) {
    (void)state;
    device_options wrong[] = {{.compute = DTYPE_F16},
                              {.compute = DTYPE_F32, .n_threads = -1},
                              {.compute = DTYPE_F32, .index = -1}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        test_host = (host){0};
        assert_null(device_open(&test_host, &backend_ref, &wrong[i]));
        assert_int_equal(test_host.err.status, OVI_ARGUMENT);
    }
    test_host = (host){0};
    backend old = backend_ref;
    old.abi = BACKEND_ABI + 1;
    assert_null(device_open(&test_host, &old, &options));
    assert_int_equal(test_host.err.status, OVI_UNSUPPORTED);
}

static void *open_nothing(const backend_services *services, const device_options *o) {
    (void)services;
    (void)o;
    return NULL;
}

static uint64_t count_of_open_device(void *self) {
    assert_non_null(self);
    return 0;
}

static void a_device_that_does_not_open_is_asked_nothing(void **state) {
    (void)state;
    backend closed = backend_ref;
    closed.open = open_nothing;
    closed.objects = count_of_open_device;
    test_host = (host){0};
    assert_null(device_open(&test_host, &closed, &options));
    assert_int_equal(test_host.err.status, OVI_DEVICE);
}

/* ------------------------------------------------------------------------- arena ---- */

static void arena_grows_from_both_ends_in_aligned_steps(void **state) {
    device *d = *state;
    device_arena_open(d, 1024);
    tensor a = arena_keep(d, DTYPE_F32, SHAPE(3)), b = arena_keep(d, DTYPE_U8, SHAPE(65));
    tensor s = arena_push(d, DTYPE_BF16, SHAPE(2, 40)),
           t = arena_push(d, DTYPE_U8, SHAPE(0));
    const tensor *all[] = {&a, &b, &s, &t};
    for (int i = 0; i < 4; i++)
        assert_int_equal((uintptr_t)all[i]->data % 64, 0);
    assert_ptr_equal(b.data, (char *)a.data + 64);
    assert_ptr_equal(s.data, (char *)a.data + 1024 - 192);
    assert_ptr_equal(t.data, (char *)s.data - 64); /* an empty tensor has a place too */
    device_memory m = device_get_memory(d);
    assert_int_equal(m.arena_keep, 192);
    assert_int_equal(m.arena_scratch, 256);
    assert_int_equal(m.arena_peak, 448);
}

static void arena_peak_is_the_largest_sum_of_both_ends(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    size_t mark = arena_mark(d);
    (void)arena_push(d, DTYPE_U8, SHAPE(1024));
    arena_reset(d, mark);
    (void)arena_keep(d, DTYPE_U8, SHAPE(512));
    (void)arena_push(d, DTYPE_U8, SHAPE(256));
    device_memory m = device_get_memory(d);
    assert_int_equal(m.arena_peak, 1024);
    assert_int_equal(m.arena_keep_peak, 512);
    assert_int_equal(m.arena_scratch_peak, 1024);
    (void)arena_keep(d, DTYPE_U8, SHAPE(512));
    assert_int_equal(device_get_memory(d).arena_peak, 1024 + 256);
    device_arena_close(d);
    device_arena_open(d, 64);
    assert_int_equal(device_get_memory(d).arena_peak, 0);
}

static void exhaustion_latches_and_gives_no_address(void **state) {
    device *d = *state;
    device_arena_open(d, 256);
    assert_non_null(arena_keep(d, DTYPE_U8, SHAPE(128)).data);
    assert_non_null(arena_push(d, DTYPE_U8, SHAPE(128)).data);
    assert_null(arena_push(d, DTYPE_U8, SHAPE(1)).data);
    expect_failure(d, OVI_INTERNAL, "arena: expected at most 256 bytes");
    assert_null(arena_keep(d, DTYPE_U8, SHAPE(1)).data);
    device_clear_failure(d);
    arena_reset(d, 0);
    assert_non_null(arena_push(d, DTYPE_U8, SHAPE(128)).data);
}

static void hostile_sizes_fail_instead_of_wrapping(void **state) {
    device *d = *state;
    device_arena_open(d, 256);
    shape hostile[] = {SHAPE(INT64_MAX, 3), SHAPE(-1), SHAPE(INT64_MAX)};
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        assert_null(arena_push(d, DTYPE_F32, hostile[i]).data);
        expect_failure(d, OVI_INTERNAL, "arena: ");
        device_clear_failure(d);
    }
}

static void a_closed_arena_gives_nothing(void **state) {
    device *d = *state;
    assert_null(arena_push(d, DTYPE_U8, SHAPE(1)).data);
    expect_failure(d, OVI_INTERNAL, "arena: used while it is closed");
}

/* ----------------------------------------------------------------------- regions ---- */

static void regions_and_in_place_bytes_are_counted(void **state) {
    device *d = *state;
    void *a = device_region_alloc(d, 1000);
    device_arena_open(d, 640);
    device_count_in_place(d, 50);
    device_memory m = device_get_memory(d);
    assert_int_equal(m.allocated, 1690);
    assert_int_equal(m.regions, 2);
    assert_int_equal(m.in_place, 50);
    device_uncount_in_place(d, 50);
    device_arena_close(d);
    device_region_free(d, a, 1000);
    m = device_get_memory(d);
    assert_int_equal(m.allocated, 0);
    assert_int_equal(m.regions, 0);
    assert_int_equal(m.peak, 1690);
    device_reset_counters(d); /* the peak starts anew */
    assert_int_equal(device_get_memory(d).peak, 0);
}

static void a_region_of_nothing_is_no_region(void **state) {
    device *d = *state;
    assert_null(device_region_alloc(d, 0));
    assert_false(device_failed(d));
    assert_int_equal(device_get_memory(d).regions, 0);
}

static void a_region_that_does_not_fit_fails_with_memory(void **state) {
    device *d = *state;
    assert_null(device_region_alloc(d, (size_t)1 << 62));
    expect_failure(d, OVI_MEMORY, "out of memory");
    assert_int_equal(device_get_memory(d).regions, 0);
}

/* ---------------------------------------------------------------------- latching ---- */

/* A product that needs nothing but an open arena. */
static tensor multiply(device *d) {
    tensor x = arena_push(d, DTYPE_F32, SHAPE(2, 3)),
           w = arena_push(d, DTYPE_F32, SHAPE(4, 3));
    tensor y = arena_push(d, DTYPE_F32, SHAPE(2, 4));
    static const float ones[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    device_put_f32(d, &x, ones);
    device_put_f32(d, &w, ones);
    op_linear(d, &(linear_desc){.x = x, .w = w, .out = y});
    return y;
}

static void after_a_failure_nothing_happens(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    tensor y = multiply(d);
    float value[8] = {0};
    device_fail(d, OVI_DEVICE, "unit %d is on fire", 7);
    device_fail(d, OVI_IO, "second");
    expect_failure(d, OVI_DEVICE, "unit 7 is on fire");
    (void)multiply(d);
    assert_int_equal(device_get_counters(d)->calls[OP_LINEAR], 1);
    assert_null(device_region_alloc(d, 64));
    assert_int_equal(device_sync(d), OVI_DEVICE);
    assert_int_equal(device_get_f32(d, value, &y), OVI_DEVICE);
    assert_true(value[0] == 0);
    device_clear_failure(d);
    assert_int_equal(device_get_f32(d, value, &y), OVI_OK);
    assert_true(value[0] == 3);
}

static void a_cancel_is_latched_by_the_next_call(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    atomic_store(&test_host.cancel, true);
    (void)multiply(d);
    expect_failure(d, OVI_CANCELLED, "cancelled");
    assert_int_equal(device_get_counters(d)->calls[OP_LINEAR], 0);
}

static void *cancel_soon(void *user) {
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
    atomic_store(&((host *)user)->cancel, true);
    return NULL;
}

/* The product would take seconds. */
static void a_cancel_ends_a_running_operation(void **state) {
    device *d = *state;
    device_arena_open(d, (size_t)64 << 20);
    tensor x = arena_push(d, DTYPE_F32, SHAPE(2000, 2000));
    tensor w = arena_push(d, DTYPE_F32, SHAPE(2000, 2000));
    tensor y = arena_push(d, DTYPE_F32, SHAPE(2000, 2000));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &test_host), 0);
    double start = os_now();
    op_linear(d, &(linear_desc){.x = x, .w = w, .out = y});
    double seconds = os_now() - start;
    pthread_join(thread, NULL);
    expect_failure(d, OVI_CANCELLED, "cancelled");
    assert_true(seconds < 2);
}

/* ----------------------------------------------------------- counters, fallbacks ---- */

static void counters_hold_flops_and_bytes_of_each_op(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    (void)multiply(d);
    const device_counters *c = device_get_counters(d);
    assert_true(c->flops == 2 * 2 * 3 * 4 && c->op_flops[OP_LINEAR] == c->flops);
    assert_true(c->bytes == 4 * (6 + 12 + 8) && c->op_bytes[OP_LINEAR] == c->bytes);
    assert_int_equal(c->calls[OP_LINEAR], 1);
    device_reset_counters(d);
    assert_int_equal(c->calls[OP_LINEAR], 0);
}

static void profiling_measures_seconds_per_op(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    (void)multiply(d);
    assert_true(device_get_counters(d)->op_seconds[OP_LINEAR] == 0);
    device_set_profiling(d, true);
    (void)multiply(d);
    assert_true(device_get_counters(d)->op_seconds[OP_LINEAR] > 0);
}

/* A backend that offers no products and wants workspace for the rest. */
static const char *no_products(const device_options *o, op_kind op, const void *desc) {
    (void)o;
    (void)desc;
    return op == OP_LINEAR || op == OP_CONV ? "products of this kind" : NULL;
}

static size_t large_sizes(const device_options *o, op_kind op, const void *desc) {
    (void)op;
    (void)desc;
    return 100 * (size_t)o->n_threads;
}

static backend poor_backend(bool host_memory) {
    backend b = backend_ref;
    b.name = "poor";
    b.host_memory = host_memory;
    b.supports = no_products;
    b.sizes = large_sizes;
    return b;
}

static void missing_operations_fall_back_to_the_reference(void **state) {
    (void)state;
    test_host = (host){0};
    backend b = poor_backend(true);
    device *d = device_open(&test_host, &b, &options);
    device_arena_open(d, 4096);
    tensor y = multiply(d);
    float value[8];
    assert_int_equal(device_get_f32(d, value, &y), OVI_OK);
    assert_true(value[7] == 3);
    assert_int_equal(device_get_counters(d)->fallbacks, 1);
    assert_int_equal(device_get_counters(d)->workspace_peak, 0);
    device_close(d);
}

static void without_host_memory_a_missing_operation_fails(void **state) {
    (void)state;
    test_host = (host){0};
    backend b = poor_backend(false);
    device *d = device_open(&test_host, &b, &options);
    device_arena_open(d, 4096);
    (void)multiply(d);
    expect_failure(d, OVI_UNSUPPORTED,
                   "linear: the poor backend does not offer products of this kind");
    device_close(d);
}

static bool says_so(void *self) {
    return self != NULL;
}

/* An integrated GPU: one memory, though the host cannot read the device's addresses. */
static void a_device_may_share_the_memory_of_the_host(void **state) {
    (void)state;
    test_host = (host){0};
    backend apart = poor_backend(false), integrated = poor_backend(false);
    integrated.shares_memory = says_so;
    const backend *const kinds[] = {&apart, &integrated, &backend_ref};
    for (int i = 0; i < 3; i++) {
        device *d = device_open(&test_host, kinds[i], &options);
        assert_int_equal(device_shares_memory(d), i > 0);
        device_close(d);
    }
}

static void workspace_is_counted_and_given_back(void **state) {
    (void)state;
    test_host = (host){0};
    backend b = poor_backend(true);
    device *d = device_open(&test_host, &b, &options);
    device_arena_open(d, 640);
    tensor x = arena_push(d, DTYPE_F32, SHAPE(4));
    op_fill(d, &(fill_desc){x});
    assert_int_equal(device_get_counters(d)->workspace_peak, 300);
    assert_int_equal(device_get_memory(d).arena_peak, 64 + 320);
    assert_int_equal(device_get_memory(d).arena_scratch, 64);
    assert_false(device_failed(d));
    device_close(d);
}

static void a_call_with_nothing_to_write_is_not_made(void **state) {
    device *d = *state;
    device_arena_open(d, 4096);
    tensor x = arena_push(d, DTYPE_F32, SHAPE(0, 3));
    op_fill(d, &(fill_desc){x});
    assert_false(device_failed(d));
    assert_int_equal(device_get_counters(d)->calls[OP_FILL], 0);
}

/* ----------------------------------------------------------------------- dry run ---- */

/* Something with all that a plan depends on: both ends, workspace, packing, strided
 * reads. */
static void small_model(device *d) {
    conv_geometry g = {2, 3, {1, 3, 3}};
    static const float weights[2 * 3 * 9];
    float value[24];
    tensor w = arena_keep(
        d, DTYPE_U8, SHAPE((int64_t)device_conv_packed_bytes(d, &g, device_compute(d))));
    device_pack_conv(d, &g, device_compute(d), weights, w.data);
    size_t mark = arena_mark(d);
    tensor x = arena_push(d, device_compute(d), SHAPE(1, 4, 3, 3));
    tensor y = arena_push(d, device_compute(d), SHAPE(1, 4, 3, 2));
    op_fill(d, &(fill_desc){x});
    op_conv(d, &(conv_desc){.geometry = g,
                            .x = x,
                            .out = y,
                            .w = w,
                            .pad_lo = {0, 1, 1},
                            .pad_hi = {0, 1, 1}});
    tensor turned = PERMUTE(y, 0, 3, 1, 2);
    assert_int_equal(device_get_f32(d, value, &turned), OVI_OK);
    assert_true(value[0] == 0 && value[23] == 0);
    arena_reset(d, mark);
    (void)multiply(d);
}

static void a_dry_run_counts_what_the_real_run_does(void **state) {
    (void)state;
    for (int host_memory = 0; host_memory < 2; host_memory++) {
        test_host = (host){0};
        backend b = poor_backend(host_memory);
        b.supports = backend_ref.supports;
        device *dry = device_open_null(&test_host, &b, &options);
        device *real = device_open(&test_host, &b, &options);
        device_arena_open(dry, 0);
        small_model(dry);
        size_t peak = device_get_memory(dry).arena_peak;
        device_arena_open(real, peak);
        small_model(real);
        assert_false(device_failed(real));
        device_memory m = device_get_memory(real), n = device_get_memory(dry);
        assert_int_equal(m.arena_peak, peak);
        assert_int_equal(m.arena_keep_peak, n.arena_keep_peak);
        assert_int_equal(m.arena_scratch_peak, n.arena_scratch_peak);
        assert_memory_equal(device_get_counters(dry), device_get_counters(real),
                            sizeof(device_counters));
        device_close(dry);
        device_close(real);
    }
}

static void a_dry_run_holds_no_memory(void **state) {
    device *d = *state;
    assert_true(device_is_null(d));
    assert_ptr_equal(device_backend(d), &backend_ref);
    void *a = device_region_alloc(d, (size_t)1 << 45), *b = device_region_alloc(d, 64);
    assert_true(a && b && (char *)b - (char *)a >= (ptrdiff_t)1 << 45);
    assert_int_equal(device_get_memory(d).allocated, ((size_t)1 << 45) + 64);
    device_arena_open(d, 0);
    tensor t = arena_push(d, DTYPE_F32, SHAPE(1 << 20, 1 << 20));
    assert_non_null(t.data);
    tensor row = tensor_slice(t, 0, 5, 1);
    float value = 1;
    tensor one = tensor_slice(row, 1, 0, 1);
    device_put_f32(d, &one, &value);
    assert_int_equal(device_get_f32(d, &value, &one), OVI_OK);
    assert_true(value == 0);
    device_region_free(d, a, (size_t)1 << 45);
    device_region_free(d, b, 64);
}

/* --------------------------------------------------------------- host and device ---- */

static void values_travel_through_bf16_and_strides(void **state) {
    device *d = *state;
    enum { ROWS = 50, COLS = 101 }; /* more than one stage of conversion */
    static float in[ROWS * COLS], out[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        in[i] = (float)(i % 251);
    device_arena_open(d, 1 << 16);
    tensor t = arena_push(d, DTYPE_BF16, SHAPE(ROWS, COLS));
    device_put_f32(d, &t, in);
    assert_int_equal(device_get_f32(d, out, &t), OVI_OK);
    assert_memory_equal(in, out, sizeof in);
    tensor turned = PERMUTE(t, 1, 0);
    assert_int_equal(device_get_f32(d, out, &turned), OVI_OK);
    for (int i = 0; i < ROWS * COLS; i++)
        assert_true(out[i] == in[i % ROWS * COLS + i / ROWS]);
}

static void raw_bytes_are_written_and_read_as_they_are(void **state) {
    device *d = *state;
    static const int64_t in[3] = {1, -2, INT64_MAX};
    int64_t out[3] = {0};
    device_arena_open(d, 64);
    tensor t = arena_push(d, DTYPE_I64, SHAPE(3));
    device_write(d, &t, in);
    assert_int_equal(device_read(d, out, &t), OVI_OK);
    assert_memory_equal(in, out, sizeof in);
    float value[3];
    assert_int_equal(device_get_f32(d, value, &t), OVI_INTERNAL);
    expect_failure(d, OVI_INTERNAL,
                   "read: expected F32, BF16, F16 or F8_E4M3, found I64");
}

static void strided_views_are_not_written_as_one_run(void **state) {
    device *d = *state;
    device_arena_open(d, 64);
    tensor t = arena_push(d, DTYPE_F32, SHAPE(2, 3)), turned = PERMUTE(t, 1, 0);
    device_write(d, &turned, (const float[6]){0});
    expect_failure(d, OVI_INTERNAL,
                   "write: expected a dense tensor, found a strided one");
}

/* ------------------------------------------------------------------------- trace ---- */

typedef struct seen {
    char name[64];
    int count;
} seen;

static void note(void *user, device *d, const char *name, const tensor *t) {
    seen *s = user;
    assert_non_null(t->data);
    assert_true(device_tracing(d));
    snprintf(s->name, sizeof s->name, "%s", name);
    s->count++;
}

static void taps_show_names_behind_the_prefix(void **state) {
    device *d = *state;
    seen s = {0};
    device_arena_open(d, 64);
    tensor t = arena_push(d, DTYPE_F32, SHAPE(1));
    device_tap(d, &t, "unseen");
    device_set_trace(d, true, note, &s);
    device_tap(d, &t, "block%d.out", 3);
    assert_string_equal(s.name, "block3.out");
    device_trace_prefix(d, "mid.%s.", "batch");
    device_tap(d, &t, "block%d.out", 4);
    assert_string_equal(s.name, "mid.batch.block4.out");
    device_set_trace(d, false, NULL, NULL);
    device_tap(d, &t, "unseen");
    assert_false(device_tracing(d));
    assert_int_equal(s.count, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_ref, close_device)
#define DRY(name)  cmocka_unit_test_setup_teardown(name, open_dry, close_device)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backends_are_found_by_name),
        cmocka_unit_test(threads_of_zero_mean_all_processors),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(a_device_that_does_not_open_is_asked_nothing),
        TEST(arena_grows_from_both_ends_in_aligned_steps),
        TEST(arena_peak_is_the_largest_sum_of_both_ends),
        DRY(arena_peak_is_the_largest_sum_of_both_ends),
        TEST(exhaustion_latches_and_gives_no_address),
        TEST(hostile_sizes_fail_instead_of_wrapping),
        DRY(hostile_sizes_fail_instead_of_wrapping),
        TEST(a_closed_arena_gives_nothing),
        TEST(regions_and_in_place_bytes_are_counted),
        TEST(a_region_of_nothing_is_no_region),
        DRY(a_region_of_nothing_is_no_region),
        TEST(a_region_that_does_not_fit_fails_with_memory),
        TEST(after_a_failure_nothing_happens),
        TEST(a_cancel_is_latched_by_the_next_call),
        DRY(a_cancel_is_latched_by_the_next_call),
        TEST(a_cancel_ends_a_running_operation),
        TEST(counters_hold_flops_and_bytes_of_each_op),
        DRY(counters_hold_flops_and_bytes_of_each_op),
        TEST(profiling_measures_seconds_per_op),
        cmocka_unit_test(missing_operations_fall_back_to_the_reference),
        cmocka_unit_test(without_host_memory_a_missing_operation_fails),
        cmocka_unit_test(a_device_may_share_the_memory_of_the_host),
        cmocka_unit_test(workspace_is_counted_and_given_back),
        TEST(a_call_with_nothing_to_write_is_not_made),
        cmocka_unit_test(a_dry_run_counts_what_the_real_run_does),
        DRY(a_dry_run_holds_no_memory),
        TEST(values_travel_through_bf16_and_strides),
        TEST(raw_bytes_are_written_and_read_as_they_are),
        TEST(strided_views_are_not_written_as_one_run),
        TEST(taps_show_names_behind_the_prefix),
        DRY(taps_show_names_behind_the_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
