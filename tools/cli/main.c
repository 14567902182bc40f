/* main.c: from the command line to one command of the table. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "names.h"

static int unknown_command(const char *name) {
    suggestion s = {0};
    for (const cli_command *c = cli_commands; c->name; c++)
        if (c->summary)
            suggest(&s, name, c->name);
    cli_complain("ovi: there is no command named \"%.80s\"%s%s%s; see ovi --help", name,
                 s.near ? "; did you mean " : "", s.near ? s.near : "",
                 s.near ? "?" : "");
    return EXIT_USAGE;
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
    const cli_command *command = cli_find_command(argv[1]);
    if (!command)
        return unknown_command(argv[1]);
    ovi_handle_bus_errors();
    cli_args args;
    int code = EXIT_USAGE;
    if (cli_parse(command, argc - 2, argv + 2, &args)) {
        code = EXIT_DONE;
        if (args.help)
            cli_help(command);
        else
            code = command->run(&args);
    }
    cli_args_release(&args);
    return code;
}
