/* cuda_dnn_kept.c: plans of cuDNN on disk, one file each: compiling an attention takes up to a
 * second, reading it back a few milliseconds.
 *
 *   DIR/0123456789abcdef    hash of the problem
 *   [kept_head | plan as cuDNN writes it down]
 *
 * DIR names device, versions of cuBLASLt and cuDNN. A file that is damaged, or of another
 * problem, is said and made anew; what cannot be written is made again the next time. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_dnn_graph.h"
#include "core/crc32.h"
#include "core/os.h"

#define MAGIC     "ovi cudnn plan 4"
#define MOST_TEXT ((size_t)16 << 20) /* usual are 60 to 300 kB */

typedef struct kept_head {
    char magic[16]; /* without the final zero */
    dnn_problem problem;
    char words[DNN_PLAN_WORDS]; /* which engine, with which settings */
    uint64_t size;
    uint32_t crc, zero; /* of what follows */
} kept_head;

/* FNV-1a. */
static uint64_t hash_of(const dnn_problem *p) {
    const unsigned char *bytes = (const unsigned char *)p;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *p; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}

static bool path_of(const char *folder, const dnn_problem *p, char *path, size_t size) {
    const int n =
        snprintf(path, size, "%s/%016llx", folder, (unsigned long long)hash_of(p));
    return folder[0] && n > 0 && (size_t)n < size;
}

/* The plan's text in data, NULL if it is not sound. */
static const char *text_in(const char *data, size_t size, const dnn_problem *p,
                           kept_head *head) {
    if (size < sizeof *head)
        return NULL;
    memcpy(head, data, sizeof *head);
    return memcmp(head->magic, MAGIC, sizeof head->magic) == 0 &&
                   memcmp(&head->problem, p, sizeof *p) == 0 &&
                   size == sizeof *head + head->size &&
                   memchr(head->words, 0, sizeof head->words) &&
                   crc32_update(0, data + sizeof *head, head->size) == head->crc
               ? data + sizeof *head
               : NULL;
}

cudnnBackendDescriptor_t dnn_kept_find(const dnn_kept *k, dnn_maker *m,
                                       const dnn_problem *p, dnn_found *found) {
    char path[1024], *data = NULL;
    size_t size = 0;
    kept_head head;
    err e = {0};
    if (!path_of(k->folder, p, path, sizeof path) || !os_is_file(path))
        return NULL;
    const int mark = m->bag->n;
    const char *text = NULL;
    cudnnBackendDescriptor_t plan = NULL;
    if (os_read_file(path, MOST_TEXT, &data, &size, &e) == OVI_OK)
        text = text_in(data, size, p, &head);
    if (text)
        plan = dnn_plan_from_text(m, k->target, text, (size_t)head.size, p->workspace,
                                  &found->bytes);
    if (plan) {
        memcpy(found->words, head.words, sizeof found->words);
    } else {
        dnn_bag_cut(m->lib, m->bag, mark);
        m->status = CUDNN_STATUS_SUCCESS;
        if (k->host)
            host_log(k->host, OVI_LOG_WARN,
                     "%s: not a plan of this cuDNN for this device: made anew", path);
    }
    mem_free(data);
    return plan;
}

void dnn_kept_add(const dnn_kept *k, const dnn_library *lib, const dnn_problem *p,
                  cudnnBackendDescriptor_t plan, const char *words) {
    char path[1024];
    size_t size = 0;
    os_writer w;
    err e = {0};
    if (!path_of(k->folder, p, path, sizeof path))
        return;
    os_make_folders(k->folder);
    char *text = dnn_plan_text(lib, plan, &size, &e);
    kept_head head = {.magic = MAGIC, .problem = *p, .size = size};
    snprintf(head.words, sizeof head.words, "%s", words);
    head.crc = text ? crc32_update(0, text, size) : 0;
    if (text && size <= MOST_TEXT && os_writer_open(&w, path, &e) == OVI_OK) {
        os_writer_put(&w, &head, sizeof head);
        os_writer_put(&w, text, size);
        (void)(os_writer_commit(&w) == OVI_OK);
    }
    mem_free(text);
}
