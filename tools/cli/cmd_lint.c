/* cmd_lint.c: what is wrong with a prompt, or with every row of a list, before anything is
 * made. Weights are not needed; with a tokenizer the length is checked as well. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "batch.h"
#include "read_file.h"

#define PROMPT_FILE_MAX ((size_t)1 << 20)

/* Who is told, and how much was said. */
typedef struct lint {
    const cli_args *args;
    int row; /* of a list; 0: one prompt */
    int problems, hints;
    bool no_tokenizer; /* was said */
} lint;

static void print_json(const lint *l, const ovi_notice *n) {
    json_t *line = json_pack("{s:s, s:s, s:s, s:b, s:o, s:o*}", "event", "notice",
                             "subject", n->subject, "about", n->about, "hint", n->hint,
                             "sentence", cli_json_text(n->sentence), "detail",
                             n->detail ? cli_json_text(n->detail) : NULL);
    if (l->row)
        json_object_set_new(line, "row", json_integer(l->row));
    cli_print_event(line);
}

static void print_text(const lint *l, const ovi_notice *n) {
    char *sentence = cli_copy(n->sentence),
         *detail = cli_copy(n->detail ? n->detail : "");
    cli_mask(sentence, false);
    cli_mask(detail, false);
    if (l->row)
        printf("row %d: ", l->row);
    printf("%s%s: %s\n", n->hint ? "hint: " : "", n->subject, sentence);
    if (n->detail)
        printf("    %s\n", detail);
    free(sentence);
    free(detail);
}

static void take_notice(void *user, const ovi_notice *n) {
    lint *l = user;
    if (n->hint && strcmp(n->about, "length") == 0) {
        if (l->no_tokenizer)
            return;
        l->no_tokenizer = true;
    }
    if (n->hint)
        l->hints++;
    else
        l->problems++;
    if (l->args->json)
        print_json(l, n);
    else if (!n->hint || !l->args->quiet)
        print_text(l, n);
}

/* A failure is a notice as well: the request would be refused. */
static void take_failure(lint *l, const char *sentence) {
    take_notice(
        l, &(ovi_notice){.subject = "request", .about = "refused", .sentence = sentence});
}

/* One request and the image that is named with it. */
static void lint_request(lint *l, ovi_engine *engine, ovi_request *request,
                         const char *path) {
    ovi_image image = {0};
    ovi_message message;
    if (path && ovi_image_load(path, &image, &message) != OVI_OK) {
        take_failure(l, message.text);
        return;
    }
    request->image = path ? &image : NULL;
    request->output = NULL;
    if (ovi_lint(engine, request, take_notice, l) != OVI_OK)
        take_failure(l, ovi_error(engine));
    ovi_free((void *)(uintptr_t)image.rgb);
}

static bool lint_list(lint *l, batch *b) {
    ovi_message message;
    if (!batch_read(b, &message) || !batch_plan(b, &message)) {
        cli_complain("ovi: %s", message.text);
        return false;
    }
    for (size_t i = 0; i < b->n; i++) {
        const clip_status *c = &b->clip[i];
        ovi_request request;
        if (c->repeat > 0)
            continue; /* another seed, the same text */
        l->row = c->row;
        if (c->unfit || !batch_request(b, c, &request, &message)) {
            take_failure(l, c->unfit ? c->error : message.text);
            continue;
        }
        char *image = batch_image(b, c);
        lint_request(l, b->engine, &request, image);
        free(image);
    }
    l->row = 0;
    return true;
}

/* The prompt itself, or that of a file of text. */
static bool lint_prompt(lint *l, ovi_engine *engine, cli_args *args) {
    const char *word = args->n_words ? args->word[0] : args->config.prompt;
    ovi_message message;
    char *text = NULL;
    size_t n;
    if (access(word, F_OK) == 0) {
        text = read_file(word, PROMPT_FILE_MAX, &n, &message);
        if (text && strlen(text) != n)
            snprintf(message.text, sizeof message.text,
                     "%.3000s: byte %zu: a NUL byte: this is not text", word,
                     strlen(text));
        if (!text || strlen(text) != n) {
            cli_complain("ovi: %s", message.text);
            free(text);
            return false;
        }
        word = text;
    }
    args->request.prompt = word;
    lint_request(l, engine, &args->request, args->image);
    free(text);
    return true;
}

int cli_lint(cli_args *args) {
    batch b;
    lint l = {.args = args};
    const char *given = args->n_words ? args->word[0] : args->config.prompt;
    args->settings.log_level = OVI_LOG_ERROR; /* notices come by the other way */
    ovi_engine *engine =
        cli_open(args, cli_models_are_there(args) ? CLI_TO_PLAN : CLI_TO_PLAN_BY_SIZES);
    if (!engine)
        return EXIT_FAILED;
    batch_init(&b, args);
    b.engine = engine;
    bool ok = list_is_meant(given) ? lint_list(&l, &b) : lint_prompt(&l, engine, args);
    if (ok && args->json)
        printf("{\"event\":\"lint\",\"problems\":%d,\"hints\":%d}\n", l.problems,
               l.hints);
    batch_release(&b);
    cli_close(engine);
    return !ok ? EXIT_FAILED : l.problems ? EXIT_NOTICES : EXIT_DONE;
}
