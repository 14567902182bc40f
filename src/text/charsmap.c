/* charsmap.c: the precompiled character map. Its bytes are
 *
 *   u32 length of the trie | trie: u32 units | replacements, each ended by NUL
 *
 * all little-endian. The trie is a double array as the Darts-clone library lays it out. A
 * unit holds a label (bits 0-7; bit 31 is 0 in a node), whether a value hangs below it
 * (bit 8), and the offset of its children (bits 10-30, shifted left by 8 if bit 9 is
 * set). The child of node p for byte c is p's children's base ^ c, valid if its label is
 * c. A value is a unit of its own at the base: its low 31 bits, here the offset of the
 * replacement. */
#include "text/charsmap.h"

#include <string.h>

#include "core/host.h"

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static size_t children_of(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 0x200u) >> 6);
}

static bool has_value(uint32_t unit) {
    return unit >> 8 & 1u;
}

static bool is_node(uint32_t unit, uint8_t label) {
    return (unit & 0x800000ffu) == label;
}

/* Is there a value at that place, of which the replacement is text? */
static bool value_is_sound(const charsmap *m, size_t at) {
    if (at >= m->n_units || !(m->unit[at] >> 31))
        return false;
    size_t text = m->unit[at] & 0x7fffffffu;
    return text < m->text_size && utf8_is_valid(utf8_view_of(m->text + text));
}

typedef enum visit_state { UNSEEN, OPEN, DONE } visit_state;

/* A node on the way from the root, and the next label to try below it. */
typedef struct step {
    uint32_t node, label;
} step;

/* The first child of the node from that label on; 0: there is none. */
static size_t next_child(const charsmap *m, step *s) {
    size_t base = s->node ^ children_of(m->unit[s->node]);
    for (; s->label < 256; s->label++) {
        size_t child = base ^ s->label;
        if (child > 0 && child < m->n_units &&
            is_node(m->unit[child], (uint8_t)s->label)) {
            s->label++;
            return child;
        }
    }
    return 0;
}

/* Visits every node once, depth first. Ends of words may be shared (their builder merges
 * them), circles may not be. No rule holds a NUL. */
static bool walk(const charsmap *m, uint8_t *state, step *way) {
    size_t n = 0;
    way[n++] = (step){0, 1};
    state[0] = OPEN;
    while (n > 0) {
        size_t child = next_child(m, &way[n - 1]);
        if (child == 0) {
            state[way[--n].node] = DONE;
        } else if (state[child] == OPEN) {
            return false;
        } else if (state[child] == UNSEEN) {
            uint32_t unit = m->unit[child];
            if (has_value(unit) && !value_is_sound(m, child ^ children_of(unit)))
                return false;
            state[child] = OPEN;
            way[n++] = (step){(uint32_t)child, 1};
        }
    }
    return true;
}

static bool trie_is_sound(const charsmap *m, err *e) {
    uint8_t *state = mem_alloc(e, m->n_units, 1);
    step *way = mem_alloc(e, m->n_units, sizeof *way);
    bool sound = state && way && walk(m, state, way);
    mem_free(state);
    mem_free(way);
    return sound;
}

void charsmap_init(charsmap *m, const void *blob, size_t size, const char *path, err *e) {
    *m = (charsmap){0};
    if (size == 0)
        return;
    const uint8_t *p = blob;
    size_t trie = size >= 4 ? load_u32(p) : 0;
    if (size < 4 || trie % 4 != 0 || trie == 0 || trie > size - 4 || trie + 4 == size ||
        p[size - 1] != 0) {
        err_set(e, OVI_FORMAT, "%s: damaged character map of %zu bytes", path, size);
        return;
    }
    m->n_units = trie / 4;
    m->text_size = size - 4 - trie;
    m->unit = mem_alloc(e, m->n_units, sizeof *m->unit);
    m->text = mem_alloc(e, m->text_size, 1);
    if (!m->unit || !m->text) {
        charsmap_release(m);
        return;
    }
    for (size_t i = 0; i < m->n_units; i++)
        m->unit[i] = load_u32(p + 4 + 4 * i);
    memcpy(m->text, p + 4 + trie, m->text_size);
    if (!trie_is_sound(m, e)) {
        err_set(e, OVI_FORMAT,
                "%s: damaged character map: the trie of %zu units is broken", path,
                m->n_units);
        charsmap_release(m);
    }
}

void charsmap_release(charsmap *m) {
    mem_free(m->unit);
    mem_free(m->text);
    *m = (charsmap){0};
}

size_t charsmap_match(const charsmap *m, utf8_view text, utf8_view *replacement) {
    if (m->n_units == 0)
        return 0;
    size_t longest = 0, base = children_of(m->unit[0]);
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = (uint8_t)text.data[i];
        size_t node = base ^ c;
        if (node >= m->n_units || !is_node(m->unit[node], c))
            break;
        uint32_t unit = m->unit[node];
        base = node ^ children_of(unit);
        if (!has_value(unit) || base >= m->n_units)
            continue;
        size_t at = m->unit[base] & 0x7fffffffu;
        if (at < m->text_size) {
            *replacement = utf8_view_of(m->text + at);
            longest = i + 1;
        }
    }
    return longest;
}
