/* sizes.c: size rules, all in f64, halves rounded to even (nearbyint in the default
 * mode), as Python's round does. The rules for a request and for an image differ on
 * purpose: 480x640 at 518,400 gives 640x832 requested and 608x832 from an image. */
#include "text/sizes.h"

#include <math.h>

static int snap(double length, int multiple) {
    double n = nearbyint(length / multiple) * multiple;
    return n < multiple ? multiple : (int)n;
}

frame_size size_for_request(int height, int width, int64_t area) {
    double scale = sqrt((double)area / ((double)height * width));
    return (frame_size){snap(nearbyint(height * scale), 32),
                        snap(nearbyint(width * scale), 32)};
}

frame_size size_for_image_model(int height, int width) {
    double scale = sqrt(1024.0 * 1024.0 / ((double)height * width));
    return (frame_size){snap(height * scale, 16), snap(width * scale, 16)};
}

/* How far a candidate is off: in area first, in shape second. */
typedef struct misfit {
    double area, ratio;
} misfit;

static misfit misfit_of(frame_size s, double area, double ratio) {
    return (misfit){fabs((double)s.height * s.width - area),
                    fabs((double)s.width / s.height - ratio)};
}

static void keep_better(frame_size *best, frame_size next, double area, double ratio) {
    misfit a = misfit_of(*best, area, ratio), b = misfit_of(next, area, ratio);
    if (b.area < a.area || (b.area == a.area && b.ratio < a.ratio))
        *best = next;
}

frame_size size_for_image(int height, int width, int64_t area) {
    double ratio = (double)width / height, target = (double)area;
    double units = fmax(1, floor(target / 1024)); /* 32 x 32 squares */
    double rows = fmax(1, nearbyint(sqrt(units / ratio)));
    frame_size best = {0, 0};
    for (int delta = -3; delta <= 3; delta++) {
        double p = fmax(1, rows + delta), q = fmax(1, nearbyint(p * ratio));
        frame_size next = {32 * (int)p, 32 * (int)q};
        if (best.height == 0)
            best = next;
        keep_better(&best, next, target, ratio);
    }
    double scale = sqrt(target / ((double)height * width));
    keep_better(&best, (frame_size){snap(height * scale, 32), snap(width * scale, 32)},
                target, ratio);
    return best;
}
