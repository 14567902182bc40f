/* inspect.h: what a path is and holds, for people and programs to read.
 *
 * A file, an index of shards, or a folder (searched through its sub-folders; a set of
 * shards counts once, under its index). What is refused inside a folder is listed with
 * its error. */
#ifndef OVI_WEIGHTS_INSPECT_H
#define OVI_WEIGHTS_INSPECT_H

#include "core/err.h"

/* JSON text, freed with mem_free; NULL with e set if path itself cannot be read:
 *   {"path": .., "files": [{"path", "kind", "container", "tensor_count", "total_bytes",
 *     "metadata_keys": [..], "shards": [..],
 *     "tensors": [{"name", "dtype", "shape": [..], "bytes"}], "error" (if refused)}]} */
char *weights_inspect_json(const char *path, err *e) OVI_MUST_CHECK;
#endif
