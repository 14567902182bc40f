/* read_file.h: files of text, and others that are read from end to end. */
#ifndef OVI_CLI_READ_FILE_H
#define OVI_CLI_READ_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "ovi.h"

/* Opens a regular file: folders have nothing to read, pipes and devices may never end. NULL: see
 * why, without the file's name. */
FILE *open_file(const char *path, const char **why);
/* At most max_bytes, followed by a NUL that is not counted; NULL: see message. Owned. */
char *read_file(const char *path, size_t max_bytes, size_t *n, ovi_message *message);
#endif
