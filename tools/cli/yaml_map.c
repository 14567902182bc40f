/* yaml_map.c: flat YAML mappings by libyaml's events (yaml_map.h). */
#include "yaml_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "alloc.h"

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the one just read; owned until the next */
    bool has_event;
    ovi_message *message;
} reader;

static int line_here(const reader *r) {
    return (int)r->event.start_mark.line + 1;
}

static bool refuse(reader *r, int line, const char *what) {
    if (r->message)
        snprintf(r->message->text, sizeof r->message->text, "line %d: %s", line, what);
    return false;
}

static bool next(reader *r) {
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = yaml_parser_parse(&r->parser, &r->event) != 0;
    if (r->has_event)
        return true;
    return refuse(r, (int)r->parser.problem_mark.line + 1,
                  r->parser.problem ? r->parser.problem : "this is not YAML");
}

static bool expect(reader *r, yaml_event_type_t type, const char *what) {
    return next(r) && (r->event.type == type || refuse(r, line_here(r), what));
}

/* A scalar without anchor and tag; what: who it belongs to, for the sentence. */
static bool check_scalar(reader *r, const char *what) {
    if (r->event.type == YAML_ALIAS_EVENT)
        return refuse(r, line_here(r), "aliases are not taken here");
    if (r->event.type != YAML_SCALAR_EVENT)
        return refuse(r, line_here(r), what);
    if (r->event.data.scalar.anchor || r->event.data.scalar.tag)
        return refuse(r, line_here(r), "anchors and tags are not taken here");
    if (memchr(r->event.data.scalar.value, '\0', r->event.data.scalar.length))
        return refuse(r, line_here(r), "a NUL character: this is not text");
    return true;
}

static bool is_null(const yaml_event_t *e) {
    const char *text = (const char *)e->data.scalar.value;
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

static const char *text_of(const reader *r) {
    return (const char *)r->event.data.scalar.value;
}

/* The rest of a list as "[a, b]"; owned, NULL: refused. */
static char *read_list(reader *r) {
    char *list = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&list, &n);
    if (!f) {
        refuse(r, line_here(r), "out of host memory");
        return NULL;
    }
    fputc('[', f);
    for (bool first = true; next(r) && r->event.type != YAML_SEQUENCE_END_EVENT;
         first = false) {
        if (!check_scalar(r, "expected a number or a text in this list"))
            break;
        fprintf(f, "%s%s", first ? "" : ", ", text_of(r));
    }
    fputc(']', f);
    bool whole = r->has_event && r->event.type == YAML_SEQUENCE_END_EVENT;
    if (fclose(f) == 0 && whole)
        return list;
    free(list);
    return NULL;
}

static bool read_value(reader *r, yaml_entry *e) {
    if (!next(r))
        return false;
    if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        if (r->event.data.sequence_start.anchor || r->event.data.sequence_start.tag)
            return refuse(r, line_here(r), "anchors and tags are not taken here");
        e->value = read_list(r);
        return e->value != NULL;
    }
    if (!check_scalar(r, "expected a number, a text or a list: this is nested"))
        return false;
    e->value = is_null(&r->event) ? NULL : cli_copy(text_of(r));
    return true;
}

static bool has_key(const yaml_map *m, const char *key) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->entry[i].key, key) == 0)
            return true;
    return false;
}

static bool read_entries(reader *r, yaml_map *m) {
    while (next(r)) {
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return true;
        if (!check_scalar(r, "expected a key"))
            return false;
        if (has_key(m, text_of(r)))
            return refuse(r, line_here(r), "this key is there twice");
        if (m->n == YAML_MAX_KEYS)
            return refuse(r, line_here(r), "more than 1000 keys");
        m->entry = cli_grow(m->entry, m->n + 1, &m->room, sizeof *m->entry);
        yaml_entry *e = &m->entry[m->n++];
        *e = (yaml_entry){.key = cli_copy(text_of(r)), .line = line_here(r)};
        if (!read_value(r, e))
            return false;
    }
    return false;
}

static bool read_map(reader *r, yaml_map *m) {
    static const char mapping[] = "expected keys with values (key: value)";
    return expect(r, YAML_STREAM_START_EVENT, mapping) &&
           expect(r, YAML_DOCUMENT_START_EVENT, mapping) &&
           expect(r, YAML_MAPPING_START_EVENT, mapping) && read_entries(r, m) &&
           expect(r, YAML_DOCUMENT_END_EVENT, mapping) &&
           expect(r, YAML_STREAM_END_EVENT, "a second document begins here");
}

bool yaml_map_parse(yaml_map *m, const char *bytes, size_t n, ovi_message *message) {
    reader r = {.message = message};
    *m = (yaml_map){0};
    if (n > YAML_MAX_BYTES)
        return refuse(&r, 1, "expected at most 1 MiB of text");
    if (!yaml_parser_initialize(&r.parser))
        return refuse(&r, 1, "out of host memory");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)bytes, n);
    bool ok = read_map(&r, m);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (!ok)
        yaml_map_release(m);
    return ok;
}

void yaml_map_release(yaml_map *m) {
    for (size_t i = 0; i < m->n; i++) {
        free(m->entry[i].key);
        free(m->entry[i].value);
    }
    free(m->entry);
    *m = (yaml_map){0};
}
