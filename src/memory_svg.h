/* memory_svg.h: device memory over time as a picture: time on x, bytes on y, stacked by model
 * and arena, with plan and budget as lines and the stages named below. */
#ifndef OVI_MEMORY_SVG_H
#define OVI_MEMORY_SVG_H

#include "core/buf.h"

#define MEMORY_LAYERS 6 /* five models and the arena */

typedef struct memory_point {
    double t;          /* seconds */
    const char *stage; /* borrowed */
    size_t bytes[MEMORY_LAYERS];
} memory_point;

typedef struct memory_picture {
    const char *title;      /* borrowed */
    size_t budget, planned; /* 0: none */
    memory_point *point;    /* owned, in order of time */
    int n, capacity;
} memory_picture;

void memory_picture_add(memory_picture *p, const memory_point *point);
void memory_picture_draw(const memory_picture *p, buf *out);
void memory_picture_release(memory_picture *p);
#endif
