/* torchzip_write.h: writes torch checkpoints (zip of stored records and a pickle, as
 * torch.save 1.13 does) in constant memory: a flat dictionary of dense tensors, or one
 * nested in another under `root`.
 *
 * The steps are those of safetensors_write.h: open, declare all, begin, put the data of
 * every tensor in the order of declaration, commit. A failure latches on err. */
#ifndef OVI_WEIGHTS_TORCHZIP_WRITE_H
#define OVI_WEIGHTS_TORCHZIP_WRITE_H

#include "backend/tensor.h"
#include "core/buf.h"
#include "weights/weights.h"

typedef struct torchzip_writer {
    os_writer out;
    err *err;        /* borrowed */
    buf pickle;      /* data.pkl while declaring */
    buf directory;   /* central directory, grows with every record */
    uint64_t offset; /* bytes written so far */
    uint64_t *bytes; /* owned: size of each tensor's record */
    int n_declared, n_finished, capacity;
    uint64_t n_records;
    bool nested;
    char record_name[32]; /* the record being written */
    uint64_t record_start, record_size, record_put;
    uint32_t record_crc;
} torchzip_writer;

/* root: "generator" for best_netG.pt; NULL for a flat dictionary. */
ovi_status torchzip_writer_open(torchzip_writer *w, const char *path, const char *root,
                                err *e) OVI_MUST_CHECK;
void torchzip_writer_declare(torchzip_writer *w, const char *name, dtype type,
                             shape dims);
void torchzip_writer_begin(torchzip_writer *w);
void torchzip_writer_put(torchzip_writer *w, const void *bytes, size_t n);
ovi_status torchzip_writer_commit(torchzip_writer *w) OVI_MUST_CHECK;
void torchzip_writer_abort(torchzip_writer *w);
#endif
