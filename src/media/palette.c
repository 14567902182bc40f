/* palette.c: the cube of colours is cut 255 times. A cut goes through the box in which most
 * pixels are spread widest, across its longest side, so that half of its pixels lie on each
 * side. A box becomes the mean of its pixels. */
#include "media/palette.h"

#include <string.h>

enum { SIDE = 32, SHIFT = 3 };

typedef struct box {
    int low[3], high[3]; /* cells, both included */
    uint32_t n;          /* pixels */
    int axis, spread;    /* the longest side that pixels take up, less one cell */
} box;

static int cell_of(int r, int g, int b) {
    return (r << 10) | (g << 5) | b;
}

static void count_pixels(palette *p, const uint8_t *rgb, size_t n) {
    memset(p->count, 0, sizeof p->count);
    memset(p->sum, 0, sizeof p->sum);
    for (size_t i = 0; i < n; i++, rgb += 3) {
        int cell = cell_of(rgb[0] >> SHIFT, rgb[1] >> SHIFT, rgb[2] >> SHIFT);
        p->count[cell]++;
        for (int k = 0; k < 3; k++)
            p->sum[cell][k] += rgb[k];
    }
}

/* Pixels in every slice of the box along each axis. */
static void slices(const palette *p, const box *b, uint32_t slice[3][SIDE]) {
    memset(slice, 0, 3 * sizeof slice[0]);
    for (int r = b->low[0]; r <= b->high[0]; r++) {
        for (int g = b->low[1]; g <= b->high[1]; g++) {
            for (int k = b->low[2]; k <= b->high[2]; k++) {
                uint32_t n = p->count[cell_of(r, g, k)];
                slice[0][r] += n;
                slice[1][g] += n;
                slice[2][k] += n;
            }
        }
    }
}

static void measure(const palette *p, box *b) {
    uint32_t slice[3][SIDE];
    slices(p, b, slice);
    b->n = 0;
    b->spread = 0;
    for (int i = b->low[0]; i <= b->high[0]; i++)
        b->n += slice[0][i];
    for (int axis = 0; axis < 3; axis++) {
        int first = -1, last = -1;
        for (int i = 0; i < SIDE; i++) {
            if (slice[axis][i] == 0)
                continue;
            first = first < 0 ? i : first;
            last = i;
        }
        if (last - first > b->spread) {
            b->spread = last - first;
            b->axis = axis;
        }
    }
}

/* The upper part of b moves to *upper; b->spread is not 0. */
static void cut(const palette *p, box *b, box *upper) {
    uint32_t slice[3][SIDE], below = 0;
    int axis = b->axis, at = b->low[axis];
    slices(p, b, slice);
    while (at < b->high[axis] - 1 && below + slice[axis][at] < (b->n + 1) / 2)
        below += slice[axis][at++];
    /* Neither part may be empty. */
    if (below + slice[axis][at] == b->n && below > 0)
        at--;
    *upper = *b;
    b->high[axis] = at;
    upper->low[axis] = at + 1;
    measure(p, b);
    measure(p, upper);
}

static void fill(palette *p, const box *b, int index) {
    uint64_t sum[3] = {0}, n = b->n ? b->n : 1;
    for (int r = b->low[0]; r <= b->high[0]; r++) {
        for (int g = b->low[1]; g <= b->high[1]; g++) {
            for (int k = b->low[2]; k <= b->high[2]; k++) {
                int cell = cell_of(r, g, k);
                p->nearest[cell] = (uint8_t)index;
                for (int c = 0; c < 3; c++)
                    sum[c] += p->sum[cell][c];
            }
        }
    }
    p->colour[index] = 0xff000000u | (uint32_t)((sum[0] + n / 2) / n) << 16 |
                       (uint32_t)((sum[1] + n / 2) / n) << 8 |
                       (uint32_t)((sum[2] + n / 2) / n);
}

static uint64_t weight(const box *b) {
    return (uint64_t)b->n * (uint64_t)b->spread;
}

void palette_make(palette *p, const uint8_t *rgb, size_t n) {
    box boxes[PALETTE_COLOURS] = {{.high = {SIDE - 1, SIDE - 1, SIDE - 1}}};
    int n_boxes = 1;
    count_pixels(p, rgb, n);
    measure(p, &boxes[0]);
    while (n_boxes < PALETTE_COLOURS) {
        int most = 0;
        for (int i = 1; i < n_boxes; i++)
            most = weight(&boxes[i]) > weight(&boxes[most]) ? i : most;
        if (boxes[most].spread == 0)
            break;
        cut(p, &boxes[most], &boxes[n_boxes++]);
    }
    memset(p->colour, 0, sizeof p->colour);
    for (int i = 0; i < n_boxes; i++)
        fill(p, &boxes[i], i);
}

uint8_t palette_index(const palette *p, const uint8_t *rgb, int x, int y) {
    static const int8_t bayer[4][4] = {
        {-4, 0, -3, 1}, {2, -2, 3, -1}, {-2, 2, -4, 0}, {3, -1, 2, -3}};
    int dithered[3];
    for (int k = 0; k < 3; k++) {
        int v = rgb[k] + bayer[y & 3][x & 3];
        dithered[k] = (v < 0 ? 0 : v > 255 ? 255 : v) >> SHIFT;
    }
    int cell = cell_of(dithered[0], dithered[1], dithered[2]);
    if (p->count[cell] ==
        0) /* no pixel is of that colour: its box means nothing for it */
        cell = cell_of(rgb[0] >> SHIFT, rgb[1] >> SHIFT, rgb[2] >> SHIFT);
    return p->nearest[cell];
}
