/* say.c: sentences on standard error (say.h). */
#include "say.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"

/* Length of the UTF-8 sequence at s, 0: there is none. */
static size_t sequence_length(const unsigned char *s) {
    size_t n = s[0] < 0x80   ? 1
               : s[0] < 0xC2 ? 0
               : s[0] < 0xE0 ? 2
               : s[0] < 0xF0 ? 3
               : s[0] < 0xF5 ? 4
                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool no_character = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return overlong || no_character ? 0 : n;
}

static bool is_control(const unsigned char *s) {
    return s[0] < 0x20 || s[0] == 0x7F || (s[0] == 0xC2 && s[1] < 0xA0);
}

void cli_mask(char *text, bool keep_line_ends) {
    unsigned char *put = (unsigned char *)text;
    for (const unsigned char *s = put; *s;) {
        size_t n = sequence_length(s);
        bool stays = n > 0 && (!is_control(s) || (*s == '\n' && keep_line_ends));
        if (stays)
            memmove(put, s, n);
        else
            *put = '?';
        put += stays ? n : 1;
        s += n ? n : 1;
    }
    *put = '\0';
}

void cli_put_word(const char *word, say_colour colour) {
    static const char *const starts[] = {"", "\033[1;31m", "\033[1;33m"};
    const char *unwanted = getenv("NO_COLOR");
    bool plain = colour == SAY_PLAIN || (unwanted && *unwanted) || !isatty(STDERR_FILENO);
    fprintf(stderr, "%s%s%s", plain ? "" : starts[colour], word, plain ? "" : "\033[0m");
}

void cli_complain(const char *format, ...) {
    va_list args;
    char *text = NULL;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return;
    cli_mask(text, false);
    bool failure = strncmp(text, "ovi", 3) == 0;
    if (failure)
        cli_put_word("ovi", SAY_RED);
    fprintf(stderr, "%s\n", text + (failure ? 3 : 0));
    free(text);
}

json_t *cli_json_text(const char *text) {
    json_t *value = json_string(text ? text : "");
    if (value)
        return value;
    char *masked = cli_copy(text);
    cli_mask(masked, true);
    value = json_string(masked);
    free(masked);
    return value;
}
