/* read_file.h: a whole file of text. */
#ifndef OVI_CLI_READ_FILE_H
#define OVI_CLI_READ_FILE_H

#include <stddef.h>

#include "ovi.h"

/* At most max_bytes, followed by a NUL that is not counted; NULL: see message. Owned. */
char *read_file(const char *path, size_t max_bytes, size_t *n, ovi_message *message);
#endif
