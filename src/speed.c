/* speed.c: how fast a device is: measured, and kept in a file.
 *
 * Three rates, all through what the models use themselves:
 *  - a square product in the type that the big models compute in,
 *  - a copy from device memory to device memory, its bytes counted as they are of every
 *    operation: read and written,
 *  - host memory on its way to the device, pinned where the backend pins.
 * Sizes double until one call takes long enough to be timed or the room ends; the least time
 * of several rounds stands. Values are random: a GPU computes zeros faster than it can
 * sustain with anything else. */
#include "speed.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/os.h"
#include "engine.h"

#define ROOM        ((size_t)1 << 30)  /* most device bytes for operands */
#define LEAST_ROOM  ((size_t)16 << 20) /* less says nothing */
#define SPARE       ((size_t)64 << 20) /* of the arena: workspace */
#define BLOCK       ((size_t)1 << 20)  /* random values that repeat */
#define LINK_BYTES  ((size_t)64 << 20)
#define ROUNDS      5
#define LONG_CALL_S 0.02 /* one call that can be timed alone */
#define LEAST_SIDE  256
#define MOST_SIDE   8192

/* What is timed. desc: an operation's descriptor. */
typedef void (*work_fn)(device *d, const void *desc);

static void run_linear(device *d, const void *desc) {
    op_linear(d, desc);
}

static void run_copy(device *d, const void *desc) {
    op_copy(d, desc);
}

/* Seconds of n calls, to their end. */
static double seconds_of(device *d, work_fn run, const void *desc, int n) {
    if (host_cancelled(device_host(d)))
        device_fail(d, OVI_CANCELLED, "cancelled");
    const double start = os_now();
    for (int i = 0; i < n; i++)
        run(d, desc);
    (void)(device_sync(d) == OVI_OK);
    return os_now() - start;
}

/* Least seconds of a call, after one that prepares. */
static double least_seconds(device *d, work_fn run, const void *desc) {
    (void)seconds_of(d, run, desc, 1);
    double least = seconds_of(d, run, desc, 1);
    const int n = least < LONG_CALL_S / 64 ? 64 : (int)ceil(LONG_CALL_S / least);
    for (int i = 0; i < ROUNDS; i++) {
        double seconds = seconds_of(d, run, desc, n) / n;
        least = seconds < least ? seconds : least;
    }
    return least;
}

/* ---- operands ---- */

/* Values in (-1, 1), as t's type holds them. */
static void fill_block(void *block, dtype type) {
    uint64_t state = 1;
    for (size_t i = 0; i < BLOCK; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        float value = (float)(int32_t)(state >> 32) / 2147483648.0f;
        dtype_from_f32((char *)block + i * dtype_size(type), type, &value, 1);
    }
}

static void scatter(device *d, tensor t, const void *block) {
    t = tensor_reshape(t, SHAPE(tensor_count(&t)));
    for (int64_t at = 0; at < t.dim[0]; at += (int64_t)BLOCK) {
        int64_t n = t.dim[0] - at < (int64_t)BLOCK ? t.dim[0] - at : (int64_t)BLOCK;
        tensor part = tensor_slice(t, 0, at, n);
        device_write(d, &part, block);
    }
}

/* ---- the three rates ---- */

/* Every call counts the same arithmetic and traffic; their rates come from its own time. */
static double product_rate(device *d, int64_t side, const void *block, double *seconds) {
    const dtype type = device_compute(d);
    const size_t mark = arena_mark(d);
    linear_desc desc = {.x = arena_push(d, type, SHAPE(side, side)),
                        .w = arena_push(d, type, SHAPE(side, side)),
                        .out = arena_push(d, type, SHAPE(side, side))};
    scatter(d, desc.x, block);
    scatter(d, desc.w, block);
    *seconds = least_seconds(d, run_linear, &desc);
    arena_reset(d, mark);
    return 2.0 * (double)side * (double)side * (double)side / *seconds;
}

static double best_product(device *d, size_t room, const void *block) {
    double best = 0, seconds = 0;
    for (int64_t side = LEAST_SIDE; side <= MOST_SIDE; side *= 2) {
        size_t bytes = 3 * (size_t)(side * side) * dtype_size(device_compute(d));
        if (bytes > room || device_failed(d) || seconds > LONG_CALL_S)
            break;
        double rate = product_rate(d, side, block, &seconds);
        best = rate > best ? rate : best;
    }
    return best;
}

/* The whole room, so that no cache holds it. */
static double copy_rate(device *d, size_t room, const void *block) {
    const dtype type = device_compute(d);
    const int64_t n = (int64_t)(room / 2 / dtype_size(type));
    const size_t mark = arena_mark(d);
    copy_desc desc = {.x = arena_push(d, type, SHAPE(n)),
                      .out = arena_push(d, type, SHAPE(n))};
    scatter(d, desc.x, block);
    double seconds = least_seconds(d, run_copy, &desc);
    double bytes = 2.0 * (double)tensor_bytes(&desc.x);
    arena_reset(d, mark);
    return bytes / seconds;
}

/* Host memory and where it goes. */
typedef struct link_work {
    tensor to;
    const void *from;
} link_work;

static void run_link(device *d, const void *desc) {
    const link_work *w = desc;
    if (device_backend(d)->host_memory) {
        device_write(d, &w->to, w->from);
        return;
    }
    device_upload_begin(d, -1);
    device_upload(d, w->to.data, w->from, tensor_bytes(&w->to));
    const char *problem = device_upload_wait(d);
    if (problem)
        device_fail(d, OVI_DEVICE, "speed: %s", problem);
}

static double link_rate(device *d, size_t room) {
    err *e = &device_host(d)->err;
    const size_t bytes = room < LINK_BYTES ? room : LINK_BYTES;
    void *from = os_region_alloc(bytes, e);
    if (!from)
        return 0;
    memset(from, 1, bytes); /* pages of our own, not the one of zeros */
    const size_t mark = arena_mark(d);
    link_work w = {arena_push(d, DTYPE_F32, SHAPE((int64_t)(bytes / 4))), from};
    const bool pinned =
        !device_backend(d)->host_memory && device_pin_host(d, from, bytes, false);
    double seconds = least_seconds(d, run_link, &w);
    if (pinned)
        device_unpin_host(d, from);
    arena_reset(d, mark);
    os_region_free(from, bytes);
    return (double)bytes / seconds;
}

static void take_name(const device *d, ovi_device_speed *speed) {
    const backend *b = device_backend(d);
    const device_options *o = device_get_options(d);
    device_info info = {0};
    const bool named = b->describe && b->describe(o, o->index, &info) && info.name[0];
    const char *name = named ? info.name : b->name;
    memcpy(speed->name, name, strnlen(name, sizeof speed->name - 1));
}

static size_t smaller(size_t bytes, size_t bound) {
    return bound && bound < bytes ? bound : bytes;
}

static size_t room_of(const ovi_engine *engine) {
    const memory_budget *b = &engine->budget;
    size_t room = smaller(device_free_memory(engine->dev) / 2, b->device);
    if (b->unified)
        room = smaller(room, b->ram);
    return smaller(room > SPARE ? room - SPARE : 0, ROOM);
}

static void measure(device *d, size_t room, ovi_device_speed *speed) {
    err *e = &device_host(d)->err;
    void *block = mem_alloc(e, BLOCK, sizeof(float));
    if (!block)
        return;
    fill_block(block, device_compute(d));
    device_arena_open(d, room + SPARE);
    speed->flops = best_product(d, room, block);
    speed->bytes = copy_rate(d, room, block);
    speed->link_bytes = link_rate(d, room);
    device_arena_close(d);
    mem_free(block);
}

ovi_status ovi_measure_device(ovi_engine *engine, ovi_device_speed *speed) {
    ovi_device_speed found = {0};
    err *e = &engine->host.err;
    if (call_reset(engine) != OVI_OK)
        return e->status;
    if (device_is_null(engine->dev))
        return err_set(e, OVI_UNSUPPORTED, "speed: the device is not here");
    const size_t room = room_of(engine);
    if (room < LEAST_ROOM)
        return err_set(e, OVI_MEMORY,
                       "speed: expected room for %zu bytes on the device, found %zu",
                       LEAST_ROOM, room);
    take_name(engine->dev, &found);
    measure(engine->dev, room, &found);
    os_give_back();
    if (!err_failed(e))
        *speed = found;
    return e->status;
}

/* ---- the file ---- */

/* A rate that can be divided by. */
static bool take_rate(const json_t *root, const char *key, double *rate) {
    *rate = json_number_value(json_object_get(root, key));
    return *rate > 0 && isfinite(*rate);
}

static ovi_status take_speed(ovi_device_speed *speed, const json_t *root,
                             const char *path, err *e) {
    static const char expected[] =
        "an object with format 1, a name, and flops, bytes and link_bytes above 0";
    ovi_device_speed found = {0};
    const char *name = json_string_value(json_object_get(root, "name"));
    if (json_integer_value(json_object_get(root, "format")) != 1 || !name || !*name ||
        !take_rate(root, "flops", &found.flops) ||
        !take_rate(root, "bytes", &found.bytes) ||
        !take_rate(root, "link_bytes", &found.link_bytes))
        return err_set(e, OVI_FORMAT, "%s: expected %s, as ovi bench --save writes", path,
                       expected);
    memcpy(found.name, name, strnlen(name, sizeof found.name - 1));
    *speed = found;
    return OVI_OK;
}

ovi_status speed_read(ovi_device_speed *speed, const char *path, err *e) {
    char *text = NULL;
    size_t size = 0;
    json_error_t where;
    if (os_read_file(path, 1 << 16, &text, &size, e) != OVI_OK)
        return e->status;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        err_set(e, OVI_FORMAT, "%s: line %d: %s", path, where.line, where.text);
    else
        (void)(take_speed(speed, root, path, e) == OVI_OK);
    json_decref(root);
    mem_free(text);
    return e->status;
}

ovi_status speed_write(const ovi_device_speed *speed, const char *path, err *e) {
    os_writer w;
    json_t *root =
        json_pack("{s:i, s:s, s:f, s:f, s:f}", "format", 1, "name", speed->name, "flops",
                  speed->flops, "bytes", speed->bytes, "link_bytes", speed->link_bytes);
    char *text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    if (!text)
        return err_set(e, OVI_MEMORY, "%s: out of host memory", path);
    if (os_writer_open(&w, path, e) == OVI_OK) {
        os_writer_put(&w, text, strlen(text));
        os_writer_put(&w, "\n", 1);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    free(text);
    return e->status;
}
