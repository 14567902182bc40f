/* names.c: names of options (names.h). */
#include "names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names that are not an option's own, with the option they mean. */
static const struct {
    const char *given, *meant;
    name_value value;
} others[] = {
    {"prompt", "prompt", VALUE_SAME},
    {"text-prompt", "prompt", VALUE_SAME},
    {"image", "image", VALUE_SAME},
    {"image-path", "image", VALUE_SAME},
    {"repeat", "repeat", VALUE_SAME},
    {"each-example-n-times", "repeat", VALUE_SAME},
    {"sample-steps", "steps", VALUE_SAME},
    {"num-steps", "steps", VALUE_SAME},
    {"solver-name", "solver", VALUE_SAME},
    {"audio-guidance-scale", "audio-guidance", VALUE_SAME},
    {"video-guidance-scale", "video-guidance", VALUE_SAME},
    {"video-negative-prompt", "negative-video", VALUE_SAME},
    {"audio-negative-prompt", "negative-audio", VALUE_SAME},
    {"video-frame-height-width", "size", VALUE_HEIGHT_WIDTH},
};
#define N_OTHERS (sizeof others / sizeof others[0])

/* In the table's spelling; false: longer than any name. */
static bool spell(const char *given, char name[NAME_ROOM]) {
    size_t n = strlen(given);
    if (n >= NAME_ROOM)
        return false;
    for (size_t i = 0; i <= n; i++)
        name[i] = given[i] == '_' ? '-' : given[i];
    return true;
}

const char *names_of_clip(const char *given, name_value *value) {
    char name[NAME_ROOM];
    *value = VALUE_SAME;
    if (!spell(given, name))
        return NULL;
    for (int i = 0; i < ovi_option_count(); i++) {
        const ovi_option *o = ovi_option_at(i);
        if (o->scope == OVI_OPTION_REQUEST && strcmp(o->name, name) == 0)
            return o->name;
    }
    for (size_t i = 0; i < N_OTHERS; i++) {
        if (strcmp(others[i].given, name) == 0) {
            *value = others[i].value;
            return others[i].meant;
        }
    }
    return NULL;
}

void names_suggest_clip(suggestion *s, const char *given) {
    char name[NAME_ROOM];
    if (!spell(given, name))
        return;
    for (int i = 0; i < ovi_option_count(); i++)
        if (ovi_option_at(i)->scope == OVI_OPTION_REQUEST)
            suggest(s, name, ovi_option_at(i)->name);
    for (size_t i = 0; i < N_OTHERS; i++)
        suggest(s, name, others[i].given);
}

const char *names_near_clip(const char *given) {
    suggestion s = {0};
    names_suggest_clip(&s, given);
    return s.near;
}

bool names_size(const char *height_width, char size[32]) {
    int value[2], n = 0;
    for (const char *at = height_width; *at;) {
        if (!isdigit((unsigned char)*at)) {
            if (!strchr("[](), xX\t", *at))
                return false;
            at++;
            continue;
        }
        char *end;
        long v = strtol(at, &end, 10);
        if (n == 2 || v < 1 || v > 65536)
            return false;
        value[n++] = (int)v;
        at = end;
    }
    if (n == 2)
        snprintf(size, 32, "%dx%d", value[1], value[0]);
    return n == 2;
}

const char *names_did_you_mean(const char *near, char text[NAME_ROOM + 32]) {
    if (!near)
        return "";
    int n = snprintf(text, NAME_ROOM + 32, "; did you mean ");
    for (; *near && n < NAME_ROOM + 30; near++)
        text[n++] = *near == '-' ? '_' : *near;
    text[n++] = '?';
    text[n] = '\0';
    return text;
}

/* ---- suggestions ---- */

static int least(int a, int b) {
    return a < b ? a : b;
}

/* Letters to insert, remove, change or swap to get from a to b. */
static int edit_distance(const char *a, const char *b) {
    int row[3][NAME_ROOM + 1] = {0};
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++)
        row[1][j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int *now = row[(i + 1) % 3], *last = row[i % 3], *before = row[(i + 2) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            int same = a[i - 1] == b[j - 1] ? 0 : 1;
            now[j] = least(last[j - 1] + same, least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return row[(strlen(a) + 1) % 3][n];
}

void suggest(suggestion *s, const char *word, const char *candidate) {
    size_t n = strlen(word);
    if (n >= NAME_ROOM || strlen(candidate) >= NAME_ROOM)
        return;
    int distance = edit_distance(word, candidate);
    if (distance > (n < 4 ? 1 : (int)(n + 1) / 3) || (s->near && distance >= s->distance))
        return;
    s->near = candidate;
    s->distance = distance;
}
