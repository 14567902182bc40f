/* clip_status.h: what has become of every clip of a list, in a file beside it.
 *
 * LIST.status.jsonl has one JSON object a line:
 *   {"row": 3, "repeat": 0, "digest": "9c..", "state": "done", "output": "out/x.mp4",
 *    "seconds": 1.5, "error": ""}
 * state is pending, started, done or failed. Every change is a new line at the end, synced
 * to the disk: the last line of a clip holds, and a line that a kill cut short is none. At the
 * start and at the end of a run the file is written anew, a line for each clip in the
 * order of the list, and takes the place of the old one at once. */
#ifndef OVI_CLI_CLIP_STATUS_H
#define OVI_CLI_CLIP_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ovi.h"

typedef enum clip_state {
    CLIP_PENDING,
    CLIP_STARTED, /* a run had it in hand: its files are used again */
    CLIP_DONE,
    CLIP_FAILED
} clip_state;

typedef struct clip_status {
    int row, repeat; /* row from 1 */
    uint64_t digest; /* of all that shapes the clip */
    clip_state state;
    char *output; /* owned; NULL: the row has no usable name */
    char *error;  /* owned; NULL: none */
    double seconds;
    bool told;  /* the status is from a run before */
    bool unfit; /* the row itself is wrong: nothing is tried */
} clip_status;

typedef struct status_file {
    char *path; /* owned */
    int fd;     /* -1: closed */
} status_file;

const char *clip_state_name(clip_state state);

/* Takes state, error and seconds of every clip from the file where row, repeat and digest
 * agree; clips are in order of row and repeat. One that has failed already keeps its error. A
 * clip that the file knows as done under another digest is counted in *changed. No file:
 * nothing. False: see message. */
bool status_load(const char *path, clip_status *clips, size_t n, size_t *changed,
                 ovi_message *message);
/* Writes all clips and opens the file for status_append. */
bool status_begin(status_file *f, const char *path, const clip_status *clips, size_t n,
                  ovi_message *message);
bool status_append(status_file *f, const clip_status *clip, ovi_message *message);
/* Writes all clips once more and closes. */
bool status_end(status_file *f, const clip_status *clips, size_t n, ovi_message *message);
#endif
