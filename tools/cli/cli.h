/* cli.h: the pieces of the ovi command. It is written on ovi.h alone. */
#ifndef OVI_CLI_H
#define OVI_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "official_config.h"
#include "ovi.h"
#include "say.h"

#define CLI_MAX_WORDS   2
#define CLI_MAX_OPTIONS 64 /* of the library */
#define CLI_MAX_REPEATS 1000
#define CLI_MAX_ROUNDS  100

/* Exit codes of the command. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,      /* something could not be made */
    EXIT_USAGE = 2,       /* the command line or the configuration is wrong */
    EXIT_NOTICES = 3,     /* ovi lint has found something */
    EXIT_CANCELLED = 130, /* Ctrl-C or SIGTERM */
};

/* Everything the command line said. */
typedef struct cli_args {
    ovi_settings settings;
    ovi_request request;
    ovi_checkpoint_request checkpoint;
    const char *image;        /* file of the first frame */
    const char *resume;       /* file of an interrupted run */
    const char *svg;          /* picture of a plan */
    cli_config config;        /* of a file, see official_config.h */
    const char *format;       /* ending of clips without a name: "mp4" */
    int repeat;               /* clips of each row, with seeds that follow each other */
    int group;                /* most clips of a group; 0: as memory allows */
    const char *bench_preset; /* random models that are measured; NULL: those at hand */
    const char *prompt;       /* of the clip that is measured; NULL: one of its own */
    const char *save;         /* file of the device's speed */
    int rounds;               /* of a measurement */
    bool force, retry_failed, dry_run;
    const char
        *given[CLI_MAX_OPTIONS]; /* values by the option's index; NULL: not given */
    bool json, quiet, help;
    int n_words;
    const char *word[CLI_MAX_WORDS]; /* positional arguments */
} cli_args;

typedef struct cli_command {
    const char *name;
    const char *words;   /* "PROMPT": names of the positional arguments */
    int n_words;         /* how many are needed */
    const char *summary; /* one line; NULL: a command that is not for people */
    const char *stages;  /* options of these stages apply, space separated; not "-name" */
    const char *own;     /* options of the command itself that apply, space separated */
    int (*run)(cli_args *args);
} cli_command;

extern const cli_command cli_commands[]; /* ends with a NULL name */
const cli_command *cli_find_command(const char *name);

/* Reads argv into args; false after a message (usage error). */
bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args);
void cli_args_release(cli_args *args);
/* Index of an option of the library by its name; -1: none. */
int cli_option_index(const char *name);
/* Sets it, and notes that it was given. False: see message. */
bool cli_set_option(cli_args *args, int index, const char *value, ovi_message *message);
/* An option as a command takes it. */
typedef struct cli_option {
    const char *name, *metavar; /* metavar NULL: a switch */
    const char *help, *default_value, *choices;
} cli_option;
/* Every option of a command, those of the library first. */
typedef void (*cli_option_fn)(void *user, const cli_option *option);
void cli_each_option(const cli_command *command, cli_option_fn fn, void *user);
/* Does this option of the library change what is in a clip? */
bool cli_shapes_clip(const char *name);
void cli_help(const cli_command *command);
void cli_usage(void);

/* $OVI_CUDA_LIBS (else Python's folders of the user), and the user's folder for what can be made
 * again, where none are given. */
void cli_find_places(ovi_settings *settings);

typedef enum cli_purpose {
    CLI_TO_RUN,
    CLI_TO_PLAN, /* with the files of the models, on a device that need not be here */
    CLI_TO_PLAN_BY_SIZES /* without files either */
} cli_purpose;
/* The engine of this command: settings completed (models directory), opened, Ctrl-C tied to
 * ovi_cancel. NULL after a message. */
ovi_engine *cli_open(cli_args *args, cli_purpose purpose);
/* Are there models to open: named, in $OVI_MODELS or in ./ckpts? */
bool cli_models_are_there(cli_args *args);
void cli_close(ovi_engine *engine);
/* May a file be written here? False after a message: it is there, and --force is not given.
 * NULL is no file. */
bool cli_may_write(const cli_args *args, const char *path);
/* The file that holds the sound of an output which has it beside itself; NULL: none. Owned. */
char *cli_sound_beside(const char *output);
/* "frames.latents.safetensors" of "frames/"; owned. */
char *cli_beside(const char *output, const char *ending);
/* Has there been Ctrl-C or SIGTERM? Also between calls of the library. */
bool cli_interrupted(void);
/* Log lines that follow are about this row of a list, and each is printed once; 0: no row. */
void cli_log_row(int row);
/* Prints why the last call failed and gives the exit code for it. */
int cli_failure(const ovi_engine *engine, ovi_status status);

/* One line of JSON on standard output; the event is released. */
void cli_print_event(json_t *event);
/* Sinks that show progress on a terminal, or as JSON events where these are wanted. */
ovi_sinks cli_sinks(const cli_args *args);
/* Removes the progress line, so that what follows stands alone. */
void cli_progress_clear(void);
void cli_progress(void *user, const ovi_progress *progress);

/* Bytes as "12.34 GB", "5.6 MB" or "789 B" (powers of ten) in a buffer of the caller. */
const char *cli_bytes(char text[32], size_t bytes);

int cli_generate(cli_args *args);
int cli_batch(cli_args *args);
int cli_lint(cli_args *args);
int cli_docs(cli_args *args);
int cli_encode(cli_args *args);
int cli_decode(cli_args *args);
int cli_plan(cli_args *args);
int cli_devices(cli_args *args);
int cli_bench(cli_args *args);
int cli_replay(cli_args *args);
int cli_inspect(cli_args *args);
int cli_make_checkpoint(cli_args *args);
#endif
