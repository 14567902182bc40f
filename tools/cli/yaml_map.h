/* yaml_map.h: YAML files that are one flat mapping, as configurations are: keys with a scalar
 * or a list of scalars. Anchors, aliases, tags, nesting, repeated keys and second documents are
 * refused: nothing here needs them, and aliases are how small files become large. */
#ifndef OVI_CLI_YAML_MAP_H
#define OVI_CLI_YAML_MAP_H

#include <stdbool.h>
#include <stddef.h>

#include "ovi.h"

#define YAML_MAX_BYTES ((size_t)1 << 20)
#define YAML_MAX_KEYS  1000

typedef struct yaml_entry {
    char *key;   /* owned */
    char *value; /* owned; "[704, 1280]" of a list; NULL: null */
    int line;
} yaml_entry;

typedef struct yaml_map {
    yaml_entry *entry;
    size_t n, room;
} yaml_map;

/* Reads n bytes. False: see message ("line 3: .."), the map is empty. */
bool yaml_map_parse(yaml_map *m, const char *bytes, size_t n, ovi_message *message);
void yaml_map_release(yaml_map *m);
#endif
