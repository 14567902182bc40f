/* process_fixture.h: the command as a process that runs beside the test, to be watched and killed. */
#ifndef PROCESS_FIXTURE_H
#define PROCESS_FIXTURE_H

#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "engine_fixture.h"

#define OVI OVI_BINARY_DIR "/ovi"

static inline bool exists(const char *name) {
    return access(in_root(name), F_OK) == 0;
}

typedef struct child {
    pid_t pid;
    FILE *out; /* its standard output and error */
    char line[1024];
} child;

#define MAX_ARGS 40

/* argv ends with NULL. */
static inline child start(const char *const *argv) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    child c = {.pid = fork()};
    if (c.pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_true(c.pid > 0);
    close(ends[1]);
    c.out = fdopen(ends[0], "r");
    return c;
}

static inline bool wait_for_line(child *c, const char *words) {
    while (fgets(c->line, sizeof c->line, c->out))
        if (strstr(c->line, words))
            return true;
    return false;
}

/* The exit code, or 128 + the signal that ended it; the last line stays in c->line. */
static inline int finish(child *c) {
    int status;
    while (fgets(c->line, sizeof c->line, c->out))
        ;
    fclose(c->out);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static inline int kill_and_finish(child *c) {
    kill(c->pid, SIGKILL);
    return finish(c);
}

/* Words of a command line, from several lists. */
typedef struct words {
    const char *word[MAX_ARGS];
    int n;
} words;

static inline void add(words *w, const char *word) {
    assert_true(w->n < MAX_ARGS - 1);
    w->word[w->n++] = word;
}

static inline void add_option(words *w, const char *name, const char *value) {
    add(w, name);
    add(w, value);
}
#endif
