/* batch.h: a list of clips to make (list.h), what has become of each (clip_status.h), and the
 * way to make those that are missing, stage by stage (cmd_batch.c). */
#ifndef OVI_CLI_BATCH_H
#define OVI_CLI_BATCH_H

#include "cli.h"
#include "clip_status.h"
#include "list.h"

#define BATCH_MAX_CLIPS 100000

typedef struct batch {
    cli_args *args;
    const char *path;   /* of the list, or of the configuration that names one clip */
    const char *prompt; /* of that clip; NULL: there is a list */
    list list;
    char *folder; /* owned: where clips go */
    char *ending; /* owned: of clips that a row does not name: ".mp4" */
    char *status_path;
    clip_status *clip; /* owned; in order of row and repeat */
    size_t n;
    size_t changed; /* clips made before of rows that have changed since */
    status_file status;
    ovi_engine *engine;
} batch;

/* What the command line asks for: a list, or the one clip of a configuration. */
void batch_init(batch *b, cli_args *args);
/* Reads the list and counts its clips. False: see message. */
bool batch_read(batch *b, ovi_message *message);
/* Makes the clips of a list that was read definite: names, digests, problems of rows, and what
 * the status file says of them. Needs the engine for default sizes. False: see message. */
bool batch_plan(batch *b, ovi_message *message);
void batch_release(batch *b);
/* The request of a clip: the command's, changed by its row, without the size where there is an
 * image, which decides. False: see message. Texts are borrowed from the list. */
bool batch_request(const batch *b, const clip_status *clip, ovi_request *request,
                   ovi_message *message);
/* The file of the clip's first frame, as named or beside the list; NULL: none. Owned. */
char *batch_image(const batch *b, const clip_status *clip);
/* Where its latents lie between diffusion and decoding, and whether they stay. Owned. */
char *batch_latents(const batch *b, const clip_status *clip, bool *kept);
#endif
