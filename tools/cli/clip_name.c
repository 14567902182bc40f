/* clip_name.c: names of clips (clip_name.h). */
#include "clip_name.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

#define MAX_CHARACTERS 50
#define MAX_BYTES      160

/* What follows a tag that begins here; text itself: there is none. A tag ends on its line. */
static const char *after_tag(const char *text) {
    if (*text != '<')
        return text;
    size_t n = strcspn(text, ">\n");
    return text[n] == '>' ? text + n + 1 : text;
}

/* Not UTF-8 as a whole: then no byte beyond ASCII is taken for a letter. */
static bool damaged(const char *text) {
    json_t *valid = json_string(text);
    bool is_damaged = valid == NULL;
    json_decref(valid);
    return is_damaged;
}

static bool harmful(unsigned char c) {
    return c < 0x20 || c == 0x7F || c == '\\' || c == '/';
}

static bool begins_character(unsigned char c) {
    return (c & 0xC0) != 0x80;
}

static size_t without_last_character(const char *name, size_t n) {
    do
        n--;
    while (n > 0 && !begins_character((unsigned char)name[n]));
    return n;
}

char *clip_name_make(const char *prompt, int height, int width, uint64_t seed) {
    char name[MAX_BYTES + 1];
    size_t n = 0;
    int characters = 0;
    const bool ascii_only = damaged(prompt);
    for (const char *at = prompt; *at && n < MAX_BYTES;) {
        const char *next = after_tag(at);
        if (next != at) {
            at = next;
            continue;
        }
        unsigned char c = (unsigned char)*at++;
        characters += begins_character(c);
        if (characters > MAX_CHARACTERS)
            break;
        bool replaced = c == ' ' || harmful(c) || (ascii_only && c > 0x7F) ||
                        (n == 0 && (c == '.' || c == '-'));
        name[n++] = replaced ? '_' : (char)c;
    }
    if (n == MAX_BYTES)
        n = without_last_character(name, n); /* it may be half a one */
    name[n] = '\0';
    return cli_text("%s_%dx%d_%" PRIu64 "_0", name, height, width, seed);
}

bool clip_name_harmless(const char *name) {
    if (!*name || *name == '/' || damaged(name))
        return false;
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        size_t n = strcspn(part, "/");
        if (n == 0 || (n == 2 && strncmp(part, "..", 2) == 0))
            return false;
    }
    for (; *name; name++)
        if (harmful((unsigned char)*name) && *name != '/')
            return false;
    return true;
}
