/* memory_svg.h: device memory over time as a picture: time on x, bytes on y, stacked by model,
 * arena and workspace, with plan and budget as lines and the stages named. */
#ifndef OVI_MEMORY_SVG_H
#define OVI_MEMORY_SVG_H

#include "core/buf.h"

/* Of the layers the first are the models, by number. The arena is two: operations take their
 * workspace from it. */
enum { MEMORY_ACTIVATIONS = 5, MEMORY_WORKSPACE, MEMORY_LAYERS };

typedef struct memory_point {
    double t;          /* seconds */
    const char *stage; /* borrowed */
    size_t bytes[MEMORY_LAYERS];
} memory_point;

typedef struct memory_picture {
    const char *title;      /* borrowed */
    const char *ending;     /* borrowed; why it ends early, NULL: it does not */
    size_t budget, planned; /* 0: none */
    memory_point *point;    /* owned, in order of time */
    int n, capacity;
    bool failed; /* a point found no memory */
} memory_picture;

void memory_picture_add(memory_picture *p, const memory_point *point);
/* False: there was not memory for all points. */
bool memory_picture_draw(const memory_picture *p, buf *out) OVI_MUST_CHECK;
void memory_picture_release(memory_picture *p);
#endif
