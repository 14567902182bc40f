#include "core/os.h"

#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/bus.h"
#include "core/cgroup.h"
#include "core/fault.h"
#include "core/host.h"

static int64_t modified_ns(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* Opens a regular file for reading; -1 with the error set otherwise. O_NONBLOCK: opening a pipe
 * must not wait for its writer. */
static int open_regular(const char *path, struct stat *st, err *e) {
    int fd =
        fault_strikes(FAULT_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st) != 0)
        err_set(e, OVI_IO, "%s: cannot open: %s", path, strerror(errno));
    else if (!S_ISREG(st->st_mode))
        err_set(e, OVI_IO, "%s: expected a file, found %s", path,
                S_ISDIR(st->st_mode) ? "a folder" : "something else");
    else
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

ovi_status os_map_file(os_map *m, const char *path, err *e) {
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd < 0)
        return e->status;
    size_t size = (size_t)st.st_size;
    void *data = size > 0 ? MAP_FAILED : NULL;
    if (size > 0) {
        if (!fault_strikes(FAULT_MAP))
            data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            close(fd);
            return err_set(e, OVI_IO, "%s: cannot map %zu bytes: %s", path, size,
                           strerror(errno));
        }
    }
    *m = (os_map){.data = data,
                  .size = size,
                  .modified_ns = modified_ns(&st),
                  .fd = fd,
                  .watch = data ? bus_watch(data, size, fd) : 0};
    return OVI_OK;
}

void os_map_release(os_map *m) {
    bus_unwatch(m->watch);
    if (m->data) {
        munmap((void *)(uintptr_t)m->data, m->size);
        close(m->fd);
    } else if (m->fd > 0) {
        close(m->fd);
    }
    *m = (os_map){0};
}

/* Widens [offset, offset + size) to whole pages. */
static size_t whole_pages(size_t *offset, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t to = (*offset + size + page - 1) / page * page;
    *offset = *offset / page * page;
    return to - *offset;
}

void os_map_forget(const os_map *m, size_t offset, size_t size) {
    if (size == 0)
        return;
    size = whole_pages(&offset, size);
    madvise((void *)(uintptr_t)(m->data + offset), size, MADV_DONTNEED);
}

void os_map_evict(const os_map *m, size_t offset, size_t size) {
    if (size == 0) /* to posix_fadvise 0 means up to the end */
        return;
    size = whole_pages(&offset, size);
    (void)posix_fadvise(m->fd, (off_t)offset, (off_t)size, POSIX_FADV_DONTNEED);
}

const char *os_map_changed(const os_map *m) {
    struct stat st;
    if (fstat(m->fd, &st) != 0)
        return strerror(errno);
    if ((size_t)st.st_size < m->size)
        return "the file shrank since it was opened";
    if (bus_lost(m->watch))
        return "a part of the file could not be read while it was in use";
    if ((size_t)st.st_size > m->size || modified_ns(&st) != m->modified_ns)
        return "the file changed since it was opened";
    return NULL;
}

/* At least at.size bytes, in whole blocks where the file has them. A read that stops early goes
 * on from the block in which it stopped. */
static const char *read_blocks(const os_map *m, os_blocks at, size_t block, void *dst) {
    const size_t most = (at.size + block - 1) / block * block;
    for (size_t done = 0; done < at.size;) {
        ssize_t got = -1;
        if (!fault_strikes(FAULT_READ))
            got =
                pread(at.fd, (char *)dst + done, most - done, (off_t)(at.offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return strerror(errno);
        size_t next = done + (size_t)got;
        if (next < at.size)
            next -= next % block;
        if (next == done) {
            const char *changed = os_map_changed(m);
            return changed ? changed : "a read ended within a block of the file";
        }
        done = next;
    }
    return os_map_changed(m);
}

const char *os_map_read(const os_map *m, size_t offset, size_t size, void *dst) {
    return read_blocks(m, (os_blocks){m->fd, offset, size}, 1, dst);
}

void os_make_folders(const char *path) {
    char part[4096];
    const size_t n = strlen(path);
    if (n >= sizeof part)
        return;
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        (void)mkdir(part, 0777); /* it may be there */
    }
}

int os_map_open_direct(const os_map *m) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", m->fd);
    return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

const char *os_map_read_direct(const os_map *m, os_blocks at, void *dst) {
    return read_blocks(m, at, PAGE_BYTES, dst);
}

ovi_status os_check_file(const char *path, err *e) {
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd >= 0)
        close(fd);
    return e->status;
}

ovi_status os_read_file(const char *path, size_t max_bytes, char **data, size_t *size,
                        err *e) {
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd < 0)
        return e->status;
    size_t n = (size_t)st.st_size;
    char *bytes = NULL;
    if (n > max_bytes) {
        err_set(e, OVI_FORMAT, "%s: expected at most %zu bytes, found %zu", path,
                max_bytes, n);
        goto out;
    }
    bytes = mem_alloc(e, n + 1, 1);
    for (size_t done = 0; bytes && done < n;) {
        ssize_t got = fault_strikes(FAULT_READ) ? -1 : read(fd, bytes + done, n - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            err_set(e, OVI_IO, "%s: read failed at byte %zu of %zu: %s", path, done, n,
                    got ? strerror(errno) : "the file shrank");
            mem_free(bytes);
            bytes = NULL;
            break;
        }
        done += (size_t)got;
    }
out:
    close(fd);
    if (!bytes)
        return e->status;
    *data = bytes;
    *size = n;
    return OVI_OK;
}

ovi_status os_writer_open(os_writer *w, const char *path, err *e) {
    *w = (os_writer){.fd = -1, .err = e};
    size_t n = strlen(path);
    w->path = mem_strdup(e, path);
    w->temp = mem_alloc(e, n + 16, 1);
    if (!w->path || !w->temp)
        goto fail;
    if (n == 0 || os_is_dir(path)) {
        err_set(e, OVI_IO, "%s: cannot write: %s", n ? path : "output",
                n ? "it is a folder" : "expected a file name, found an empty one");
        goto fail;
    }
    snprintf(w->temp, n + 16, "%s.XXXXXX", path);
    w->fd = fault_strikes(FAULT_OPEN) ? -1 : mkstemp(w->temp);
    if (w->fd < 0) {
        err_set(e, OVI_IO, "%s: cannot write: %s", path, strerror(errno));
        goto fail;
    }
    mode_t mask = umask(0);
    umask(mask);
    (void)fchmod(w->fd, 0666 & ~mask);
    return OVI_OK;
fail:
    os_writer_abort(w);
    return e->status;
}

ovi_status os_writer_stream(os_writer *w, int fd, const char *name, err *e) {
    *w = (os_writer){.fd = -1, .err = e, .path = mem_strdup(e, name)};
    if (!w->path)
        return e->status;
    w->fd = fault_strikes(FAULT_OPEN) ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (w->fd < 0) {
        err_set(e, OVI_IO, "%s: cannot write: %s", name, strerror(errno));
        os_writer_abort(w);
    }
    return e->status;
}

void os_writer_put(os_writer *w, const void *bytes, size_t n) {
    for (size_t done = 0; done < n && !err_failed(w->err);) {
        ssize_t put = -1;
        if (!fault_strikes(FAULT_WRITE))
            put = write(w->fd, (const char *)bytes + done, n - done);
        if (put < 0 && errno != EINTR)
            err_set(w->err, OVI_IO, "%s: write failed: %s", w->path, strerror(errno));
        else if (put > 0)
            done += (size_t)put;
    }
}

void os_writer_patch(os_writer *w, size_t offset, const void *bytes, size_t n) {
    if (!err_failed(w->err) && (fault_strikes(FAULT_WRITE) ||
                                pwrite(w->fd, bytes, n, (off_t)offset) != (ssize_t)n))
        err_set(w->err, OVI_IO, "%s: write failed: %s", w->path, strerror(errno));
}

/* Gives the file its name, at once; without renames that keep what is there, by a second name
 * where there are those. */
static int take_name(const os_writer *w) {
    if (!w->keep_existing)
        return rename(w->temp, w->path);
    if (renameat2(AT_FDCWD, w->temp, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (link(w->temp, w->path) == 0)
        return unlink(w->temp);
    if (errno == EEXIST || os_exists(w->path)) {
        errno = EEXIST;
        return -1;
    }
    return rename(w->temp, w->path);
}

ovi_status os_writer_commit(os_writer *w) {
    if (!err_failed(w->err) && w->temp &&
        (fault_strikes(FAULT_SYNC) || fsync(w->fd) != 0 || fault_strikes(FAULT_RENAME) ||
         take_name(w) != 0))
        err_set(w->err, OVI_IO, "%s: cannot finish: %s", w->path,
                errno == EEXIST ? "a file of this name has come meanwhile, which stays"
                                : strerror(errno));
    ovi_status status = w->err->status;
    if (status == OVI_OK) {
        mem_free(w->temp);
        w->temp = NULL;
    }
    os_writer_abort(w);
    return status;
}

void os_writer_abort(os_writer *w) {
    if (w->fd >= 0 && w->path) {
        close(w->fd);
        if (w->temp)
            unlink(w->temp);
    }
    mem_free(w->path);
    mem_free(w->temp);
    *w = (os_writer){.fd = -1};
}

#define HUGE_BYTES ((size_t)8 << 20)

void os_advise_huge(void *p, size_t size) {
    const size_t before = page_round((uintptr_t)p) - (uintptr_t)p;
    if (size >= HUGE_BYTES) /* whole pages of it */
        (void)madvise((char *)p + before, (size - before) / PAGE_BYTES * PAGE_BYTES,
                      MADV_HUGEPAGE);
}

void *os_region_alloc(size_t size, err *e) {
    if (size == 0)
        return NULL;
    void *p = MAP_FAILED;
    if (!fault_strikes(FAULT_MAP))
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        err_set(e, OVI_MEMORY, "out of memory: a region of %zu bytes: %s", size,
                strerror(errno));
        return NULL;
    }
    os_advise_huge(p, size); /* products miss less often as well */
    return p;
}

void os_region_free(void *p, size_t size) {
    if (p)
        munmap(p, size);
}

size_t os_region_cost(const void *p, size_t size) {
    uintptr_t begin = (uintptr_t)p / PAGE_BYTES * PAGE_BYTES,
              end = begin + page_round((uintptr_t)p - begin + size);
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f)
        return end - begin;
    size_t cost = 0;
    char line[512]; /* the rest of a longer one is no range */
    while (fgets(line, sizeof line, f)) {
        char *dash;
        uintptr_t from = (uintptr_t)strtoull(line, &dash, 16), to = from;
        if (*dash == '-')
            to = (uintptr_t)strtoull(dash + 1, NULL, 16);
        from = from > begin ? from : begin;
        to = to < end ? to : end;
        cost += to > from ? to - from : 0;
    }
    fclose(f);
    return cost;
}

void os_give_back(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

bool os_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool os_exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

bool os_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *os_join(const char *dir, const char *name, err *e) {
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = mem_alloc(e, n, 1);
    if (path)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

double os_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool os_program_folder(char *folder, size_t size) {
    ssize_t n = readlink("/proc/self/exe", folder, size);
    if (n <= 0 || (size_t)n >= size)
        return false;
    folder[n] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    return slash != NULL;
}

int os_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    return 1;
}

/* A "Name: 123 kB" line of a /proc file, in bytes. */
static size_t proc_field(const char *path, const char *name) {
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    char line[256];
    size_t n = strlen(name), bytes = 0;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            bytes = (size_t)strtoull(line + n + 1, NULL, 10) * 1024;
            break;
        }
    }
    fclose(f);
    return bytes;
}

size_t os_resident_bytes(void) {
    return proc_field("/proc/self/status", "VmRSS");
}

size_t os_resident_peak(void) {
    return proc_field("/proc/self/status", "VmHWM");
}

size_t os_resident_own(void) {
    return proc_field("/proc/self/status", "RssAnon");
}

size_t os_resident_files(void) {
    return proc_field("/proc/self/status", "RssFile");
}

size_t os_total_memory(void) {
    return proc_field("/proc/meminfo", "MemTotal");
}

void os_cpu_name(char *text, size_t size) {
    snprintf(text, size, "processor");
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon || colon[1] != ' ')
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(text, size, "%.*s", (int)size - 1, colon + 2);
        break;
    }
    if (f)
        fclose(f);
}

size_t os_free_memory(void) {
    const size_t free = proc_field("/proc/meminfo", "MemAvailable"),
                 left = cgroup_left("");
    return left < free ? left : free;
}

size_t os_used_by_others(void) {
    size_t all = proc_field("/proc/meminfo", "MemTotal"),
           rest = proc_field("/proc/meminfo", "MemAvailable") + os_resident_own();
    return all > rest ? all - rest : 0;
}
