/* main.c: the table of commands, and the way to one of them. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

const cli_command cli_commands[] = {
    {"generate", "PROMPT", 1, "make a clip from a prompt (and a first frame)",
     "open text_encode diffuse decode_video", "image resume json quiet log-level",
     cli_generate},
    {"encode", "FILE", 1, "turn a picture, clip or sound into latents",
     "open decode_video", "json quiet log-level", cli_encode},
    {"decode", "LATENTS", 1, "finish a clip from saved latents", "open decode_video",
     "json quiet log-level", cli_decode},
    {"plan", "", 0, "what a request will need, stage by stage",
     "open text_encode diffuse decode_video", "image json svg log-level", cli_plan},
    {"inspect", "PATH", 1, "what a file or folder of weights is and holds", "", "json",
     cli_inspect},
    {"make-checkpoint", "DIR", 1, "random weights in the official layout", "",
     "preset checkpoint-seed checkpoint-threads quiet", cli_make_checkpoint},
    {0},
};

static const cli_command *find(const char *name) {
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        cli_usage();
        return argc < 2 ? EXIT_USAGE : EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("ovi %s\n", ovi_version());
        return EXIT_DONE;
    }
    const cli_command *command = find(argv[1]);
    if (!command) {
        fprintf(stderr, "ovi: there is no command named \"%s\"; see ovi --help\n",
                argv[1]);
        return EXIT_USAGE;
    }
    ovi_handle_bus_errors();
    cli_args args;
    if (!cli_parse(command, argc - 2, argv + 2, &args))
        return EXIT_USAGE;
    if (args.help) {
        cli_help(command);
        return EXIT_DONE;
    }
    return command->run(&args);
}
