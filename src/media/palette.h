/* palette.h: 256 colours for a picture, by median cut. Inside media/ only. */
#ifndef OVI_MEDIA_PALETTE_H
#define OVI_MEDIA_PALETTE_H

#include <stddef.h>
#include <stdint.h>

#define PALETTE_COLOURS 256
#define PALETTE_CELLS   (1 << 15) /* colours of 5 bits a channel */

typedef struct palette {
    uint32_t colour[PALETTE_COLOURS]; /* 0xffRRGGBB */
    uint8_t nearest[PALETTE_CELLS];   /* of each cell, its colour */
    uint32_t count[PALETTE_CELLS];    /* pixels in each cell, */
    uint32_t sum[PALETTE_CELLS][3];   /* and the sums of their channels */
} palette;

/* Chooses the colours for n pixels of RGB. */
void palette_make(palette *p, const uint8_t *rgb, size_t n);
/* The pixel at (x, y) as a colour's number, with ordered dither. */
uint8_t palette_index(const palette *p, const uint8_t *rgb, int x, int y);
#endif
