/* image.c: first-frame preprocessing without any library. */
#include "media/media.h"

void media_image_release(media_image *m) {
    mem_free(m->rgb);
    *m = (media_image){0};
}
