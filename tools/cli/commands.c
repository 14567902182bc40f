/* commands.c: the table of commands. */
#include <string.h>

#include "cli.h"

const cli_command cli_commands[] = {
    {"generate", "PROMPT", 1, "make a clip from a prompt (and a first frame)",
     "open text_encode diffuse decode_video",
     "config image resume format repeat group retry-failed dry-run force json quiet "
     "log-level",
     cli_generate},
    {"batch", "LIST", 1, "make the clips of a list (.csv, .tsv, .jsonl)",
     "open text_encode diffuse decode_video",
     "config image format repeat group retry-failed dry-run force json quiet log-level",
     cli_batch},
    {"lint", "PROMPT|FILE", 1, "what is wrong with a prompt, a text file or a list",
     "open text_encode", "config image json quiet", cli_lint},
    {"encode", "FILE", 1, "turn a picture, clip or sound into latents",
     "open decode_video", "force json quiet log-level", cli_encode},
    {"decode", "LATENTS", 1, "finish a clip from saved latents", "open decode_video",
     "force json quiet log-level", cli_decode},
    {"plan", "", 0, "what a request will need, stage by stage",
     "open text_encode diffuse decode_video -memory-report",
     "config image json svg force log-level", cli_plan},
    {"devices", "", 0, "what can compute here, and why something cannot", "open", "json",
     cli_devices},
    {"bench", "", 0, "how fast the stages and operations of a clip are here",
     "open text_encode diffuse",
     "bench-preset bench-prompt rounds save force json quiet log-level", cli_bench},
    {"replay", "CLIP", 1, "make a clip again from the request that it carries",
     "open decode_video", "image force json quiet log-level", cli_replay},
    {"inspect", "PATH", 1,
     "the request in a clip; what a file or folder of weights holds", "", "json",
     cli_inspect},
    {"make-checkpoint", "DIR", 1, "random weights in the official layout", "",
     "preset checkpoint-seed checkpoint-threads quiet", cli_make_checkpoint},
    {"docs", "man|bash|options", 1, NULL, "", "", cli_docs}, /* for packages */
    {0},
};

const cli_command *cli_find_command(const char *name) {
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}
