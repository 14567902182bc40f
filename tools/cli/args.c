/* args.c: command lines. Options of the library come from its own table; the few that only
 * the command knows stand here. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "cli.h"
#include "names.h"

/* ---- options of the command itself ---- */

typedef struct own_option {
    const char *key;     /* in cli_command.own */
    const char *name;    /* on the command line */
    const char *metavar; /* NULL: a switch */
    const char *help;
    const char *(*set)(cli_args *args, const char *value); /* NULL or what was expected */
} own_option;

static const char *set_image(cli_args *args, const char *value) {
    args->image = value;
    return NULL;
}

static const char *set_svg(cli_args *args, const char *value) {
    const size_t n = strlen(value);
    args->svg = value;
    return n > 4 && strcmp(value + n - 4, ".svg") == 0 ? NULL
                                                       : "a name that ends in .svg";
}

static const char *set_resume(cli_args *args, const char *value) {
    args->resume = value;
    return NULL;
}

static const char *set_json(cli_args *args, const char *value) {
    (void)value;
    args->json = true;
    return NULL;
}

static const char *set_quiet(cli_args *args, const char *value) {
    (void)value;
    args->quiet = true;
    args->settings.log_level = OVI_LOG_ERROR;
    return NULL;
}

static const char *set_log_level(cli_args *args, const char *value) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], value) == 0) {
            args->settings.log_level = (ovi_log_level)i;
            return NULL;
        }
    }
    return "error, warn, info or debug";
}

static const char *set_preset(cli_args *args, const char *value) {
    args->checkpoint.preset = value;
    return NULL;
}

static bool whole_number(const char *value, unsigned long long most,
                         unsigned long long *number) {
    char *end;
    *number = strtoull(value, &end, 10);
    return value[0] >= '0' && value[0] <= '9' && *end == '\0' && *number <= most;
}

static const char *set_checkpoint_seed(cli_args *args, const char *value) {
    unsigned long long n;
    if (!whole_number(value, UINT64_MAX, &n))
        return "a whole number";
    args->checkpoint.seed = n;
    return NULL;
}

static const char *set_checkpoint_threads(cli_args *args, const char *value) {
    unsigned long long n;
    if (!whole_number(value, 1024, &n))
        return "a whole number up to 1024";
    args->checkpoint.threads = (int)n;
    return NULL;
}

static const char *set_config(cli_args *args, const char *value) {
    args->config.path = value; /* read before all other options: take_config */
    return NULL;
}

static const char *set_format(cli_args *args, const char *value) {
    args->format = value + (value[0] == '.');
    return NULL;
}

static const char *set_repeat(cli_args *args, const char *value) {
    unsigned long long n;
    if (!whole_number(value, 1000, &n) || n == 0)
        return "a whole number from 1 to 1000";
    args->repeat = (int)n;
    return NULL;
}

static const char *set_bench_preset(cli_args *args, const char *value) {
    args->bench_preset = value;
    return NULL;
}

static const char *set_prompt(cli_args *args, const char *value) {
    args->prompt = value;
    return NULL;
}

static const char *set_save(cli_args *args, const char *value) {
    args->save = value;
    return NULL;
}

static const char *set_rounds(cli_args *args, const char *value) {
    unsigned long long n;
    if (!whole_number(value, CLI_MAX_ROUNDS, &n) || n == 0)
        return "a whole number from 1 to 100";
    args->rounds = (int)n;
    return NULL;
}

static const char *set_group(cli_args *args, const char *value) {
    unsigned long long n;
    if (!whole_number(value, 100000, &n))
        return "a whole number up to 100000";
    args->group = (int)n;
    return NULL;
}

static const char *set_force(cli_args *args, const char *value) {
    (void)value;
    args->force = true;
    return NULL;
}

static const char *set_retry_failed(cli_args *args, const char *value) {
    (void)value;
    args->retry_failed = true;
    return NULL;
}

static const char *set_dry_run(cli_args *args, const char *value) {
    (void)value;
    args->dry_run = true;
    return NULL;
}

static const own_option own_options[] = {
    {"image", "image", "FILE", "first frame of the clip (PNG, JPEG, WebP, BMP)",
     set_image},
    {"resume", "resume", "FILE",
     "continue an interrupted run: no prompt, and no option that shapes the clip",
     set_resume},
    {"preset", "preset", "NAME",
     "micro, tiny, mid, 720x720_5s, 960x960_5s or 960x960_10s (default: tiny)",
     set_preset},
    {"checkpoint-seed", "seed", "N", "seed of the random weights", set_checkpoint_seed},
    {"checkpoint-threads", "threads", "N", "processor threads; 0: all",
     set_checkpoint_threads},
    {"bench-preset", "preset", "NAME",
     "random models of that size, in a temporary folder, instead of those at hand",
     set_bench_preset},
    {"bench-prompt", "prompt", "TEXT", "of the clip that is timed", set_prompt},
    {"rounds", "repeat", "N", "clips that are timed (default: 3)", set_rounds},
    {"save", "save", "FILE", "keep the device's speed, for --speed FILE", set_save},
    {"svg", "svg", "FILE", "draw the plan: bytes over time", set_svg},
    {"config", "config", "FILE",
     "the published inference configuration (.yaml); options given here win", set_config},
    {"format", "format", "ENDING",
     "of clips that a row does not name: webm, wav, ..; / for folders of PNG (default: "
     "mp4)",
     set_format},
    {"repeat", "repeat", "N", "clips of every row, with seeds that follow each other",
     set_repeat},
    {"group", "group", "N",
     "most clips that go through a stage together; 0: as memory allows", set_group},
    {"retry-failed", "retry-failed", NULL, "try clips again that failed in a run before",
     set_retry_failed},
    {"dry-run", "dry-run", NULL, "make nothing: say what would be made, as ovi plan does",
     set_dry_run},
    {"force", "force", NULL, "replace files that exist", set_force},
    {"json", "json", NULL, "results as JSON on standard output", set_json},
    {"quiet", "quiet", NULL, "no progress and no notices", set_quiet},
    {"log-level", "log-level", "LEVEL", "error, warn, info or debug", set_log_level},
};

#define N_OWN (sizeof own_options / sizeof own_options[0])

/* Is word one of the space-separated words of list? */
static bool in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

static const own_option *find_own(const cli_command *command, const char *name) {
    for (size_t i = 0; i < N_OWN; i++)
        if (strcmp(own_options[i].name, name) == 0 &&
            in_list(command->own, own_options[i].key))
            return &own_options[i];
    return NULL;
}

int cli_option_index(const char *name) {
    for (int i = 0; i < ovi_option_count(); i++)
        if (strcmp(ovi_option_at(i)->name, name) == 0)
            return i;
    return -1;
}

static bool takes_shared(const cli_command *command, const ovi_option *o) {
    char without[64];
    snprintf(without, sizeof without, "-%s", o->name);
    return in_list(command->stages, o->stage) && !in_list(command->stages, without);
}

/* The same, of this command's; -1: none. */
static int find_shared(const cli_command *command, const char *name) {
    int i = cli_option_index(name);
    return i >= 0 && takes_shared(command, ovi_option_at(i)) ? i : -1;
}

/* ---- parsing ---- */

/* Yes or no: the name alone says yes, a value must be joined by "=". */
static bool is_switch(const ovi_option *o) {
    return o->choices && strcmp(o->choices, "no|yes") == 0;
}

static bool usage_error(const cli_command *command, const char *what, const char *word) {
    cli_complain("ovi %s: %s%.80s; see ovi %s --help", command->name, what, word,
                 command->name);
    return false;
}

static bool apply_own(const own_option *o, const char *value, cli_args *args) {
    const char *expected = o->set(args, value);
    if (!expected)
        return true;
    cli_complain("ovi: %s: expected %s, found \"%.80s\"", o->name, expected, value);
    return false;
}

bool cli_shapes_clip(const char *name) {
    static const char others[] =
        "models libraries cache threads vram ram unified speed output "
        "keep-warm profile save-latents memory-report checkpoint-every repeat image "
        "sound";
    return !in_list(others, name);
}

bool cli_set_option(cli_args *args, int index, const char *value, ovi_message *message) {
    const ovi_option *o = ovi_option_at(index);
    ovi_status status = o->scope == OVI_OPTION_SETTINGS
                            ? ovi_settings_set(&args->settings, o->name, value, message)
                            : ovi_request_set(&args->request, o->name, value, message);
    if (status == OVI_OK)
        args->given[index] = value;
    return status == OVI_OK;
}

static bool apply_shared(int index, const char *value, cli_args *args) {
    ovi_message message;
    bool ok = cli_set_option(args, index, value, &message);
    if (!ok)
        cli_complain("ovi: %s", message.text);
    return ok;
}

/* A mistyped option and the nearest that there is. */
typedef struct mistake {
    const char *typed;
    suggestion near;
} mistake;

static void suggest_option(void *user, const cli_option *o) {
    mistake *m = user;
    suggest(&m->near, m->typed, o->name);
}

static bool unknown_option(const cli_command *command, const char *name) {
    mistake m = {.typed = name};
    cli_each_option(command, suggest_option, &m);
    const char *near = m.near.near;
    char *text = near ? cli_text("%s; did you mean --%s?", name, near) : cli_copy(name);
    bool ok = usage_error(command, "there is no option --", text);
    free(text);
    return ok;
}

/* Takes one option, with its value from "=" or the next argument. *at moves on. */
static bool take_option(const cli_command *command, char **argv, int argc, int *at,
                        cli_args *args) {
    char name[64];
    const char *text = argv[*at] + 2, *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    if (n >= sizeof name)
        return usage_error(command, "there is no option ", argv[*at]);
    memcpy(name, text, n);
    name[n] = '\0';

    const own_option *own = find_own(command, name);
    int shared = own ? -1 : find_shared(command, name);
    if (!own && shared < 0)
        return unknown_option(command, name);
    bool takes_value =
        shared >= 0 ? !is_switch(ovi_option_at(shared)) : own->metavar != NULL;
    const char *value = equals ? equals + 1 : shared >= 0 ? "yes" : "";
    if (takes_value && !equals) {
        if (*at + 1 >= argc)
            return usage_error(command, "a value is missing after --", name);
        value = argv[++*at];
    } else if (own && !own->metavar && equals) {
        return usage_error(command, "no value belongs to --", name);
    }
    return own ? apply_own(own, value, args) : apply_shared(shared, value, args);
}

static bool take_word(const cli_command *command, const char *word, cli_args *args) {
    if (args->n_words >= command->n_words)
        return usage_error(command, "unexpected argument: ", word);
    args->word[args->n_words++] = word;
    return true;
}

/* The configuration comes first, so that options win wherever they stand. */
static bool take_config(const cli_command *command, char **argv, int argc,
                        cli_args *args) {
    const char *path = NULL;
    ovi_message message;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            path = argv[i + 1];
        else if (strncmp(argv[i], "--config=", 9) == 0)
            path = argv[i] + 9;
    }
    if (!path || !find_own(command, "config") || config_apply(args, path, &message))
        return true;
    cli_complain("ovi: %s", message.text);
    return false;
}

void cli_args_release(cli_args *args) {
    config_release(&args->config);
}

bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args) {
    assert(ovi_option_count() <= CLI_MAX_OPTIONS);
    *args = (cli_args){.repeat = 1, .rounds = 3};
    ovi_settings_init(&args->settings);
    ovi_request_init(&args->request);
    ovi_checkpoint_init(&args->checkpoint);
    if (!take_config(command, argv, argc, args))
        return false;
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (options && strcmp(arg, "--") == 0) {
            options = false;
        } else if (options && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            args->help = true;
            return true;
        } else if (options && strcmp(arg, "-o") == 0) {
            if (i + 1 >= argc || find_shared(command, "output") < 0)
                return usage_error(command, "no output file belongs to -o", "");
            args->request.output = argv[++i];
        } else if (options && strncmp(arg, "--", 2) == 0) {
            if (!take_option(command, argv, argc, &i, args))
                return false;
        } else if (options && arg[0] == '-' && arg[1]) {
            return usage_error(command, "there is no option ", arg);
        } else if (!take_word(command, arg, args)) {
            return false;
        }
    }
    if (args->n_words < command->n_words && !args->resume && !args->config.prompt)
        return usage_error(command, "expected ", command->words);
    return true;
}

/* ---- help ---- */

void cli_each_option(const cli_command *command, cli_option_fn fn, void *user) {
    for (int i = 0; i < ovi_option_count(); i++) {
        const ovi_option *o = ovi_option_at(i);
        if (takes_shared(command, o))
            fn(user,
               &(cli_option){o->name, o->metavar, o->help, o->default_value, o->choices});
    }
    for (size_t i = 0; i < N_OWN; i++) {
        const own_option *o = &own_options[i];
        if (in_list(command->own, o->key))
            fn(user,
               &(cli_option){.name = o->name, .metavar = o->metavar, .help = o->help});
    }
}

static void print_option(void *user, const cli_option *o) {
    char left[64];
    (void)user;
    snprintf(left, sizeof left, "  --%s %s", o->name, o->metavar ? o->metavar : "");
    printf("%-30s %s", left, o->help);
    if (o->default_value)
        printf(" [%s]", o->default_value);
    putchar('\n');
}

void cli_help(const cli_command *command) {
    printf("ovi %s %s%s[OPTIONS]: %s\n\n", command->name,
           command->n_words ? command->words : "", command->n_words ? " " : "",
           command->summary);
    cli_each_option(command, print_option, NULL);
    if (find_shared(command, "output") >= 0)
        puts("  -o FILE                      short for --output");
}

void cli_usage(void) {
    puts("ovi: clips with picture and sound from a prompt\n");
    for (const cli_command *c = cli_commands; c->name; c++)
        if (c->summary)
            printf("  ovi %-16s %-12s  %s\n", c->name, c->words, c->summary);
    puts("\nEach has --help. Models: --models DIR, or $OVI_MODELS, or ./ckpts.\n"
         "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 lint has notices, "
         "130 interrupted.");
}
