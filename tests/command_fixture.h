/* command_fixture.h: the command as a process, in a test program's own folder. */
#ifndef COMMAND_FIXTURE_H
#define COMMAND_FIXTURE_H

#include <sys/wait.h>

#include "engine_fixture.h"

#define OVI OVI_BINARY_DIR "/ovi"

/* What a command said and how it ended. */
typedef struct outcome {
    int code;
    char out[16384], err[4096];
} outcome;

static inline void read_text(const char *name, char *text, size_t size) {
    FILE *f = fopen(in_root(name), "rb");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = '\0';
    fclose(f);
}

/* A line of the shell in that folder, where its micro/ are the models. */
static inline outcome run_line(const char *line) {
    char whole[2304];
    outcome o = {0};
    snprintf(whole, sizeof whole,
             "cd %s && export OVI_MODELS=%s/micro && (%s) >out.txt 2>err.txt", root, root,
             line);
    int status = system(whole);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    read_text("out.txt", o.out, sizeof o.out);
    read_text("err.txt", o.err, sizeof o.err);
    return o;
}
#endif
