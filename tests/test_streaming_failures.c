/* test_streaming_failures.c: weights on their way to a device apart (apart_device.h) while
 * something fails: copies, waits, pinning, reading, cancelled in between; that a slot is not
 * overwritten while it is read; and that no more is pinned than there is room for. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "failing_reads.h"
#include "residency/upload.h"
#include "store_fixture.h"

/* ---- pthread_create, as the linker has it called instead ---- */

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static struct {
    bool count;
    int started, most; /* most: that can be started while they are counted */
} threads;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how,
                          void *(*run)(void *), void *user) {
    if (threads.count && threads.started == threads.most)
        return EAGAIN;
    threads.started += threads.count;
    return __real_pthread_create(thread, how, run, user);
}

/* ---- an uploader by itself, of all rows of the small model ---- */

typedef struct sender {
    fixture f;
    uploader u;
    loader l;
    atomic_bool stop;
    atomic_ullong n_read;
    err e;
    char *staging, *dst[MAX_ROWS];
    uint64_t stored; /* bytes of all rows in the file */
} sender;

static dtype type_of(const weight *row) {
    return row->spec.fold ? DTYPE_F32 : weight_file_type(row);
}

static bool is_sent(const weight *row) {
    return row->entry[0] && row->spec.use != WEIGHT_HOST;
}

static size_t placed_bytes(const weight *row) {
    return (size_t)shape_count(&row->spec.placed) * dtype_size(type_of(row));
}

/* Then sender_take_way. */
static void sender_open(sender *s) {
    memset(s, 0, sizeof *s);
    open_fixture(&s->f, DTYPE_BF16);
    size_t staging = 0;
    for (int i = 0; i < s->f.table.n; i++) {
        const weight *row = &s->f.table.row[i];
        if (!is_sent(row))
            continue;
        const size_t n = upload_staging_bytes(row, type_of(row));
        staging = n > staging ? n : staging;
        s->stored += load_file_bytes(row);
        s->dst[i] = test_calloc(1, placed_bytes(row));
    }
    s->staging = test_malloc(staging);
}

/* Nothing of the last way is left. */
static void sender_stop(sender *s) {
    if (!s->u.to.dev)
        return;
    assert_true(upload_release(&s->u, &s->e));
    assert_int_equal(apart.pinned, 0);
}

static void sender_close(sender *s) {
    sender_stop(s);
    for (int i = 0; i < MAX_ROWS; i++)
        if (s->dst[i])
            test_free(s->dst[i]);
    test_free(s->staging);
    close_fixture(&s->f);
}

/* All rows, to memory that holds nothing of them; false: failed, or stopped. */
static bool send_rows(sender *s) {
    bool ok = true;
    for (int i = 0; i < s->f.table.n && ok; i++) {
        weight *row = &s->f.table.row[i];
        if (!is_sent(row))
            continue;
        memset(s->dst[i], 0x77, placed_bytes(row));
        ok = upload_row(&s->u, &s->l, row, type_of(row), s->dst[i]);
    }
    return upload_finish(&s->u, &s->e) && ok;
}

static void expect_rows(sender *s) {
    if (err_failed(&s->e))
        fail_msg("%s", s->e.text);
    for (int i = 0; i < s->f.table.n; i++) {
        weight *row = &s->f.table.row[i];
        if (!is_sent(row))
            continue;
        const dtype type = type_of(row);
        char *made = test_malloc(placed_bytes(row)),
             *staging = test_malloc(load_staging_bytes(row, type) + 1);
        atomic_bool go_on = false;
        atomic_ullong n = 0;
        const loader l = {s->f.files, staging, &go_on, &n, false, &s->e};
        assert_true(load_rows(
            &l, row, (load_span){0, shape_count(&row->spec.placed), type}, made));
        assert_memory_equal(s->dst[i], made, placed_bytes(row));
        test_free(made);
        test_free(staging);
    }
}

static void expect_sentence(const char *text, const fixture *f, const char *reason) {
    if (strncmp(text, f->path, strlen(f->path)) != 0 || !strstr(text, reason) ||
        strchr(text, '\n'))
        fail_msg("expected %s, a tensor and \"%s\", found \"%s\"", f->path, reason, text);
}

/* A sender's way, by what is refused. */
static const struct way {
    const char *name;
    bool refuse_pins, refuse_mappings;
    int n_threads, limit, refuse_after;
    size_t cache; /* of the ring */
} ways[] = {{"one window", false, false, 1, 1, 0, 0},
            {"three windows", false, false, 1, 3, 0, 0},
            {"ring", false, true, 8, 8, 0, 0},
            {"ring that keeps", false, true, 1, 8, 0, (size_t)256 << 20},
            {"staging", true, true, 1, 8, 0, 0},
            {"pinning is refused half way", false, false, 1, 64, 7, 0},
            {"no window has room", false, false, 1, 0, 0, 0}};
#define N_WAYS (sizeof ways / sizeof *ways)

/* Windows of a page: every row has several. */
static void sender_take_way(sender *s, const struct way *way) {
    sender_stop(s);
    move_apart(&s->f);
    memset(&reading, 0, sizeof reading);
    apart.refuse_pins = way->refuse_pins;
    apart.refuse_mappings = way->refuse_mappings;
    apart.refuse_after = way->refuse_after;
    apart.n_threads = way->n_threads;
    open_devices(&s->f, DTYPE_BF16);
    upload_init(&s->u, s->f.dev, way->limit, SIZE_MAX / 2);
    s->u.window = 4096;
    s->u.how.cache_bytes = way->cache;
    atomic_store(&s->n_read, 0);
    s->l = (loader){.files = s->f.files,
                    .staging = s->staging,
                    .stop = &s->stop,
                    .n_read = &s->n_read,
                    .err = &s->e};
}

/* Windows turn over, end within rows, stay where no more are pinned: no byte is missing, and none
 * is counted twice. */
static void rows_arrive_by_every_way(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (size_t k = 0; k < N_WAYS; k++)
        for (int stay = 0; stay < 2; stay++) {
            sender_take_way(&s, &ways[k]);
            s.u.stay = stay;
            for (int round = 0; round < 3; round++) {
                atomic_store(&s.n_read, 0);
                assert_true(send_rows(&s));
                expect_rows(&s);
                if (round == 0 && atomic_load(&s.n_read) != s.stored)
                    fail_msg("%s: expected %llu bytes read, found %llu", ways[k].name,
                             (unsigned long long)s.stored,
                             (unsigned long long)atomic_load(&s.n_read));
                if (ways[k].cache && round > 0) /* converted and turned rows alone */
                    assert_true(atomic_load(&s.n_read) < s.stored / 2);
            }
            if (ways[k].limit && !ways[k].refuse_mappings && !ways[k].refuse_after)
                assert_true(apart.most_pinned <= ways[k].limit + (stay ? 2 : 0));
        }
    sender_close(&s);
}

/* Whatever copy or wait fails, and whoever waits: it is said once, with file and tensor, and what
 * is sent again arrives. */
static int check_failures(sender *s, const struct way *way, bool in_wait) {
    for (int n = 1;; n++) {
        sender_take_way(s, way);
        *(in_wait ? &apart.fail_wait : &apart.fail_copy) = n;
        const bool ok = send_rows(s);
        const int seen = in_wait ? apart.waits : apart.copies;
        apart.fail_copy = apart.fail_wait = 0;
        if (ok != (seen < n))
            fail_msg("%s: %s %d of %d failed and nobody said so", way->name,
                     in_wait ? "wait" : "copy", n, seen);
        if (!ok) {
            assert_int_equal(s->e.status, OVI_DEVICE);
            expect_sentence(s->e.text, &s->f, "did not reach the device: it was asked");
            err_clear(&s->e);
        }
        assert_true(send_rows(s));
        expect_rows(s);
        if (ok)
            return n;
    }
}

static void a_failed_copy_is_said_whoever_waits(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (size_t k = 0; k < N_WAYS; k++) {
        assert_true(check_failures(&s, &ways[k], false) > 20);
        assert_true(check_failures(&s, &ways[k], true) > 1);
    }
    sender_close(&s);
}

/* Nobody asks for rows that a release finds under way. */
static void a_failed_copy_is_said_by_release(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (size_t k = 0; k < N_WAYS; k++) {
        sender_take_way(&s, &ways[k]);
        apart.fail_copy = 1;
        if (upload_row(&s.u, &s.l, &s.f.table.row[0], DTYPE_BF16, s.dst[0]))
            assert_false(upload_release(&s.u, &s.e));
        expect_sentence(s.e.text, &s.f, "b0.bf16");
        err_clear(&s.e);
    }
    sender_close(&s);
}

/* A window is asked for while copies out of those before it are under way. */
static void a_failed_copy_is_said_after_windows_for_packing(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    sender_take_way(&s, &ways[1]);
    apart.fail_copy = 1;
    assert_true(upload_row(&s.u, &s.l, &s.f.table.row[0], DTYPE_BF16, s.dst[0]));
    const weight *conv = &s.f.table.row[s.f.table.n - 3];
    assert_int_equal(conv->spec.use, WEIGHT_CONV);
    const packing to = {{8, 4, {1, 1, 3}}, DTYPE_BF16, s.dst[s.f.table.n - 3]};
    assert_true(upload_packed(&s.u, &s.l, conv->entry[0], &to) ||
                err_failed(&s.u.to.failed));
    assert_false(upload_finish(&s.u, &s.e));
    expect_sentence(s.e.text, &s.f, "did not reach the device");
    err_clear(&s.e);
    sender_close(&s);
}

/* ---- threads of the ring ---- */

/* As many as can be started read; where there is none, rows pass through staging. */
static void a_ring_reads_with_the_threads_that_there_are(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (int most = 0; most <= 8; most += most < 2 ? 1 : 6) {
        sender_take_way(&s, &ways[2]);
        threads.count = true;
        threads.started = 0;
        threads.most = most;
        assert_true(send_rows(&s));
        threads.count = false;
        expect_rows(&s);
        assert_int_equal(threads.started, most);
        assert_int_equal(s.u.ring != NULL, most > 0);
        assert_int_equal(apart.pinned, most > 0 ? 2 : 0);
    }
    sender_close(&s);
}

/* ---- reading ---- */

static void check_read_error(sender *s, const struct way *way) {
    for (int n = 1;; n++) {
        sender_take_way(s, way);
        reading.fail = n;
        const bool ok = send_rows(s);
        assert_int_equal(ok, atomic_load(&reading.calls) < n);
        if (!ok) {
            assert_int_equal(s->e.status, OVI_IO);
            expect_sentence(s->e.text, &s->f, "cannot read tensor");
            err_clear(&s->e);
        }
        reading.fail = 0;
        for (int round = 0; round < 2; round++) { /* what was kept is whole */
            assert_true(send_rows(s));
            expect_rows(s);
        }
        if (ok)
            break;
        assert_true(n < 1000);
    }
}

static void a_read_that_fails_is_said(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (int k = 2; k < 5; k++)
        check_read_error(&s, &ways[k]);
    sender_close(&s);
}

/* A stop while threads fill: nothing is said, and the place in the cache is not lost. */
static void a_stop_while_threads_read(void **state) {
    (void)state;
    sender s;
    sender_open(&s);
    for (size_t k = 2; k < 5; k++)
        for (int n = 1; n < 12; n += 5) {
            sender_take_way(&s, &ways[k]);
            reading.stop = &s.stop;
            reading.stop_at = n;
            assert_false(send_rows(&s));
            assert_int_equal(s.e.status, OVI_OK);
            atomic_store(&s.stop, false);
            for (int round = 0; round < 2; round++) {
                assert_true(send_rows(&s));
                expect_rows(&s);
            }
        }
    sender_close(&s);
}

/* ---- past the page cache ---- */

static void read_direct(const char *path, int fd, os_blocks at, const char *expected) {
    os_map map;
    err e = {0};
    char *to = NULL;
    assert_int_equal(posix_memalign((void **)&to, 4096, 5 * 4096), 0);
    assert_int_equal(os_map_file(&map, path, &e), OVI_OK);
    at.fd = fd;
    const char *reason = os_map_read_direct(&map, at, to);
    if (reason)
        fail_msg("%zu bytes from %zu: %s", at.size, at.offset, reason);
    assert_memory_equal(to, expected + at.offset, at.size);
    os_map_release(&map);
    free(to);
}

/* The system may give less than was asked for: the next read begins on a block. */
static void a_short_read_goes_on_at_a_block(void **state) {
    (void)state;
    static char bytes[4 * 4096 + 1000];
    char path[64];
    make_path(path);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 31 % 251);
    int fd = open(path, O_WRONLY);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    close(fd);
    fd = open(path, O_RDONLY | O_DIRECT);
    if (fd < 0) { /* this folder's file system has none */
        unlink(path);
        skip();
    }
    const size_t most[] = {0, 4096, 5000, 9000, 12288};
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        reading.most = most[i];
        read_direct(path, fd, (os_blocks){.offset = 0, .size = 3 * 4096 + 7}, bytes);
        read_direct(path, fd, (os_blocks){.offset = 4096, .size = 3 * 4096 + 1000},
                    bytes);
    }
    reading.most = 0;
    close(fd);
    unlink(path);
}

/* ---- the store ---- */

/* S5, F1: operations come late, as on a stream, and read a slot that others were read into. */
static void a_slot_is_not_overwritten_while_it_is_read(void **state) {
    (void)state;
    fixture f;
    row_bytes all;
    open_fixture(&f, DTYPE_BF16);
    take_rows(&f, &all);
    move_apart(&f);
    open_devices(&f, DTYPE_BF16);
    enter(&f, needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2));
    for (int k = 0; k < 4 * BLOCKS; k++) {
        const int part = k % BLOCKS;
        store_pin(f.store, MODEL, part);
        for (int i = 0; i < f.table.n; i++)
            if (f.table.row[i].spec.part_of == part && all.data[i])
                apart_read_late(weight_get(&f.table, i)->data, all.data[i], all.n[i]);
        store_unpin(f.store, MODEL, part);
    }
    apart_read_all();
    assert_int_equal(apart.wrong, 0);
    assert_true(apart.n_reads > 4 * BLOCKS * 5);
    free_rows(&all);
    close_fixture(&f);
}

/* The n-th copy or wait of a whole stage fails: the stage fails, from whatever thread. */
static bool stage_survives(fixture *f, bool in_wait, int n, const row_bytes *all) {
    *(in_wait ? &apart.fail_wait : &apart.fail_copy) = n;
    open_devices(f, DTYPE_BF16);
    store_needs needs = needs_of(STORE_ALL_PARTS, ALL_BLOCKS, 2);
    needs.rounds = 3;
    if (store_enter(f->store, &needs) == OVI_OK)
        (void)pass_fails(f, 0, 3 * BLOCKS);
    store_leave(f->store);
    const bool ok = !device_failed(f->dev);
    apart.fail_copy = apart.fail_wait = 0;
    if (ok != ((in_wait ? apart.waits : apart.copies) < n))
        fail_msg("%s %d failed and nobody said so", in_wait ? "wait" : "copy", n);
    if (!ok) {
        assert_int_equal(f->host.err.status, OVI_DEVICE);
        expect_sentence(f->host.err.text, f, "did not reach the device");
        device_clear_failure(f->dev);
    }
    assert_int_equal(apart.pinned, 0);
    enter(f, needs); /* the store works on */
    for (int i = 0; i < 2 * BLOCKS; i++)
        use_part(f, all, i % BLOCKS);
    store_leave(f->store);
    return ok;
}

static void a_stage_fails_with_its_copies(void **state) {
    (void)state;
    fixture f;
    row_bytes all;
    open_fixture(&f, DTYPE_BF16);
    take_rows(&f, &all);
    for (int k = 0; k < 6; k++)
        for (int n = 1, more = 1; more; n++) {
            move_apart(&f);
            apart.refuse_mappings = k / 2 > 0;
            apart.refuse_pins = k / 2 > 1;
            more = !stage_survives(&f, k % 2, n, &all);
            assert_true(n < 1000 && (more || n > 3));
        }
    free_rows(&all);
    close_fixture(&f);
}

/* ---- room ---- */

#define MIB ((size_t)1 << 20)

/* One row of so many bytes, in a file of holes. */
static void open_hole(fixture *f, size_t bytes) {
    *f = (fixture){0};
    make_path(f->path);
    weight_table_init(&f->table, "model of holes", &f->host.err);
    weight_linear(&f->table, 0, DTYPE_BF16, (int64_t)bytes / 2048, 1024, "hole");
    char header[512];
    const int n =
        snprintf(header + 8, sizeof header - 8,
                 "{\"hole\":{\"dtype\":\"BF16\",\"shape\":[%zu,1024],\"data_offsets\":[0,"
                 "%zu]}}",
                 bytes / 2048, bytes);
    memset(header + 8 + n, ' ', sizeof header - 8 - (size_t)n);
    const uint64_t length = sizeof header - 8;
    memcpy(header, &length, 8);
    const int fd = open(f->path, O_WRONLY);
    assert_int_equal(write(fd, header, sizeof header), sizeof header);
    assert_int_equal(ftruncate(fd, (off_t)(sizeof header + bytes)), 0);
    close(fd);
    assert_int_equal(weights_open(&f->files, f->path, &f->host.err), OVI_OK);
    assert_int_equal(weight_table_bind(&f->table, f->files, &f->host.err), OVI_OK);
    f->backend = backend_ref;
    open_devices(f, DTYPE_BF16);
}

/* Rows are read when the stage waits for them: what a cancel leaves there does not stay. */
static void a_cancel_while_collected_rows_are_read_ends_the_stage(void **state) {
    (void)state;
    fixture f;
    open_hole(&f, 16 * MIB);
    move_apart(&f);
    apart.refuse_mappings = true;
    apart.make_no_copies = true;
    open_devices(&f, DTYPE_BF16);
    const store_needs needs = needs_of(1, 0, 0);
    for (int n = 1; n <= 16; n += 5) {
        memset(&reading, 0, sizeof reading);
        reading.stop = &f.host.cancel;
        reading.stop_at = n;
        assert_int_equal(store_enter(f.store, &needs), OVI_CANCELLED);
        assert_int_equal(store_resident(f.store), 0);
        atomic_store(&f.host.cancel, false);
        device_clear_failure(f.dev);
    }
    memset(&reading, 0, sizeof reading);
    enter(&f, needs);
    assert_int_equal(atomic_load(&reading.bytes), 16 * MIB);
    close_fixture(&f);
}

/* The most that is pinned while a row of so many bytes is brought in. */
static size_t pinned_within(size_t row, size_t room, bool evict) {
    fixture f;
    open_hole(&f, row);
    move_apart(&f);
    apart.make_no_copies = true;
    open_devices(&f, DTYPE_BF16);
    store_set_room(f.store, room);
    store_set_evict(f.store, evict);
    enter(&f, needs_of(1, 0, 0));
    assert_int_equal(apart.pinned, 0);
    store_leave(f.store);
    close_fixture(&f);
    return apart.most_pinned_bytes;
}

/* What is counted anyway are the ring's halves: store_needs_bytes has them in its staging. */
static void no_more_is_pinned_than_there_is_room_for(void **state) {
    (void)state;
    const size_t row = 1280 * MIB;
    assert_int_equal(pinned_within(row, SIZE_MAX / 2, false), row + 512);
    assert_int_equal(pinned_within(row, SIZE_MAX / 2, true), 1024 * MIB);
    assert_int_equal(pinned_within(row, 600 * MIB, true), 512 * MIB);
    assert_int_equal(pinned_within(row, 300 * MIB, true), 256 * MIB);
    assert_int_equal(pinned_within(16 * MIB, 200 * MIB, true), ring_bytes());
}

/* Two rounds of a row of 600 MiB; returns what was read in one, by the mapping excepted. */
static double read_in_a_round(size_t room, size_t *missed) {
    fixture f;
    open_hole(&f, 600 * MIB);
    move_apart(&f);
    apart.make_no_copies = true;
    open_devices(&f, DTYPE_BF16);
    const store_needs needs = needs_of(1, 1, 2);
    const store_bytes b = store_needs_bytes(f.store, &needs);
    assert_int_equal(b.stream_windows, 600 * MIB + 512);
    const upload_flow flow = {.pass = (size_t)b.stream_bytes_per_pass,
                              .windows = b.stream_windows,
                              .room = room,
                              .rounds = 2};
    uploader u;
    upload_init(&u, f.dev, 8, room);
    upload_begin_flow(&u, flow);
    atomic_bool stop = false;
    atomic_ullong n_read = 0;
    err e = {0};
    const loader l = {f.files, NULL, &stop, &n_read, false, &e};
    for (int round = 0; round < 2; round++) {
        atomic_store(&reading.bytes, 0);
        assert_true(upload_row(&u, &l, &f.table.row[0], DTYPE_BF16, &stop));
        assert_true(upload_finish(&u, &e));
    }
    assert_true(apart.most_pinned_bytes <= room + ring_bytes());
    assert_true(upload_release(&u, &e));
    close_fixture(&f);
    *missed = upload_missed(&flow);
    return (double)atomic_load(&reading.bytes);
}

static void what_a_plan_counts_as_missed_is_read(void **state) {
    (void)state;
    static const size_t room[] = {0, 256 * MIB, 600 * MIB, 700 * MIB};
    memset(&reading, 0, sizeof reading);
    for (size_t i = 0; i < sizeof room / sizeof *room; i++) {
        size_t missed;
        const double found = read_in_a_round(room[i], &missed);
        if (found < (double)missed || found > 1.01 * (double)missed + 8192)
            fail_msg("room %zu: expected %zu bytes read, found %.0f", room[i], missed,
                     found);
    }
}

/* Which way is taken where the mapping can be pinned, and what stays where it cannot. */
static void ways_depend_on_threads_rounds_and_room(void **state) {
    (void)state;
    const size_t gib = 1024 * MIB;
    const struct {
        int n_threads, rounds;
        size_t pass, room;
        bool once, direct, cache;
        int limit;
    } cases[] = {
        {7, 50, 20 * gib, 64 * gib, false, false, true, 256}, /* threads are missing */
        {7, 0, 20 * gib, 64 * gib, false, false, true, 256},
        {7, 6, 20 * gib, 64 * gib, false, false, false, 256}, /* pinning takes longer */
        {8, 50, 20 * gib, 64 * gib, false, false, false, 256},
        {8, 1, 20 * gib, 64 * gib, true, false, false, 256}, /* read once, by threads */
        {7, 1, 20 * gib, 64 * gib, false, false, false, 256},
        {8, 50, 20 * gib, 10 * gib, false, true, true,
         40}, /* a disk is slower than all */
        {7, 3, 20 * gib, 10 * gib, false, true, true, 40},
        {8, 1, 20 * gib, 10 * gib, true, true, false, 40},
        {8, 50, 20 * gib, 100 * MIB, false, true, true, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        uploader u;
        open_fixture(&f, DTYPE_BF16);
        move_apart(&f);
        apart.n_threads = cases[i].n_threads;
        open_devices(&f, DTYPE_BF16);
        upload_init(&u, f.dev, 8, cases[i].room);
        assert_int_equal(u.once, cases[i].n_threads >= 8);
        assert_int_equal(u.limit, cases[i].limit < 8 ? cases[i].limit : 8);
        upload_begin_flow(&u, (upload_flow){.pass = cases[i].pass,
                                            .rounds = cases[i].rounds,
                                            .room = cases[i].room});
        assert_int_equal(u.once, cases[i].once);
        assert_int_equal(u.limit, cases[i].limit);
        assert_int_equal(u.how.direct, cases[i].direct);
        assert_int_equal(u.how.cache_bytes > 0, cases[i].cache);
        assert_true(u.how.cache_bytes <= cases[i].room);
        close_fixture(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_arrive_by_every_way),
        cmocka_unit_test(a_failed_copy_is_said_whoever_waits),
        cmocka_unit_test(a_failed_copy_is_said_by_release),
        cmocka_unit_test(a_failed_copy_is_said_after_windows_for_packing),
        cmocka_unit_test(a_ring_reads_with_the_threads_that_there_are),
        cmocka_unit_test(a_read_that_fails_is_said),
        cmocka_unit_test(a_stop_while_threads_read),
        cmocka_unit_test(a_short_read_goes_on_at_a_block),
        cmocka_unit_test(a_slot_is_not_overwritten_while_it_is_read),
        cmocka_unit_test(a_stage_fails_with_its_copies),
        cmocka_unit_test(a_cancel_while_collected_rows_are_read_ends_the_stage),
        cmocka_unit_test(no_more_is_pinned_than_there_is_room_for),
        cmocka_unit_test(what_a_plan_counts_as_missed_is_read),
        cmocka_unit_test(ways_depend_on_threads_rounds_and_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
