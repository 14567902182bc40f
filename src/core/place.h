/* place.h: which file a name means, whatever way leads to it. */
#ifndef OVI_CORE_PLACE_H
#define OVI_CORE_PLACE_H

#include <stdbool.h>

#include "core/err.h"

/* Would writing `name` replace the file `other`? They lie in one folder under one name, or so does
 * what `other` is a link to. Names in a folder that is not there are no files. */
bool place_same(const char *name, const char *other);
/* Does `name`, or what it is a link to, lie in this folder itself? */
bool place_within(const char *name, const char *folder);
/* "<name><ending>", for a folder beside it. Owned. */
char *place_beside(const char *name, const char *ending, err *e);
#endif
