/* test_cuda_products.c: products of the cuda backend on a GPU that is not here (fake/fake_gpu.h):
 * which algorithm each is given, what becomes of those that have none, what is kept of that, and
 * how much a launch has where a watchdog is. */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "core/crc32.h"
#include "core/os.h"
#include "fake/fake_gpu.h"

#define STATUS_NOT_SUPPORTED 15 /* CUBLAS_STATUS_NOT_SUPPORTED */
#define MIB                  ((size_t)1 << 20)

static fake_state *gpu; /* of this process */
static host test_host;
static char cache[] = "/tmp/ovi_products_XXXXXX";
static char said[4][512];
static int n_said;

static void listen(void *user, ovi_log_level level, const char *line) {
    (void)user;
    assert_int_equal(level, OVI_LOG_WARN);
    snprintf(said[n_said++ % 4], sizeof said[0], "%s", line);
}

static void forget_what_was_said(void) {
    n_said = 0;
    memset(said, 0, sizeof said);
}

static device *open_fake(const char *folder) {
    const device_options o = {.compute = DTYPE_F32,
                              .n_threads = 1,
                              .folders = FAKE_DIR,
                              .cache = folder,
                              .emulate = "no-cudnn"};
    const backend *b = backend_find("cuda");
    const char *missing = b->missing(&o);
    if (missing)
        fail_msg("%s", missing);
    device *d = device_open(&test_host, b, &o);
    if (!d)
        fail_msg("%s", test_host.err.text);
    device_arena_open(d, 80 * MIB);
    forget_what_was_said();
    return d;
}

/* What cuBLASLt offers from now on. */
static void offer(int algorithms, size_t bytes) {
    gpu->algorithms = algorithms;
    gpu->algorithm_bytes = bytes;
    gpu->refusal = 0;
    gpu->asked = gpu->products = 0;
    gpu->used_bytes = 0;
}

/* falling: each row is half as large as the one above it. */
static tensor values(device *d, dtype type, int64_t rows, int64_t columns, bool falling) {
    const tensor t = arena_keep(d, type, SHAPE(rows, columns));
    const size_t n = (size_t)tensor_count(&t);
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = ((float)((i * 7 + 3) % 11) / 4 - 1.25f) * /* exact, but in F8_E4M3 */
               (falling ? ldexpf(1, -(int)(i / (size_t)columns)) : 1);
    device_put_f32(d, &t, v);
    free(v);
    return t;
}

/* M x N x K of that type; its residual is its own result; w_by_row: with weights in BF16. */
typedef struct shape_of {
    dtype type;
    int64_t m, n, k;
    bool residual, w_by_row;
} shape_of;

static linear_desc product_of(device *d, shape_of s) {
    const dtype out = s.type == DTYPE_F8_E4M3 ? DTYPE_BF16 : s.type;
    linear_desc x = {
        .x = values(d, s.type, s.m, s.k, false),
        .w = values(d, s.w_by_row ? DTYPE_BF16 : s.type, s.n, s.k, s.w_by_row),
        .out = values(d, out, s.m, s.n, false),
        .x_scale = s.w_by_row ? 0.5f : 0,
        .w_by_row = s.w_by_row};
    if (s.residual)
        x.residual = x.out;
    return x;
}

static float *result_of(device *d, shape_of s) {
    const linear_desc x = product_of(d, s);
    float *v = malloc((size_t)(s.m * s.n) * sizeof *v);
    assert_non_null(v);
    op_linear(d, &x);
    if (device_get_f32(d, v, &x.out) != OVI_OK)
        fail_msg("%s", test_host.err.text);
    arena_keep_reset(d, 0);
    return v;
}

/* On the device, against the reference. */
static void multiply(device *d, shape_of s) {
    const device_options o = {.compute = DTYPE_F32, .n_threads = 1};
    device *ref = device_open(&test_host, &backend_ref, &o);
    device_arena_open(ref, 80 * MIB);
    float *found = result_of(d, s), *expected = result_of(ref, s);
    for (int64_t i = 0; i < s.m * s.n; i++)
        assert_true(fabsf(found[i] - expected[i]) <= 0.01f + 0.01f * fabsf(expected[i]));
    device_close(ref);
    free(found);
    free(expected);
}

/* ---- none, or none that works ---- */

static const shape_of small_bf16 = {DTYPE_BF16, 5, 8, 16, false, false};
static const shape_of small_f8 = {DTYPE_F8_E4M3, 5, 8, 16, false, false};
static const shape_of small_f32 = {DTYPE_F32, 5, 8, 16, false, false};

static void products_without_an_algorithm_are_said_and_counted(void **state) {
    (void)state;
    offer(0, 0);
    device *d = open_fake(NULL);
    for (int i = 0; i < 3; i++)
        multiply(d, small_bf16);
    assert_int_equal(device_slow_products(d), 3);
    assert_int_equal(n_said, 1);
    assert_string_equal(said[0],
                        "linear: cuBLASLt has no algorithm for 5 x 8 x 16 (M, N, K) of "
                        "BF16 to BF16, epilogue 1: status 15; a much slower kernel "
                        "multiplies");
    multiply(d, small_f8);
    assert_int_equal(device_slow_products(d), 4);
    assert_int_equal(n_said, 2);
    multiply(d, small_f32); /* has no tensor cores to do without */
    assert_int_equal(device_slow_products(d), 4);
    assert_int_equal(n_said, 2);
    assert_int_equal(device_get_counters(d)->fallbacks, 0);
    device_reset_counters(d);
    assert_int_equal(device_slow_products(d), 0);
    multiply(d, small_bf16);
    assert_int_equal(device_slow_products(d), 1);
    assert_int_equal(n_said, 2);
    device_close(d);
}

static void products_that_are_refused_are_said_and_counted(void **state) {
    (void)state;
    static const int refusals[] = {STATUS_NOT_SUPPORTED, 7 /* INVALID_VALUE */};
    for (int i = 0; i < 2; i++) {
        offer(1, 0);
        device *d = open_fake(NULL);
        multiply(d, small_bf16);
        assert_int_equal(device_slow_products(d), 0);
        assert_true(gpu->products > 0);
        gpu->refusal = refusals[i];
        multiply(d, small_bf16);
        multiply(d, small_bf16);
        assert_int_equal(device_slow_products(d), 2);
        assert_int_equal(n_said, 1);
        assert_non_null(strstr(said[0], "cuBLASLt refused 5 x 8 x 16"));
        gpu->refusal = 13; /* EXECUTION_FAILED is no reason for another kernel */
        const linear_desc x = product_of(d, small_bf16);
        op_linear(d, &x);
        assert_true(device_failed(d));
        device_clear_failure(d);
        device_close(d);
    }
}

/* ---- what is kept ---- */

static void what_was_not_found_is_asked_anew(void **state) {
    (void)state;
    size_t size = 0;
    offer(0, 0);
    device *d = open_fake(cache);
    multiply(d, small_bf16);
    assert_null(device_get_choices(d, &size));
    device_close(d);
    offer(1, 0); /* the next process has better luck */
    d = open_fake(cache);
    multiply(d, small_bf16);
    assert_int_equal(device_slow_products(d), 0);
    device_close(d);
    offer(1, 0);
    d = open_fake(cache);
    multiply(d, small_bf16);
    assert_int_equal(gpu->asked, 0);
    device_close(d);
}

#define HEAD_BYTES  136 /* of kept choices */
#define ENTRY_BYTES 112
#define CRC_AT      128

/* Versions before this kept that nothing was found. */
static void kept_failures_of_earlier_versions_are_left_out(void **state) {
    (void)state;
    size_t size = 0;
    offer(1, 0);
    device *d = open_fake(NULL);
    multiply(d, small_bf16);
    char *bytes = device_get_choices(d, &size);
    device_close(d);
    assert_non_null(bytes);
    assert_int_equal(size, HEAD_BYTES + ENTRY_BYTES);
    memset(bytes + size - sizeof(int64_t), 0, sizeof(int64_t));
    const uint32_t crc = crc32_update(0, bytes + HEAD_BYTES, ENTRY_BYTES);
    memcpy(bytes + CRC_AT, &crc, sizeof crc);
    d = open_fake(NULL);
    assert_true(device_take_choices(d, bytes, size));
    gpu->products = 0;
    multiply(d, small_bf16);
    assert_int_equal(device_slow_products(d), 0);
    assert_true(gpu->products > 0);
    device_close(d);
    free(bytes);
}

static void choices_are_never_too_many(void **state) {
    (void)state;
    enum { KINDS = 300 };
    size_t size = 0;
    offer(1, 0);
    device *d = open_fake(cache);
    for (int i = 0; i < 2; i++) {
        gpu->asked = 0;
        for (int n = 1; n <= KINDS; n++)
            multiply(d, (shape_of){DTYPE_BF16, 1, 16 * n, 16, false, false});
        assert_true(i ? gpu->asked == 0 : gpu->asked >= KINDS);
    }
    char *bytes = device_get_choices(d, &size);
    assert_non_null(bytes);
    device_close(d);
    const char *const folders[] = {NULL, cache}; /* a resume file's, and those on disk */
    for (int i = 0; i < 2; i++) {
        d = open_fake(folders[i]);
        gpu->asked = 0;
        assert_true(i == 1 || device_take_choices(d, bytes, size));
        for (int n = 1; n <= KINDS; n++)
            multiply(d, (shape_of){DTYPE_BF16, 1, 16 * n, 16, false, false});
        assert_int_equal(gpu->asked, 0);
        device_close(d);
    }
    free(bytes);
}

static void a_device_without_a_name_keeps_nothing(void **state) {
    (void)state;
    size_t size = 0;
    offer(1, 0);
    device *d = open_fake(NULL);
    multiply(d, small_bf16);
    gpu->no_properties = 1;
    uint8_t *bytes = device_get_choices(d, &size);
    gpu->no_properties = 0;
    assert_int_equal(size, 0);
    free(bytes);
    device_close(d);
}

/* ---- workspace ---- */

static void f32_is_given_no_algorithm_that_wants_workspace(void **state) {
    (void)state;
    offer(3, 2); /* 2, 1 and 0 bytes */
    device *d = open_fake(NULL);
    multiply(d, small_bf16);
    assert_int_equal(gpu->used_bytes, 2);
    gpu->products = 0;
    multiply(d, small_f32);
    assert_int_equal(gpu->products, 1);
    assert_int_equal(gpu->used_bytes, 0);
    device_close(d);
}

/* Kept by a version that looked at no workspace of F32. */
static void a_kept_algorithm_that_cannot_run_is_replaced(void **state) {
    (void)state;
    size_t size = 0;
    offer(1, 0);
    device *d = open_fake(NULL);
    multiply(d, small_f32);
    char *bytes = device_get_choices(d, &size);
    device_close(d);
    assert_int_equal(size, HEAD_BYTES + ENTRY_BYTES);
    const uint64_t wants = 1 << 20; /* as fake_blas.c has it: in the second word */
    memcpy(bytes + HEAD_BYTES + 40 + sizeof wants, &wants, sizeof wants);
    const uint32_t crc = crc32_update(0, bytes + HEAD_BYTES, ENTRY_BYTES);
    memcpy(bytes + CRC_AT, &crc, sizeof crc);
    d = open_fake(NULL);
    assert_true(device_take_choices(d, bytes, size));
    gpu->products = 0;
    multiply(d, small_f32);
    assert_int_equal(gpu->products, 1);
    device_close(d);
    free(bytes);
}

/* Half of the workspace is for the result of a trial: no algorithm may need more than the rest. */
static void a_residual_is_tried_with_what_it_has(void **state) {
    (void)state;
    offer(3, 24 * MIB);
    device *d = open_fake(NULL);
    multiply(d, small_bf16);
    assert_int_equal(gpu->used_bytes, 24 * MIB);
    shape_of s = small_bf16;
    s.residual = true;
    multiply(d, s);
    assert_int_equal(gpu->used_bytes, 12 * MIB);
    device_close(d);
}

/* ---- scales of rows ---- */

static const shape_of by_row = {DTYPE_F8_E4M3, 50, 8, 16, false, true};

static void weights_have_a_scale_for_each_row(void **state) {
    (void)state;
    shape_of added = by_row;
    added.residual = true;
    offer(1, 0);
    gpu->by_row = 0;
    device *d = open_fake(NULL);
    multiply(d, by_row);
    assert_true(gpu->products > 0 && gpu->by_row == gpu->products);
    multiply(d, added);
    assert_int_equal(gpu->by_row, gpu->products);
    const long rows = gpu->by_row, asked = gpu->asked;
    multiply(d, (shape_of){DTYPE_F8_E4M3, 50, 8, 16, false, false}); /* another kind */
    assert_true(gpu->asked > asked);
    assert_int_equal(gpu->by_row, rows);
    assert_int_equal(device_slow_products(d), 0);
    device_close(d);
}

/* In parts, and by the kernel of our own. */
static void rows_keep_their_scale_however_they_are_multiplied(void **state) {
    (void)state;
    for (int algorithms = 0; algorithms < 2; algorithms++) {
        offer(algorithms, 0);
        gpu->watchdog = algorithms;
        gpu->limit = 1e-9;
        device *d = open_fake(NULL);
        multiply(d, by_row);
        assert_int_equal(device_slow_products(d), algorithms ? 0 : 1);
        assert_true(!algorithms || gpu->products > 5);
        device_close(d);
    }
    gpu->watchdog = 0;
}

static void other_devices_have_one_scale_for_a_tensor(void **state) {
    (void)state;
    static const int sm[] = {80, 89, 90, 100};
    const device_options o = {.compute = DTYPE_F32, .n_threads = 1};
    for (int i = 0; i < 4; i++) {
        gpu->card[0].sm = sm[i];
        device *d = open_fake(NULL);
        assert_true(device_f8_by_row(d) == (sm[i] == 90));
        device_close(d);
    }
    gpu->card[0].sm = 90;
    device *dry = device_open_null(&test_host, backend_find("cuda"), &o);
    device *plain = device_open(&test_host, &backend_ref, &o);
    assert_true(dry && plain);
    assert_false(device_f8_by_row(dry));
    assert_false(device_f8_by_row(plain));
    device_close(dry);
    device_close(plain);
}

/* ---- watchdogs ---- */

/* The most operations of a launch, at a limit of seconds. */
static double most_at_once(dtype type, int sm, double seconds) {
    offer(0, 0);
    gpu->card[0].sm = sm;
    gpu->watchdog = seconds > 0;
    gpu->limit = seconds;
    gpu->most_flops = 0;
    device *d = open_fake(NULL);
    multiply(d, (shape_of){type, 2000, 8, 16, false, false});
    device_close(d);
    gpu->watchdog = 0;
    gpu->card[0].sm = 90;
    return gpu->most_flops;
}

static void launches_have_what_their_type_can_do(void **state) {
    (void)state;
    static const struct rate {
        dtype type;
        int sm;
        double each; /* of a multiprocessor, of which there are four: cuda_launch.c */
    } rates[] = {{DTYPE_F32, 90, 20e9},      {DTYPE_BF16, 90, 200e9},
                 {DTYPE_BF16, 80, 200e9},    {DTYPE_F8_E4M3, 90, 400e9},
                 {DTYPE_F8_E4M3, 89, 400e9}, {DTYPE_F8_E4M3, 80, 20e9}};
    const double all = 2.0 * 2000 * 8 * 16;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        const struct rate *r = &rates[i];
        const double most = all / 3, limit = most / (4 * r->each);
        const double found = most_at_once(r->type, r->sm, limit);
        assert_true(most_at_once(r->type, r->sm, 0) == all);
        assert_true(found > 0.99 * most && found <= most);
    }
}

/* ---- */

static int open_fakes(void **state) {
    (void)state;
    const char *const files[] = {FAKE_DIR "/libcuda.so.1", FAKE_DIR "/libnvidia-ml.so.1"};
    void *handle[2];
    for (int i = 0; i < 2; i++)
        if (!(handle[i] = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL)))
            fail_msg("%s", dlerror());
    gpu = dlsym(handle[0], "fake_gpu");
    test_host.log = listen;
    test_host.level = OVI_LOG_WARN;
    return mkdtemp(cache) ? 0 : -1;
}

static int remove_cache(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", cache);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_without_an_algorithm_are_said_and_counted),
        cmocka_unit_test(products_that_are_refused_are_said_and_counted),
        cmocka_unit_test(what_was_not_found_is_asked_anew),
        cmocka_unit_test(kept_failures_of_earlier_versions_are_left_out),
        cmocka_unit_test(choices_are_never_too_many),
        cmocka_unit_test(a_device_without_a_name_keeps_nothing),
        cmocka_unit_test(f32_is_given_no_algorithm_that_wants_workspace),
        cmocka_unit_test(a_kept_algorithm_that_cannot_run_is_replaced),
        cmocka_unit_test(a_residual_is_tried_with_what_it_has),
        cmocka_unit_test(weights_have_a_scale_for_each_row),
        cmocka_unit_test(rows_keep_their_scale_however_they_are_multiplied),
        cmocka_unit_test(other_devices_have_one_scale_for_a_tensor),
        cmocka_unit_test(launches_have_what_their_type_can_do),
    };
    return cmocka_run_group_tests(tests, open_fakes, remove_cache);
}
