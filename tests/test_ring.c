/* test_ring.c: rows of all sizes are collected in the ring, to a device apart (apart_device.h):
 * what is one job, where rows are cut, and what is left when reading fails or is stopped. */
#include <fcntl.h>
#include <math.h>

#include "failing_reads.h"
#include "residency/ring.h"
#include "store_fixture.h"

#define MIB     ((size_t)1 << 20)
#define N_LARGE 3
#define N_SMALL 700 /* more than a half has chunks */
#define N_ROWS  (N_LARGE + N_SMALL)

/* 22, 22 and 12 MiB of halves of 32; the second is cut where a half ends, small ones lie between and behind. */
static void declare_sizes(weight_table *t, err *e) {
    weight_table_init(t, "model of all sizes", e);
    for (int i = 0; i < N_LARGE; i++) {
        weight_linear(t, 0, DTYPE_BF16, i < 2 ? 2816 : 1536, 4096, "large%d", i);
        for (int k = i * N_SMALL / N_LARGE; k < (i + 1) * N_SMALL / N_LARGE; k++)
            weight_vector(t, 0, DTYPE_BF16, SHAPE(33 + 5 * k), "small%d", k);
    }
    assert_int_equal(e->status, OVI_OK);
    assert_int_equal(t->n, N_ROWS);
}

typedef struct sender {
    fixture f;
    copies to;
    ring *ring;
    loader l;
    atomic_bool stop;
    atomic_ullong n_read;
    err e;
    char *dst[N_ROWS];
} sender;

static size_t bytes_of(const sender *s, int i) {
    return (size_t)load_file_bytes(&s->f.table.row[i]);
}

static void start_ring(sender *s, ring_desc desc) {
    ring_free(s->ring);
    move_apart(&s->f);
    open_devices(&s->f, DTYPE_BF16);
    memset(&reading, 0, sizeof reading);
    s->to = (copies){.dev = s->f.dev};
    desc.to = &s->to;
    s->ring = ring_create(&desc);
    assert_non_null(s->ring);
    s->l = (loader){
        .files = s->f.files, .stop = &s->stop, .n_read = &s->n_read, .err = &s->e};
    atomic_store(&s->n_read, 0);
}

static void open_sender(sender *s) {
    memset(s, 0, sizeof *s);
    open_model(&s->f, DTYPE_BF16, declare_sizes);
    for (int i = 0; i < N_ROWS; i++)
        s->dst[i] = test_calloc(1, bytes_of(s, i));
}

static void close_sender(sender *s) {
    ring_free(s->ring);
    for (int i = 0; i < N_ROWS; i++)
        test_free(s->dst[i]);
    close_fixture(&s->f);
}

static bool is_small(const sender *s, int i) {
    return bytes_of(s, i) < MIB;
}

static bool send_row(sender *s, int i) {
    const weights_range all = {s->f.table.row[i].entry[0], 0, bytes_of(s, i)};
    memset(s->dst[i], 0x77, all.size);
    return ring_send(s->ring, &s->l, all, s->dst[i]);
}

/* So many small rows from the first on. */
static bool send_small(sender *s, int n) {
    bool ok = true;
    for (int i = 0; i < N_ROWS && ok && n > 0; i++)
        if (is_small(s, i)) {
            ok = send_row(s, i);
            n--;
        }
    return ok;
}

static bool send_all(sender *s) {
    bool ok = true;
    for (int i = 0; i < N_ROWS && ok; i++)
        ok = send_row(s, i);
    return ok && ring_flush(s->ring) && copies_wait(&s->to);
}

static bool has_arrived(const sender *s, int i) {
    const char *stored = weights_data(s->f.files, s->f.table.row[i].entry[0]);
    return memcmp(s->dst[i], stored, bytes_of(s, i)) == 0;
}

static void expect_all(const sender *s) {
    for (int i = 0; i < N_ROWS; i++)
        if (!has_arrived(s, i))
            fail_msg("%s has not arrived", s->f.table.row[i].spec.part[0].name);
}

/* One row is sent in two copies; no byte is missing, and none counted twice. */
static void a_row_is_cut_where_a_half_ends(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    for (int direct = 0; direct < 2; direct++)
        for (int n_threads = 1; n_threads <= RING_MAX_THREADS; n_threads += 5) {
            start_ring(&s, (ring_desc){.n_threads = n_threads, .direct = direct});
            assert_true(send_all(&s));
            expect_all(&s);
            size_t bytes = 0;
            for (int i = 0; i < N_ROWS; i++)
                bytes += bytes_of(&s, i);
            assert_int_equal(atomic_load(&s.n_read), bytes);
            assert_int_equal(apart.copies, N_ROWS + 1);
        }
    close_sender(&s);
}

/* Nothing is read or sent before it is asked for; then all is read, and nobody waits between. */
static void small_rows_are_one_job(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    start_ring(&s, (ring_desc){.n_threads = 8});
    assert_true(send_small(&s, 500));
    assert_int_equal(atomic_load(&reading.calls), 0);
    assert_int_equal(apart.copies, 0);
    assert_true(ring_flush(s.ring));
    assert_int_equal(atomic_load(&reading.calls), 500);
    assert_int_equal(apart.copies, 500);
    assert_int_equal(apart.waits, 0);
    assert_true(copies_wait(&s.to));
    for (int i = 0, n = 0; n < 500; i++)
        if (is_small(&s, i)) {
            assert_true(has_arrived(&s, i));
            n++;
        }
    assert_true(send_small(&s, N_SMALL)); /* more than a list holds */
    assert_true(ring_flush(s.ring) && copies_wait(&s.to));
    assert_int_equal(apart.copies, 500 + N_SMALL);
    close_sender(&s);
}

/* The middle of a row cannot be read: it is named, and no row of its job is sent. */
static void check_unreadable(sender *s, int bad, bool direct) {
    const weights_entry *x = s->f.table.row[bad].entry[0];
    char said[128];
    start_ring(s, (ring_desc){.n_threads = 8, .direct = direct});
    reading.fail_at = (off_t)(x->offset + bytes_of(s, bad) / 2);
    assert_false(send_all(s));
    assert_int_equal(s->e.status, OVI_OK); /* kept in the way */
    assert_false(copies_wait(&s->to));
    assert_false(copies_report(&s->to, &s->e));
    assert_int_equal(s->e.status, OVI_IO);
    snprintf(said, sizeof said, "cannot read tensor %s: ", x->name);
    if (!strstr(s->e.text, said) || strncmp(s->e.text, s->f.path, strlen(s->f.path)) != 0)
        fail_msg("expected %s: %s.., found %s", s->f.path, said, s->e.text);
    err_clear(&s->e);
    assert_false(has_arrived(s, bad));
    reading.fail_at = 0;
    const int n_sent = apart.copies;
    assert_true(ring_flush(s->ring)); /* nothing is left */
    assert_int_equal(apart.copies, n_sent);
    assert_true(send_all(s));
    expect_all(s);
}

static void an_unreadable_row_is_named_and_its_job_not_sent(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    for (int i = 0; i < N_ROWS; i++)
        if (!is_small(&s, i))
            check_unreadable(&s, i, false);
    check_unreadable(&s, N_ROWS / 2, false);
    check_unreadable(&s, N_ROWS - 1, false);
    start_ring(&s, (ring_desc){.n_threads = 8});
    const int bad = 250; /* with 499 others */
    reading.fail_at = (off_t)s.f.table.row[bad].entry[0]->offset;
    assert_true(send_small(&s, 500));
    assert_false(ring_flush(s.ring));
    assert_int_equal(apart.copies, 0);
    assert_false(copies_report(&s.to, &s.e));
    assert_non_null(strstr(s.e.text, s.f.table.row[bad].entry[0]->name));
    close_sender(&s);
}

/* Stopped in any read: nothing is said, nothing of that job is sent, nothing is left of it. */
static void a_stop_leaves_nothing(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    for (int n = 1; n <= 400; n += 57) {
        start_ring(&s, (ring_desc){.n_threads = 8});
        reading.stop = &s.stop;
        reading.stop_at = n;
        assert_true(send_small(&s, 500));
        assert_false(ring_flush(s.ring));
        assert_int_equal(apart.copies, 0);
        assert_true(copies_report(&s.to, &s.e));
        atomic_store(&s.stop, false);
        assert_true(ring_flush(s.ring));
        assert_int_equal(apart.copies, 0);
    }
    for (int n = 1; n < 400; n += 23) { /* both halves are under way in some */
        start_ring(&s, (ring_desc){.n_threads = 8});
        reading.stop = &s.stop;
        reading.stop_at = n;
        assert_false(send_all(&s));
        assert_true(copies_report(&s.to, &s.e));
        atomic_store(&s.stop, false);
        assert_true(send_all(&s));
        expect_all(&s);
    }
    close_sender(&s);
}

/* Forgotten, or freed, before or while they are read. */
static void what_is_dropped_is_not_sent(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    start_ring(&s, (ring_desc){.n_threads = 8});
    for (int last = 0; last < N_ROWS; last += 350) { /* one half, two */
        const int n_sent = apart.copies;
        for (int i = 0; i <= last; i++)
            assert_true(send_row(&s, i));
        const int sent = apart.copies;
        ring_drop(s.ring);
        assert_true(ring_flush(s.ring) && copies_wait(&s.to));
        assert_int_equal(apart.copies, sent);
        assert_true(sent - n_sent <= last);
    }
    assert_true(send_all(&s));
    expect_all(&s);
    assert_true(send_row(&s, 0) && send_row(&s, N_SMALL / 2));
    start_ring(&s, (ring_desc){.n_threads = 1}); /* frees it */
    close_sender(&s);
}

/* What stays is collected with what does not, and is not read again. */
static void what_stays_is_read_once(void **state) {
    (void)state;
    sender s;
    open_sender(&s);
    start_ring(&s, (ring_desc){.n_threads = 8, .cache_bytes = 256 * MIB});
    for (int round = 0; round < 3; round++) {
        assert_true(send_all(&s));
        expect_all(&s);
        assert_true(round > 0 || atomic_load(&reading.calls) > N_ROWS);
        assert_true(round == 0 || atomic_load(&reading.calls) == 0);
        atomic_store(&reading.calls, 0);
    }
    close_sender(&s);
}

/* Made by the caller, more than the halves hold: no place is given twice before it is sent. */
static void what_is_made_goes_with_what_is_read(void **state) {
    (void)state;
    enum { N = 40 };
    const size_t size = 4 * MIB - 100;
    sender s;
    open_sender(&s);
    start_ring(&s, (ring_desc){.n_threads = 8});
    char *dst = test_calloc(N, size);
    for (size_t i = 0; i < N; i++) {
        const weights_range x = {s.f.table.row[0].entry[0], 0, size};
        char *place = ring_place(s.ring, &s.l, x, dst + i * size);
        assert_non_null(place);
        assert_int_equal((uintptr_t)place % 64, 0);
        memset(place, (int)i + 1, size);
        assert_true(send_row(&s, (int)i));
    }
    assert_true(ring_flush(s.ring) && copies_wait(&s.to));
    for (size_t i = 0; i < N; i++) {
        const char *at = dst + i * size;
        assert_true(at[0] == (char)(i + 1) && memcmp(at, at + 1, size - 1) == 0);
        assert_true(has_arrived(&s, (int)i));
    }
    test_free(dst);
    close_sender(&s);
}

#define PACK_O 512
#define PACK_I 2901
#define TAPS   7

static void declare_packed(weight_table *t, err *e) {
    weight_table_init(t, "model to pack", e);
    weight_linear(t, 0, DTYPE_BF16, 2560, 4096, "large");
    weight_conv(t, 0, DTYPE_BF16, SHAPE(PACK_O, PACK_I, TAPS), "conv");
    assert_int_equal(e->status, OVI_OK);
}

static void expect_packed(const weights *files, const weights_entry *x,
                          const float *packed) {
    const uint16_t *stored = weights_data(files, x);
    for (int64_t o = 0; o < PACK_O; o++)
        for (int64_t i = 0; i < PACK_I; i++)
            for (int64_t k = 0; k < TAPS; k++)
                assert_true(packed[(o * TAPS + k) * PACK_I + i] ==
                            bf16_to_f32(stored[(o * PACK_I + i) * TAPS + k]));
}

/* Pieces of whole pairs, of which none is cut: 14 bytes do not divide what is read. */
static void convolutions_are_packed_in_whole_pairs(void **state) {
    (void)state;
    sender s;
    memset(&s, 0, sizeof s);
    open_model(&s.f, DTYPE_BF16, declare_packed);
    for (int i = 0; i < 2; i++)
        s.dst[i] = test_calloc(2, bytes_of(&s, i));
    const weights_entry *x = s.f.table.row[1].entry[0];
    const packing to = {{PACK_O, PACK_I, {1, 1, TAPS}}, DTYPE_BF16, s.dst[1]};
    for (int direct = 0; direct < 2; direct++) {
        start_ring(&s, (ring_desc){.n_threads = 8, .direct = direct});
        memset(s.dst[1], 0, 2 * bytes_of(&s, 1));
        assert_true(send_row(&s, 0) && ring_pack(s.ring, &s.l, x, &to));
        assert_true(ring_flush(s.ring) && copies_wait(&s.to));
        assert_true(has_arrived(&s, 0));
        expect_packed(s.f.files, x, (const float *)(const void *)s.dst[1]);
        assert_int_equal(apart.copies, 1 + 3);
        assert_int_equal(atomic_load(&s.n_read), bytes_of(&s, 0) + bytes_of(&s, 1));
    }
    reading.fail_at = (off_t)(x->offset + bytes_of(&s, 1) - 1);
    assert_false(ring_pack(s.ring, &s.l, x, &to) && ring_flush(s.ring));
    assert_false(copies_report(&s.to, &s.e));
    assert_non_null(strstr(s.e.text, "cannot read tensor conv: "));
    ring_free(s.ring);
    for (int i = 0; i < 2; i++)
        test_free(s.dst[i]);
    close_fixture(&s.f);
}

/* ---- rows that are scaled on the way ---- */

enum { NORMED, TURNED, PLAIN, N_SCALED };
#define SCALED_O 699 /* does not fill the last piece */
#define SCALED_I 431
#define SCALED_N (SCALED_O * SCALED_I * TAPS)

static double by_length(const float *v, int64_t n, const float *by) {
    double sum = 1;
    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i] * v[i];
    return (by ? *by : 3) / sum;
}

static int64_t from_behind(const weight *row, int64_t r) {
    return weight_rows(row) - 1 - r;
}

static const weight_scaling scaling = {.scale = by_length};
static const weight_scaling scaling_turned = {by_length, from_behind};

static void declare_scaled(weight_table *t, err *e) {
    const shape dims = SHAPE(SCALED_O, SCALED_I, TAPS), numbers = SHAPE(SCALED_O, 1, 1);
    const weight_spec spec = {.use = WEIGHT_CONV, .published = DTYPE_F32};
    weight_spec row[N_SCALED] = {spec, spec, spec};
    weight_table_init(t, "model to scale", e);
    row[NORMED].scaling = row[PLAIN].scaling = &scaling;
    row[TURNED].scaling = &scaling_turned;
    for (int i = 0; i < N_SCALED; i++) {
        row[i].n_parts = i == PLAIN ? 1 : 2;
        for (int k = 0; k < row[i].n_parts; k++) {
            row[i].part[k].dims = k == 0 ? dims : numbers;
            snprintf(row[i].part[k].name, WEIGHT_NAME_MAX, "conv%d.%c", i, "vg"[k]);
        }
        weight_add(t, &row[i]);
    }
    assert_int_equal(e->status, OVI_OK);
}

typedef struct scaler {
    sender s;
    float *folded, *packed, *expected;
} scaler;

static void open_scaler(scaler *z) {
    memset(z, 0, sizeof *z);
    open_model(&z->s.f, DTYPE_F32, declare_scaled);
    z->folded = test_calloc(SCALED_N, sizeof(float));
    z->packed = test_calloc(SCALED_N, sizeof(float));
    z->expected = test_calloc(SCALED_N, sizeof(float));
}

static void close_scaler(scaler *z) {
    ring_free(z->s.ring);
    test_free(z->folded);
    test_free(z->packed);
    test_free(z->expected);
    close_fixture(&z->s.f);
}

static const conv_geometry scaled_geometry = {SCALED_O, SCALED_I, {1, 1, TAPS}};

static bool scale_row(scaler *z, int i) {
    const packing to = {scaled_geometry, DTYPE_F32, z->packed};
    const weight *row = &z->s.f.table.row[i];
    assert_true(load_is_scaled(row) && ring_scales(row));
    memset(z->packed, 0x77, SCALED_N * sizeof(float));
    return ring_scale(z->s.ring, &z->s.l, row, &to) && ring_flush(z->s.ring) &&
           copies_wait(&z->s.to);
}

/* The fold of the whole, packed. */
static void fold_whole(scaler *z, int i) {
    assert_int_equal(weight_to_f32(&z->s.f.table, i, z->folded, &z->s.e), OVI_OK);
    const conv_source all = {z->folded, DTYPE_F32, 0, (int64_t)SCALED_O * SCALED_I};
    apart_pack(&(apart_copy){.dst = z->expected,
                             .geometry = scaled_geometry,
                             .pairs = all,
                             .type = DTYPE_F32});
}

static void expect_scaled(const scaler *z) {
    assert_memory_equal(z->packed, z->expected, SCALED_N * sizeof(float));
}

/* The bits of the fold on one thread, whatever their number and the order of the rows. */
static void threads_scale_the_rows_that_they_read(void **state) {
    (void)state;
    scaler z;
    open_scaler(&z);
    for (int i = 0; i < N_SCALED; i++) {
        fold_whole(&z, i);
        for (int n_threads = 1; n_threads <= RING_MAX_THREADS; n_threads += 5) {
            start_ring(&z.s, (ring_desc){.n_threads = n_threads});
            assert_true(scale_row(&z, i));
            expect_scaled(&z);
            assert_int_equal(atomic_load(&z.s.n_read), bytes_of(&z.s, i));
            assert_int_equal(apart.copies, 2); /* of 8 MiB at most */
        }
    }
    close_scaler(&z);
}

static void put_nan(scaler *z, const weights_entry *x, size_t element) {
    const float nan = NAN;
    const int fd = open(z->s.f.path, O_WRONLY);
    assert_int_equal(pwrite(fd, &nan, sizeof nan, (off_t)(x->offset + 4 * element)),
                     sizeof nan);
    close(fd);
}

static void expect_refused(scaler *z, int row, const char *sentence) {
    assert_false(scale_row(z, row));
    assert_false(copies_report(&z->s.to, &z->s.e));
    if (!strstr(z->s.e.text, sentence))
        fail_msg("expected \"%s\", found: %s", sentence, z->s.e.text);
    err_clear(&z->s.e);
}

static void rows_that_cannot_be_scaled_are_named(void **state) {
    (void)state;
    scaler z;
    open_scaler(&z);
    const weight *row = z.s.f.table.row;
    start_ring(&z.s, (ring_desc){.n_threads = 8});
    reading.fail_at = (off_t)(row[NORMED].entry[1]->offset + 4 * (SCALED_O - 1));
    expect_refused(&z, NORMED, "cannot read tensor conv0.g: ");
    reading.fail_at = (off_t)(row[TURNED].entry[0]->offset);
    expect_refused(&z, TURNED, "cannot read tensor conv1.v: ");
    reading.fail_at = 0;
    fold_whole(&z, TURNED);
    assert_true(scale_row(&z, TURNED));
    expect_scaled(&z);
    atomic_store(&z.s.stop, true);
    assert_false(scale_row(&z, NORMED));
    assert_true(copies_report(&z.s.to, &z.s.e)); /* nothing has failed */
    atomic_store(&z.s.stop, false);
    close_scaler(&z);
}

static void a_row_with_a_nan_is_named(void **state) {
    (void)state;
    scaler z;
    open_scaler(&z);
    const weight *row = z.s.f.table.row;
    put_nan(&z, row[PLAIN].entry[0], SCALED_N - 1);
    put_nan(&z, row[TURNED].entry[1], 5);
    weights_close(z.s.f.files);
    assert_int_equal(weights_open(&z.s.f.files, z.s.f.path, &z.s.e), OVI_OK);
    assert_int_equal(weight_table_bind(&z.s.f.table, z.s.f.files, &z.s.e), OVI_OK);
    start_ring(&z.s, (ring_desc){.n_threads = 8});
    assert_true(scale_row(&z, NORMED));
    expect_refused(&z, PLAIN, "conv2.v");
    expect_refused(&z, TURNED, "conv1.g");
    close_scaler(&z);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_cut_where_a_half_ends),
        cmocka_unit_test(small_rows_are_one_job),
        cmocka_unit_test(an_unreadable_row_is_named_and_its_job_not_sent),
        cmocka_unit_test(a_stop_leaves_nothing),
        cmocka_unit_test(what_is_dropped_is_not_sent),
        cmocka_unit_test(what_stays_is_read_once),
        cmocka_unit_test(what_is_made_goes_with_what_is_read),
        cmocka_unit_test(convolutions_are_packed_in_whole_pairs),
        cmocka_unit_test(threads_scale_the_rows_that_they_read),
        cmocka_unit_test(rows_that_cannot_be_scaled_are_named),
        cmocka_unit_test(a_row_with_a_nan_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
