/* clip_status.c: the status file of a list (clip_status.h). */
#include "clip_status.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "say.h"

static const char *const state_names[] = {"pending", "started", "done", "failed"};

const char *clip_state_name(clip_state state) {
    return state_names[state];
}

static bool tell(ovi_message *message, const char *path, const char *what) {
    snprintf(message->text, sizeof message->text, "%s: %s", path, what);
    return false;
}

/* ---- reading ---- */

static bool parse_state(const char *name, clip_state *state) {
    for (int i = 0; i < 4; i++) {
        if (strcmp(state_names[i], name) == 0) {
            *state = (clip_state)i;
            return true;
        }
    }
    return false;
}

/* The clip of a row and repeat; NULL: the list has no such clip now. */
static clip_status *find(clip_status *clips, size_t n, int row, int repeat) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const clip_status *c = &clips[mid];
        if (c->row < row || (c->row == row && c->repeat < repeat))
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && clips[low].row == row && clips[low].repeat == repeat ? &clips[low]
                                                                           : NULL;
}

static void take_over(clip_status *c, clip_state state, const char *error,
                      double seconds) {
    c->told = state == CLIP_DONE || state == CLIP_FAILED;
    if (c->unfit)
        return;
    free(c->error);
    c->state = state;
    c->error = *error ? cli_copy(error) : NULL;
    c->seconds = seconds;
}

/* One line of the file; false: it is no such line. */
static bool take_line(clip_status *clips, size_t n, const char *line, size_t *changed) {
    int row, repeat;
    const char *digest_text, *state_text, *error;
    double seconds;
    clip_state state;
    json_t *object = json_loads(line, 0, NULL);
    bool ok = json_unpack(object, "{s:i, s:i, s:s, s:s, s:F, s:s}", "row", &row, "repeat",
                          &repeat, "digest", &digest_text, "state", &state_text,
                          "seconds", &seconds, "error", &error) == 0 &&
              parse_state(state_text, &state);
    clip_status *c = ok ? find(clips, n, row, repeat) : NULL;
    if (c) {
        if (c->digest == strtoull(digest_text, NULL, 16))
            take_over(c, state, error, seconds);
        else
            *changed += state == CLIP_DONE;
    }
    json_decref(object);
    return ok;
}

bool status_load(const char *path, clip_status *clips, size_t n, size_t *changed,
                 ovi_message *message) {
    *changed = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return errno == ENOENT || tell(message, path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    bool ok = true;
    for (int number = 1; ok && (length = getline(&line, &room, f)) > 0; number++) {
        bool cut_short = line[length - 1] != '\n';
        if (!cut_short && !take_line(clips, n, line, changed)) {
            snprintf(message->text, sizeof message->text,
                     "%s: line %d: expected the status of a clip; move the file away to "
                     "begin anew",
                     path, number);
            ok = false;
        }
    }
    free(line);
    fclose(f);
    return ok;
}

/* ---- writing ---- */

/* The line of a clip, with its end; owned. */
static char *line_of(const clip_status *c) {
    char digest[20];
    snprintf(digest, sizeof digest, "%016" PRIx64, c->digest);
    json_t *object = json_pack("{s:i, s:i, s:s, s:s, s:o, s:f, s:o}", "row", c->row,
                               "repeat", c->repeat, "digest", digest, "state",
                               state_names[c->state], "output", cli_json_text(c->output),
                               "seconds", c->seconds, "error", cli_json_text(c->error));
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(object);
    char *line = text ? cli_text("%s\n", text) : NULL;
    free(text);
    return line;
}

static bool put(int fd, const char *text) {
    size_t n = strlen(text);
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0) {
            text += done;
            n -= (size_t)done;
        }
    }
    return true;
}

static bool put_clip(int fd, const clip_status *c) {
    char *line = line_of(c);
    if (!line)
        errno = ENOMEM;
    bool ok = line && put(fd, line);
    free(line);
    return ok;
}

/* All clips under a temporary name, synced, renamed. */
static bool write_all(const char *path, const clip_status *clips, size_t n,
                      ovi_message *message) {
    char *temp = cli_text("%s.new", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0;
    for (size_t i = 0; ok && i < n; i++)
        ok = put_clip(fd, &clips[i]);
    ok = ok && fsync(fd) == 0;
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    ok = ok && rename(temp, path) == 0;
    if (!ok) {
        tell(message, path, strerror(errno));
        if (fd >= 0)
            unlink(temp);
    }
    free(temp);
    return ok;
}

bool status_begin(status_file *f, const char *path, const clip_status *clips, size_t n,
                  ovi_message *message) {
    *f = (status_file){.fd = -1};
    if (!write_all(path, clips, n, message))
        return false;
    f->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (f->fd < 0)
        return tell(message, path, strerror(errno));
    f->path = cli_copy(path);
    return true;
}

bool status_append(status_file *f, const clip_status *clip, ovi_message *message) {
    if (put_clip(f->fd, clip) && fdatasync(f->fd) == 0)
        return true;
    return tell(message, f->path, strerror(errno));
}

bool status_end(status_file *f, const clip_status *clips, size_t n,
                ovi_message *message) {
    bool ok = true;
    if (f->fd >= 0) {
        close(f->fd);
        ok = write_all(f->path, clips, n, message);
    }
    free(f->path);
    *f = (status_file){.fd = -1};
    return ok;
}
