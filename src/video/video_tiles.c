/* video_tiles.c: decoding in parts that change no value (spec/video-vae.md, section 8).
 *
 *   latents -> stages before the cut, whole frames           front [F', h', w', C], host
 *   for each tile, through all latent frames
 *     front, the window of the tile -> stages from the cut on -> pixels of the tile
 *
 * A convolution of 3x3 spreads a wrong border by one position, so stage k must see `halo`
 * positions around the tile, of its own input:
 *
 *   up 3    2 for each residual block, 1 for the head               7 in the published model
 *   up k    2 for each residual block, and what lets the doubled picture hold the halo of
 *           up k+1 after the 3x3 of the resampling                  up 2: 10, 1: 12, 0: 13
 *
 * After each stage its result is cropped to the halo of the next: the halo is wide only
 * where positions are few. At the border of the picture the window ends, and zeros stand
 * there as in the whole picture.
 *
 * The bits are those of decoding whole where a convolution's do not depend on the width of the
 * picture: ref always, cpu with AVX-512, cuda (one engine of cuDNN's for all sizes, or our kernels).
 * oneDNN's f32 products for AVX2 depend on the number of rows, which gives 1e-6 there.
 *
 * Blended (the last resort). Whole frames before the cut take as much as many small tiles
 * behind it. Parts of them that overlap, each decoded as if it were alone, take less, but the
 * attention sees a part only and borders are wrong by the halo: over the overlap one part fades
 * linearly into the next.
 *
 * Memory. The state of the convolutions is that of the window and lives as long as the tile.
 * On the host: front. Cut at up 0 it is small (4 MB a frame of 704x704); cut at up 1 it is
 * 8 times as large, and saves the weights of up 0 and its work in halos. */
#include <string.h>

#include "core/host.h"
#include "video/video_layers.h"

/* Latent positions beyond a blended part on each side: where neighbours fade. */
#define BLEND_OVERLAP 3

/* Positions that stage k must see beyond a tile. */
static int64_t halo_of(const video_vae *v, int k) {
    int64_t blocks = 2 * (int64_t)v->decoder.stage[k].n_res;
    return k == VIDEO_STAGES - 1 ? blocks + 1 : blocks + halo_of(v, k + 1) / 2 + 1;
}

static int64_t tile_border(const video_tiling *t, int axis, int64_t i) {
    int64_t whole = (axis == 0 ? t->size.height : t->size.width) << t->cut;
    return whole * i / (axis == 0 ? t->tiles_y : t->tiles_x);
}

/* What stage k sees of a tile along an axis: [0] from, [1] how much. Stage VIDEO_STAGES is
 * the result itself. */
static void span_of(const video_tiling *t, int k, int axis, int64_t tile,
                    int64_t span[2]) {
    int64_t whole = (axis == 0 ? t->size.height : t->size.width) << k;
    int64_t halo = halo_of(t->vae, k);
    int64_t lo = (tile_border(t, axis, tile) << (k - t->cut)) - halo;
    int64_t hi = (tile_border(t, axis, tile + 1) << (k - t->cut)) + halo;
    span[0] = lo > 0 ? lo : 0;
    span[1] = (hi < whole ? hi : whole) - span[0];
}

/* Shape of what waits on the host, of a clip of n latent frames. */
static shape front_shape(const video_tiling *t, int64_t n) {
    int64_t later = video_stage_frames(t->vae, t->cut, 1);
    return SHAPE(1 + (n - 1) * later, t->size.height << t->cut, t->size.width << t->cut,
                 t->vae->decoder.stage[t->cut].in);
}

size_t video_front_bytes(const video_tiling *t) {
    shape s = front_shape(t, t->size.frames);
    return (size_t)shape_count(&s) * dtype_size(device_compute(t->dev));
}

uint64_t video_front_parts(const video_tiling *t) {
    uint64_t up0 = t->cut > 0 ? 1u << VIDEO_VAE_DECODER_UP0 : 0;
    return 1u << VIDEO_VAE_DECODER_FRONT | up0;
}

uint64_t video_tiles_parts(const video_tiling *t) {
    return VIDEO_VAE_DECODER_PARTS & ~video_front_parts(t);
}

static bool check_tiling(const video_tiling *t) {
    if (t->cut < 0 || t->cut > 1)
        device_fail(t->dev, OVI_ARGUMENT,
                    "video decoder: expected a cut at up 0 or up 1, found %d", t->cut);
    else if (t->tiles_y < 1 || t->tiles_y > t->size.height << t->cut || t->tiles_x < 1 ||
             t->tiles_x > t->size.width << t->cut)
        device_fail(t->dev, OVI_ARGUMENT,
                    "video decoder: expected at least one and at most %lldx%lld tiles, "
                    "found %lldx%lld",
                    (long long)t->size.height << t->cut,
                    (long long)t->size.width << t->cut, (long long)t->tiles_y,
                    (long long)t->tiles_x);
    else if (!t->front && !device_is_null(t->dev))
        device_fail(t->dev, OVI_INTERNAL, "video decoder: no memory between its parts");
    return !device_failed(t->dev);
}

/* ---- the front, on whole frames ---- */

static void front_whole(const video_tiling *t, video_decoder *s) {
    device *d = t->dev;
    char *to = t->front;
    for (; s->pass.chunk < s->pass.n_chunks && !device_failed(d); s->pass.chunk++) {
        size_t mark = arena_mark(d);
        tensor x = video_stage_run(s, t->cut - 1);
        if (to && device_read(d, to, &x) == OVI_OK)
            to += tensor_bytes(&x);
        arena_reset(d, mark);
    }
}

/* ---- the front, blended from parts ---- */

/* Parts along an axis: as many as asked for, as long as three of them do not meet. */
static int64_t blend_count(const video_tiling *t, int axis) {
    int64_t size = axis == 0 ? t->size.height : t->size.width;
    int64_t asked = axis == 0 ? t->blend_y : t->blend_x,
            most = size / (2 * BLEND_OVERLAP);
    return most < 1 ? 1 : asked < most ? asked : most;
}

/* A part along an axis, in latent positions: its borders, and what it sees. */
typedef struct blend_span {
    int64_t lo, hi, from, to;
} blend_span;

static blend_span blend_span_of(const video_tiling *t, int axis, int64_t i) {
    int64_t size = axis == 0 ? t->size.height : t->size.width, n = blend_count(t, axis);
    blend_span s = {.lo = size * i / n, .hi = size * (i + 1) / n};
    s.from = s.lo > BLEND_OVERLAP ? s.lo - BLEND_OVERLAP : 0;
    s.to = s.hi + BLEND_OVERLAP < size ? s.hi + BLEND_OVERLAP : size;
    return s;
}

/* How much of position `at` (at the cut) comes from this part; over all parts the sum is 1. */
static float blend_weight(const video_tiling *t, int axis, const blend_span *s,
                          int64_t at) {
    const int64_t size = axis == 0 ? t->size.height : t->size.width;
    const float ramp = (float)(2 * BLEND_OVERLAP << t->cut), x = (float)at + 0.5f;
    const float in = s->lo > 0 ? (x - (float)(s->from << t->cut)) / ramp : 1;
    const float out = s->hi < size ? ((float)(s->to << t->cut) - x) / ramp : 1;
    const float least = in < out ? in : out;
    return least < 1 ? least : 1;
}

/* Room for the frames of a chunk of the largest part as they come, then two lines as f32. */
static size_t blend_frame_elements(const video_tiling *t) {
    int64_t n = video_stage_frames(t->vae, t->cut, 1) * t->vae->decoder.stage[t->cut].in;
    for (int axis = 0; axis < 2; axis++) {
        int64_t most = 0;
        for (int64_t i = 0; i < blend_count(t, axis); i++) {
            blend_span s = blend_span_of(t, axis, i);
            most = s.to - s.from > most ? s.to - s.from : most;
        }
        n *= most << t->cut;
    }
    return (size_t)n;
}

static size_t blend_line_elements(const video_tiling *t) {
    return (size_t)((t->size.width << t->cut) * t->vae->decoder.stage[t->cut].in);
}

size_t video_blend_bytes(const video_tiling *t) {
    return t->blend_y ? blend_frame_elements(t) * dtype_size(device_compute(t->dev)) +
                            2 * blend_line_elements(t) * sizeof(float)
                      : 0;
}

/* One chunk of a part: frames [n, h, w, C] from `frame` on, and room for two lines. */
typedef struct blend_chunk {
    const blend_span *span; /* [2] */
    int64_t frame;
    char *frames;
    float *lines;
} blend_chunk;

/* Adds the weighted frames of a chunk, of the shape and type of x, to the front. */
static void blend_in(const video_tiling *t, const blend_chunk *part, const tensor *x) {
    const blend_span *span = part->span;
    float *lines = part->lines;
    const shape all = front_shape(t, t->size.frames);
    const int64_t channels = all.dim[3], width = x->dim[2];
    const size_t n = (size_t)(width * channels), size = dtype_size(x->type);
    float *sum = lines + blend_line_elements(t);
    for (int64_t i = 0; i < x->dim[0] * x->dim[1]; i++) {
        const int64_t y = (span[0].from << t->cut) + i % x->dim[1];
        const int64_t frame = part->frame + i / x->dim[1];
        char *to =
            (char *)t->front +
            (size_t)(((frame * all.dim[1] + y) * all.dim[2] + (span[1].from << t->cut)) *
                     channels) *
                size;
        const float down = blend_weight(t, 0, &span[0], y);
        dtype_to_f32(lines, part->frames + (size_t)i * n * size, x->type, n);
        dtype_to_f32(sum, to, x->type, n);
        for (int64_t k = 0; k < width; k++) {
            const float w =
                down * blend_weight(t, 1, &span[1], (span[1].from << t->cut) + k);
            for (int64_t c = k * channels; c < (k + 1) * channels; c++)
                sum[c] += w * lines[c];
        }
        dtype_from_f32(to, x->type, sum, n);
    }
}
/* The latents of a part alone, and stages that see no more. */
static void narrow(const video_tiling *t, const blend_span span[2], video_decoder *s) {
    device *d = t->dev;
    const int64_t height = span[0].to - span[0].from, width = span[1].to - span[1].from;
    tensor seen = tensor_slice(s->latents, 1, span[0].from, height);
    seen = tensor_slice(seen, 2, span[1].from, width);
    s->latents = arena_keep(d, seen.type, tensor_shape(&seen));
    op_copy(d, &(copy_desc){.x = seen, .out = s->latents});
    for (int k = 0; k < VIDEO_STAGES; k++)
        s->window[k] = (video_window){0, 0, height << k, width << k};
}

static void front_of_part(const video_tiling *t, video_decoder s, const int64_t at[2],
                          char *room) {
    device *d = t->dev;
    const size_t kept = arena_keep_mark(d);
    const blend_span span[2] = {blend_span_of(t, 0, at[0]), blend_span_of(t, 1, at[1])};
    blend_chunk part = {.span = span, .frames = room};
    part.lines =
        (float *)(room + blend_frame_elements(t) * dtype_size(device_compute(d)));
    narrow(t, span, &s);
    for (; s.pass.chunk < s.pass.n_chunks && !device_failed(d); s.pass.chunk++) {
        size_t mark = arena_mark(d);
        tensor x = video_stage_run(&s, t->cut - 1);
        if (room && device_read(d, room, &x) == OVI_OK)
            blend_in(t, &part, &x);
        part.frame += x.dim[0];
        arena_reset(d, mark);
    }
    arena_keep_reset(d, kept);
}

static void front_blended(const video_tiling *t, const video_decoder *s) {
    device *d = t->dev;
    char *room = NULL;
    if (t->front) {
        room = mem_alloc(&device_host(d)->err, video_blend_bytes(t), 1);
        memset(t->front, 0, video_front_bytes(t));
    }
    for (int64_t y = 0; y < blend_count(t, 0); y++)
        for (int64_t x = 0; x < blend_count(t, 1) && !device_failed(d); x++)
            front_of_part(t, *s, (int64_t[]){y, x}, room);
    mem_free(room);
}

void video_decode_front(const video_tiling *t, const float *latents) {
    if (!check_tiling(t))
        return;
    size_t kept = arena_keep_mark(t->dev);
    video_decoder s;
    video_decode_begin(&s, t->vae, t->dev, latents, t->size);
    if (t->blend_y)
        front_blended(t, &s);
    else
        front_whole(t, &s);
    arena_keep_reset(t->dev, kept);
}

/* ---- tiles behind the cut ---- */

/* The window of a frame on the host: in one piece if it has whole lines, else one line after
 * the other. */
static void write_window(const video_tiling *t, const video_window *w, int64_t frame,
                         tensor to) {
    shape all = front_shape(t, t->size.frames);
    size_t pixel = (size_t)all.dim[3] * dtype_size(to.type);
    const int64_t lines = w->width == all.dim[2] ? w->height : 1;
    for (int64_t y = 0; y < w->height; y += lines) {
        tensor piece = tensor_slice(to, 0, y, lines);
        int64_t at = (frame * all.dim[1] + w->y + y) * all.dim[2] + w->x;
        device_write(t->dev, &piece, (const char *)t->front + (size_t)at * pixel);
    }
}

tensor video_front_push(const video_decoder *s) {
    const video_tiling *t = s->tiling;
    const video_window *w = &s->window[t->cut];
    int64_t chunk = s->pass.chunk, n = video_stage_frames(t->vae, t->cut, chunk);
    tensor x =
        arena_push(t->dev, device_compute(t->dev),
                   SHAPE(n, w->height, w->width, t->vae->decoder.stage[t->cut].in));
    for (int64_t i = 0; t->front && i < n; i++)
        write_window(t, w, chunk > 0 ? 1 + (chunk - 1) * n + i : 0,
                     tensor_index(x, 0, i));
    return x;
}

/* Without the halo of the last stage, and where that is. */
static video_tile crop(const video_tiling *t, const video_decoder *s, tensor pixels,
                       const int64_t tile[2]) {
    const video_window *w = &s->window[VIDEO_STAGES - 1];
    const int64_t seen[2] = {w->y, w->x}, patch = t->vae->cfg.patch_size;
    int64_t corner[2];
    for (int axis = 0; axis < 2; axis++) {
        int shift = VIDEO_STAGES - 1 - t->cut;
        int64_t lo = tile_border(t, axis, tile[axis]) << shift;
        int64_t hi = tile_border(t, axis, tile[axis] + 1) << shift;
        corner[axis] = lo * patch;
        pixels =
            tensor_slice(pixels, 1 + axis, (lo - seen[axis]) * patch, (hi - lo) * patch);
    }
    return (video_tile){.pixels = pixels, .y = corner[0], .x = corner[1]};
}

static void decode_tile(const video_tiling *t, const int64_t tile[2], video_tile_fn put,
                        void *user) {
    device *d = t->dev;
    size_t kept = arena_keep_mark(d);
    int64_t frame = 0;
    video_decoder s;
    video_decoder_begin(&s, t->vae, d, t->size);
    s.tiling = t;
    for (int k = t->cut; k < VIDEO_STAGES; k++) {
        int64_t y[2], x[2];
        span_of(t, k, 0, tile[0], y);
        span_of(t, k, 1, tile[1], x);
        s.window[k] = (video_window){y[0], x[0], y[1], x[1]};
    }
    for (int64_t i = 0; i < t->size.frames && !device_failed(d); i++) {
        size_t mark = arena_mark(d);
        tensor pixels = video_decode_next(&s);
        if (!device_failed(d)) {
            video_tile done = crop(t, &s, pixels, tile);
            done.frame = frame;
            frame += pixels.dim[0];
            put(user, &done);
        }
        arena_reset(d, mark);
    }
    arena_keep_reset(d, kept);
}

void video_decode_tiles(const video_tiling *t, video_tile_fn put, void *user) {
    if (!check_tiling(t))
        return;
    for (int64_t y = 0; y < t->tiles_y; y++)
        for (int64_t x = 0; x < t->tiles_x && !device_failed(t->dev); x++)
            decode_tile(t, (int64_t[]){y, x}, put, user);
}
