/* cmd_docs.c: what is written from the tables of commands and options: the man page, completion
 * for bash, docs/options.md. The build makes the first two, a test holds the third. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* ---- man page ---- */

/* A dash is a hyphen in roff unless it is escaped; a dot or quote at the start is a request. */
static void man_text(const char *text) {
    if (*text == '.' || *text == '\'')
        fputs("\\&", stdout);
    for (; *text; text++) {
        if (*text == '-' || *text == '\\')
            putchar('\\');
        if (*text == '\\')
            putchar('e');
        else
            putchar(*text);
    }
}

static void man_option(void *user, const cli_option *o) {
    (void)user;
    fputs(".TP\n.B \\-\\-", stdout);
    man_text(o->name);
    if (o->metavar)
        printf(" \\fI%s\\fR", o->metavar);
    putchar('\n');
    man_text(o->help);
    if (o->choices) {
        fputs("; one of ", stdout);
        man_text(o->choices);
    }
    if (o->default_value) {
        fputs(" [", stdout);
        man_text(o->default_value);
        putchar(']');
    }
    putchar('\n');
}

static void print_man(void) {
    printf(".TH OVI 1 \"\" \"ovi %s\"\n", ovi_version());
    puts(".SH NAME\novi \\- clips with picture and sound from a prompt");
    puts(".SH SYNOPSIS\n.B ovi\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH DESCRIPTION");
    puts("Makes clips of 5 or 10 seconds from a prompt, and a first frame if there is "
         "one.\n"
         "Memory is planned before work starts. Models are those of \\-\\-models, else "
         "of\n"
         ".BR $OVI_MODELS ,\nelse of ./ckpts.");
    for (const cli_command *c = cli_commands; c->name; c++) {
        if (!c->summary)
            continue;
        fputs(".SH \"OVI ", stdout);
        for (const char *p = c->name; *p; p++)
            putchar(toupper((unsigned char)*p));
        printf(" %s\"\n", c->words);
        man_text(c->summary);
        putchar('\n');
        cli_each_option(c, man_option, NULL);
    }
    puts(".SH \"EXIT STATUS\"\n0 done; 1 failed, or not all clips of a list are there; 2 "
         "the "
         "command line or\nthe configuration is wrong; 3 ovi lint has found something; "
         "130 "
         "interrupted.");
    puts(".SH ENVIRONMENT\n.TP\n.B OVI_MODELS\nfolder of the models\n.TP\n"
         ".B OVI_ENGINE_DEBUG\n1: as \\-\\-log\\-level debug\n.TP\n"
         ".B NO_COLOR\nif set, no word is coloured on a terminal");
}

/* ---- completion ---- */

static void bash_option(void *user, const cli_option *o) {
    (void)user;
    printf(" --%s", o->name);
}

static void bash_choices(void *user, const cli_option *o) {
    (void)user;
    if (!o->choices)
        return;
    printf("        --%s) words=\"", o->name);
    for (const char *p = o->choices; *p; p++)
        putchar(*p == '|' ? ' ' : *p);
    puts("\" ;;");
}

static void print_bash(void) {
    puts(
        "# bash completion for ovi, written by ovi docs bash\n_ovi() {\n"
        "    local current=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]}\n"
        "    local words=\"\"\n    if [ \"$COMP_CWORD\" -eq 1 ]; then");
    fputs("        words=\"--help --version", stdout);
    for (const cli_command *c = cli_commands; c->name; c++)
        if (c->summary)
            printf(" %s", c->name);
    puts("\"\n        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "        return\n    fi\n    case $last in");
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, "generate") == 0) /* it has all options with choices */
            cli_each_option(c, bash_choices, NULL);
    puts("    esac\n    if [ -z \"$words\" ] && [[ $current == -* ]]; then\n"
         "        case ${COMP_WORDS[1]} in");
    for (const cli_command *c = cli_commands; c->name; c++) {
        if (!c->summary)
            continue;
        printf("        %s) words=\"--help", c->name);
        cli_each_option(c, bash_option, NULL);
        puts("\" ;;");
    }
    puts(
        "        esac\n    fi\n    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
        "}\ncomplete -o default -F _ovi ovi");
}

/* ---- docs/options.md ---- */

/* A bar would end the cell. */
static void cell(const char *text) {
    for (; *text; text++) {
        if (*text == '|')
            putchar('\\');
        putchar(*text);
    }
}

static void options_row(void *user, const cli_option *o) {
    (void)user;
    printf("| `--%s%s%s` | ", o->name, o->metavar ? " " : "",
           o->metavar ? o->metavar : "");
    cell(o->help);
    if (o->choices) {
        fputs("; one of ", stdout);
        cell(o->choices);
    }
    printf(" | %s |\n", o->default_value ? o->default_value : "");
}

static void print_options(void) {
    puts("# Options\n\nWritten by `ovi docs options` from the tables of the program; a "
         "test "
         "holds this page to them.");
    for (const cli_command *c = cli_commands; c->name; c++) {
        if (!c->summary)
            continue;
        printf("\n## ovi %s", c->name);
        if (c->n_words)
            printf(" %s", c->words);
        printf("\n\n%c%s.\n\n| option | | default |\n|---|---|---|\n",
               toupper((unsigned char)c->summary[0]), c->summary + 1);
        cli_each_option(c, options_row, NULL);
    }
}

int cli_docs(cli_args *args) {
    static const struct {
        const char *name;
        void (*print)(void);
    } kinds[] = {{"man", print_man}, {"bash", print_bash}, {"options", print_options}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, args->word[0]) == 0) {
            kinds[i].print();
            return EXIT_DONE;
        }
    }
    cli_complain("ovi docs: expected man, bash or options, found \"%.80s\"",
                 args->word[0]);
    return EXIT_USAGE;
}
