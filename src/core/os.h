/* os.h: files, mappings, anonymous regions, clock. Everything that asks the system. */
#ifndef OVI_CORE_OS_H
#define OVI_CORE_OS_H

#include "core/err.h"

/* A read-only shared mapping of a whole file. */
typedef struct os_map {
    const uint8_t *data; /* owned mapping; NULL for an empty file */
    size_t size;
    int64_t modified_ns; /* time of the last change when it was opened */
    int fd;              /* kept open for pread */
    int watch;           /* of bus.h */
} os_map;

ovi_status os_map_file(os_map *m, const char *path, err *e) OVI_MUST_CHECK;
void os_map_release(os_map *m);
/* Tells the system that these pages of the mapping are no longer needed by us: they leave
 * our resident set (the page cache keeps them). A page that is shared with a neighbour goes
 * too; the neighbour's next read brings it back. */
void os_map_forget(const os_map *m, size_t offset, size_t size);
/* Asks the system to drop these pages from the page cache as well. */
void os_map_evict(const os_map *m, size_t offset, size_t size);
/* Why the open file is no longer the one that was mapped, in words; NULL: it still is. */
const char *os_map_changed(const os_map *m);
/* Copies bytes of the file with pread, where a mapping would raise a signal if the file
 * shrank. NULL, or in words why dst does not hold what was mapped. From any thread. */
const char *os_map_read(const os_map *m, size_t offset, size_t size, void *dst);

/* A descriptor of the mapped file that reads past the page cache; -1: not offered. And such a
 * read: offset is a multiple of 4096, whole blocks are read, dst has room for the last. */
int os_map_open_direct(const os_map *m);
typedef struct os_blocks {
    int fd;
    size_t offset, size;
} os_blocks;
const char *os_map_read_direct(const os_map *m, os_blocks at, void *dst);

/* Is path a regular file that can be opened? For libraries that open it themselves. */
ovi_status os_check_file(const char *path, err *e) OVI_MUST_CHECK;
/* Reads a whole file of at most max_bytes into owned, NUL-terminated memory. */
ovi_status os_read_file(const char *path, size_t max_bytes, char **data, size_t *size,
                        err *e) OVI_MUST_CHECK;

/* Output that appears under its name only when complete: bytes go to a temporary file in
 * the same folder, os_commit syncs and renames it, os_abort removes it. Failure latches. */
typedef struct os_writer {
    int fd;
    char *path, *temp;  /* owned */
    bool keep_existing; /* a file that has the name by then stays: committing fails */
    err *err;           /* borrowed */
} os_writer;
ovi_status os_writer_open(os_writer *w, const char *path, err *e) OVI_MUST_CHECK;
/* The same on a copy of an open descriptor, a pipe or the like, which keeps what was put:
 * without a name of its own (name is for messages), without patching. */
ovi_status os_writer_stream(os_writer *w, int fd, const char *name,
                            err *e) OVI_MUST_CHECK;
void os_writer_put(os_writer *w, const void *bytes, size_t n);
/* Overwrites bytes that were put before, for sizes known only at the end. */
void os_writer_patch(os_writer *w, size_t offset, const void *bytes, size_t n);
ovi_status os_writer_commit(os_writer *w) OVI_MUST_CHECK;
void os_writer_abort(os_writer *w); /* also after commit, or on a zeroed writer: no-op */

/* Fewer page faults for large memory that is not yet touched, where the system has huge pages. */
void os_advise_huge(void *p, size_t size);
/* Anonymous pages straight from the system, zeroed, 64-byte (in fact page) aligned; freeing
 * gives them back at once. Size 0 gives NULL without error. */
void *os_region_alloc(size_t size, err *e) OVI_MUST_CHECK;
void os_region_free(void *p, size_t size);
/* Memory that was freed but is held back for later allocations goes to the system as well;
 * that of libraries too. Takes milliseconds. */
void os_give_back(void);
/* Regions cost whole pages. */
#define PAGE_BYTES 4096
static inline size_t page_round(size_t bytes) {
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}
/* Bytes that the system has mapped for a region: whole pages, as its own table of mappings
 * says; where there is no such table, by that rule. */
size_t os_region_cost(const void *p, size_t size);

bool os_is_file(const char *path);
bool os_is_dir(const char *path);
bool os_exists(const char *path); /* whatever it is, also a link to nothing */
/* Makes the folder and those above it, where they are missing. What cannot be made shows when
 * something is written there. */
void os_make_folders(const char *path);
/* dir + "/" + name in owned memory, NULL (error set) on no memory. */
char *os_join(const char *dir, const char *name, err *e) OVI_MUST_CHECK;
double os_now(void); /* monotonic seconds */
/* The folder of the running program's file; false if it cannot be told. */
bool os_program_folder(char *folder, size_t size);
int os_cpu_count(void);         /* processors this process may use */
size_t os_resident_bytes(void); /* resident set of this process, 0 if unknown */
size_t os_resident_peak(void);  /* largest resident set so far */
size_t os_resident_own(void);   /* of the resident set: anonymous pages */
size_t os_resident_files(void); /* and pages of mapped files, which the system may take */
size_t os_free_memory(void);    /* what the system could still give us, limits included */
size_t os_total_memory(void);
void os_cpu_name(char *text, size_t size); /* "processor" where nobody says */
size_t os_used_by_others(void); /* what is neither free nor anonymous memory of ours */
#endif
