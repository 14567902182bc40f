/* tokenizer.c: the vocabulary table and the path search.
 *
 * Three steps, each as libsentencepiece does it (spec/text-encoder.md 3):
 *   normalise  longest rule of the character map at each place; white space collapsed,
 *              one in front, written as U+2581
 *   search     best sum of piece scores over the bytes (Viterbi): a node per byte
 *              position, starts visited left to right, pieces tried shortest first, the
 *              first of equal candidates stays; a character that is no piece may be
 *              unknown at a price
 *   emit       pieces to ids; unknown characters to their bytes, or to one <unk> a run
 *
 * Finding the pieces that start at a place needs no tree: the pieces are sorted by their
 * bytes, and each further byte narrows the range of those that agree so far by bisection.
 * Memory while encoding: 12 bytes a normalised byte. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/host.h"
#include "core/os.h"
#include "text/tokenizer_table.h"

#define UNKNOWN_PENALTY      10.0f
#define NORMALISED_MAX_BYTES (1u << 20)
#define SPACE_MARK           "\xe2\x96\x81" /* U+2581 */

/* ------------------------------------------------------------------------- table ---- */

static utf8_view piece_text(const tokenizer *t, int32_t id) {
    return (utf8_view){buf_text(&t->text) + t->piece[id].offset, t->piece[id].length};
}

bool tokenizer_add_piece(tokenizer *t, utf8_view text, float score, piece_type type,
                         err *e) {
    if (text.size == 0 || text.size > 4096 || !utf8_is_valid(text) || !isfinite(score)) {
        err_set(e, OVI_FORMAT,
                "%s: piece %d: expected 1 to 4096 bytes of UTF-8 and a finite score",
                t->path, t->n);
        return false;
    }
    if (t->n == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 1024;
        piece *grown = mem_resize(e, t->piece, (size_t)capacity, sizeof *grown);
        if (!grown)
            return false;
        t->piece = grown;
        t->capacity = capacity;
    }
    t->piece[t->n++] = (piece){t->text.size, (uint32_t)text.size, score, type};
    buf_append(&t->text, text.data, text.size);
    if (!buf_ok(&t->text))
        err_set(e, OVI_MEMORY, "%s: out of host memory for the vocabulary", t->path);
    return buf_ok(&t->text);
}

/* By bytes, a prefix before what it starts. */
static int compare_ids(const void *a, const void *b, void *table) {
    utf8_view x = piece_text(table, *(const int32_t *)a);
    utf8_view y = piece_text(table, *(const int32_t *)b);
    int order = memcmp(x.data, y.data, x.size < y.size ? x.size : y.size);
    return order ? order : (x.size > y.size) - (x.size < y.size);
}

/* Sorts the pieces of the given types (a set of bits); two of the same text are an
 * error. */
static void index_pieces(tokenizer *t, unsigned types, piece_index *index, err *e) {
    index->id = mem_alloc(e, (size_t)t->n, sizeof *index->id);
    if (!index->id)
        return;
    for (int32_t i = 0; i < t->n; i++)
        if (types >> t->piece[i].type & 1u)
            index->id[index->n++] = i;
    qsort_r(index->id, (size_t)index->n, sizeof *index->id, compare_ids, t);
    for (int k = 1; k < index->n; k++)
        if (compare_ids(index->id + k - 1, index->id + k, t) == 0)
            err_set(e, OVI_FORMAT, "%s: pieces %d and %d are the same", t->path,
                    (int)index->id[k - 1], (int)index->id[k]);
}

/* The byte of a piece "<0x41>", or -1. */
static int byte_of_piece(utf8_view v) {
    static const char digits[] = "0123456789ABCDEF";
    if (v.size != 6 || memcmp(v.data, "<0x", 3) != 0 || v.data[5] != '>')
        return -1;
    const char *hi = memchr(digits, v.data[3], 16), *lo = memchr(digits, v.data[4], 16);
    return hi && lo ? (int)(hi - digits) * 16 + (int)(lo - digits) : -1;
}

static bool piece_is(const tokenizer *t, int32_t id, const char *text) {
    utf8_view v = piece_text(t, id);
    return v.size == strlen(text) && memcmp(v.data, text, v.size) == 0;
}

/* Finds the special pieces, the bytes and the extremes of the scores. */
static void survey_pieces(tokenizer *t, err *e) {
    t->unknown = t->eos = -1;
    t->min_score = INFINITY;
    t->max_score = -INFINITY;
    for (int b = 0; b < 256; b++)
        t->byte_id[b] = -1;
    for (int32_t i = 0; i < t->n; i++) {
        const piece *p = t->piece + i;
        int byte = p->type == PIECE_BYTE ? byte_of_piece(piece_text(t, i)) : -1;
        if (byte >= 0)
            t->byte_id[byte] = i;
        if (p->type == PIECE_UNKNOWN)
            t->unknown = i;
        if (p->type == PIECE_CONTROL && piece_is(t, i, "</s>"))
            t->eos = i;
        if (p->type == PIECE_NORMAL) {
            t->min_score = fminf(t->min_score, p->score);
            t->max_score = fmaxf(t->max_score, p->score);
        }
    }
    if (t->unknown < 0 || t->eos < 0 || t->min_score == INFINITY)
        err_set(e, OVI_FORMAT, "%s: expected pieces with <unk> and </s> among %d",
                t->path, t->n);
    for (int b = 0; b < 256 && t->byte_fallback; b++)
        if (t->byte_id[b] < 0)
            err_set(e, OVI_FORMAT, "%s: byte fallback without a piece <0x%02X>", t->path,
                    (unsigned)b);
}

static void complete(tokenizer *t, err *e) {
    survey_pieces(t, e);
    index_pieces(t, 1u << PIECE_NORMAL | 1u << PIECE_USER_DEFINED, &t->matchable, e);
    index_pieces(t, 1u << PIECE_USER_DEFINED, &t->user_defined, e);
    unsigned literals =
        t->control_is_literal ? 1u << PIECE_CONTROL | 1u << PIECE_UNKNOWN : 0;
    index_pieces(t, literals, &t->literal, e);
}

/* JSON starts with { and the quote of a key. A SentencePiece model starts with byte 0A,
 * which is white space in JSON, and a length. */
static bool looks_like_json(const char *bytes) {
    static const char space[] = " \t\r\n";
    const char *brace = bytes + strspn(bytes, space);
    return *brace == '{' && brace[1 + strspn(brace + 1, space)] == '"';
}

ovi_status tokenizer_open(tokenizer **out, const char *path, err *e) {
    char *bytes = NULL;
    size_t size = 0;
    tokenizer *t = mem_alloc(e, 1, sizeof *t);
    if (!t || os_read_file(path, TOKENIZER_MAX_FILE_BYTES, &bytes, &size, e) != OVI_OK)
        goto out;
    t->path = path;
    utf8_view file = {bytes, size};
    if ((looks_like_json(bytes) ? tokenizer_read_json(t, file, e)
                                : tokenizer_read_spm(t, file, e)) == OVI_OK)
        complete(t, e);
    t->path = NULL;
out:
    mem_free(bytes);
    if (err_failed(e)) {
        tokenizer_free(t);
        return e->status;
    }
    *out = t;
    return OVI_OK;
}

void tokenizer_free(tokenizer *t) {
    if (!t)
        return;
    mem_free(t->piece);
    buf_release(&t->text);
    charsmap_release(&t->map);
    mem_free(t->matchable.id);
    mem_free(t->user_defined.id);
    mem_free(t->literal.id);
    mem_free(t);
}

int tokenizer_count(const tokenizer *t) {
    return t->n;
}

/* ------------------------------------------------------------------------ prefixes
 * ---- */

/* Pieces that agree with a text so far: index->id[lo .. hi) all start with its first
 * `length` bytes. */
typedef struct prefix_range {
    int lo, hi;
    size_t length;
} prefix_range;

/* First of the range whose next byte is at least `byte`; shorter pieces come before
 * all. */
static int lower_bound(const tokenizer *t, const piece_index *index, prefix_range r,
                       unsigned byte) {
    while (r.lo < r.hi) {
        int mid = r.lo + (r.hi - r.lo) / 2;
        utf8_view v = piece_text(t, index->id[mid]);
        if (v.size <= r.length || (uint8_t)v.data[r.length] < byte)
            r.lo = mid + 1;
        else
            r.hi = mid;
    }
    return r.lo;
}

/* Narrows the range by one more byte. Returns the id of the piece that ends there, or
 * -1. */
static int32_t range_extend(const tokenizer *t, const piece_index *index, prefix_range *r,
                            uint8_t byte) {
    int lo = lower_bound(t, index, *r, byte), hi = lower_bound(t, index, *r, byte + 1u);
    *r = (prefix_range){lo, hi, r->length + 1};
    if (lo == hi || t->piece[index->id[lo]].length != r->length)
        return -1;
    return index->id[lo];
}

/* Length of the longest piece of the index that text starts with; 0: none. */
static size_t longest_prefix(const tokenizer *t, const piece_index *index, utf8_view text,
                             int32_t *id) {
    prefix_range r = {0, index->n, 0};
    size_t longest = 0;
    for (size_t i = 0; i < text.size && r.lo < r.hi; i++) {
        int32_t found = range_extend(t, index, &r, (uint8_t)text.data[i]);
        if (found >= 0) {
            longest = i + 1;
            *id = found;
        }
    }
    return longest;
}

/* ----------------------------------------------------------------------- normalise
 * ---- */

/* Normalised text; source[i] is where byte i comes from in the text given. */
typedef struct normalised {
    buf text, source; /* source holds one uint32_t a byte */
} normalised;

static void normalised_release(normalised *n) {
    buf_release(&n->text);
    buf_release(&n->source);
}

static void put_source(normalised *n, const char *bytes, size_t count, size_t from) {
    uint32_t at = (uint32_t)from;
    buf_append(&n->text, bytes, count);
    for (size_t i = 0; i < count; i++)
        buf_append(&n->source, &at, sizeof at);
}

/* What the text starts with becomes *out; returns how many bytes of the text that
 * takes. */
static size_t next_unit(const tokenizer *t, utf8_view text, utf8_view *out) {
    static const utf8_view replacement = {"\xef\xbf\xbd", 3};
    int32_t id;
    size_t n = longest_prefix(t, &t->user_defined, text, &id);
    if (n == 0 && (n = charsmap_match(&t->map, text, out)) > 0)
        return n;
    uint32_t rune;
    bool valid = true;
    if (n == 0)
        n = utf8_decode(text, &rune, &valid);
    *out = valid ? (utf8_view){text.data, n} : replacement;
    return valid ? n : 1;
}

static bool starts_with_space(utf8_view v) {
    return v.size > 0 && v.data[0] == ' ';
}

static void put_unit(const tokenizer *t, utf8_view unit, size_t from, normalised *out) {
    for (size_t i = 0; i < unit.size; i++) {
        if (unit.data[i] == ' ' && t->escape_whitespaces)
            put_source(out, SPACE_MARK, strlen(SPACE_MARK), from);
        else
            put_source(out, unit.data + i, 1, from);
    }
}

static void trim_end(const tokenizer *t, normalised *out) {
    utf8_view space = utf8_view_of(t->escape_whitespaces ? SPACE_MARK : " ");
    buf *b = &out->text;
    while (b->size >= space.size &&
           memcmp(b->data + b->size - space.size, space.data, space.size) == 0)
        b->size -= space.size;
}

/* Text from offset `base` of the prompt on, normalised. */
static void normalise(const tokenizer *t, utf8_view text, size_t base, normalised *out) {
    const char *start = text.data;
    utf8_view unit;
    while (t->remove_extra_whitespaces && text.size > 0) {
        size_t n = next_unit(t, text, &unit);
        if (unit.size != 1 || unit.data[0] != ' ')
            break;
        text = utf8_view_from(text, n);
    }
    if (text.size == 0)
        return;
    if (t->add_dummy_prefix)
        put_unit(t, utf8_view_of(" "), base + (size_t)(text.data - start), out);
    bool after_space = t->remove_extra_whitespaces;
    while (text.size > 0 && buf_ok(&out->text)) {
        size_t n = next_unit(t, text, &unit);
        while (after_space && starts_with_space(unit))
            unit = utf8_view_from(unit, 1);
        put_unit(t, unit, base + (size_t)(text.data - start), out);
        if (unit.size > 0)
            after_space = t->remove_extra_whitespaces && unit.data[unit.size - 1] == ' ';
        text = utf8_view_from(text, n);
    }
    if (t->remove_extra_whitespaces)
        trim_end(t, out);
}

/* -------------------------------------------------------------------------- search
 * ---- */

/* The best way to reach a byte position: the piece that ends there and where it starts.
 * After link_forward, next is where the piece that starts here ends. */
typedef struct node {
    float score;
    int32_t start, id, next;
} node;

static void offer(node *target, double score, int32_t start, int32_t id) {
    if (target->start >= 0 && !(score > target->score))
        return;
    *target = (node){(float)score, start, id, -1};
}

/* Offers every piece that starts at text[start], and "unknown" if no piece is exactly the
 * character there. Returns the length of that character. */
static size_t offer_from(const tokenizer *t, utf8_view text, size_t start, node *nodes) {
    utf8_view rest = utf8_view_from(text, start);
    uint32_t rune;
    size_t character = utf8_decode(rest, &rune, NULL);
    prefix_range r = {0, t->matchable.n, 0};
    bool single = false;
    for (size_t i = 0; i < rest.size && r.lo < r.hi; i++) {
        int32_t id = range_extend(t, &t->matchable, &r, (uint8_t)rest.data[i]);
        if (id < 0)
            continue;
        /* a piece the user defined always wins: it counts as the best score at each
         * byte */
        double score = t->piece[id].type == PIECE_USER_DEFINED
                           ? (double)((float)(i + 1) * t->max_score) - 0.1
                           : (double)t->piece[id].score;
        offer(nodes + start + i + 1, score + (double)nodes[start].score, (int32_t)start,
              id);
        single = single || i + 1 == character;
    }
    if (!single)
        offer(nodes + start + character,
              (double)(t->min_score - UNKNOWN_PENALTY + nodes[start].score),
              (int32_t)start, t->unknown);
    return character;
}

/* Walks the best path back from the end and notes it in forward direction. */
static void link_forward(node *nodes, size_t end) {
    for (int32_t at = (int32_t)end; at > 0; at = nodes[at].start)
        nodes[nodes[at].start].next = at;
}

/* ---------------------------------------------------------------------------- emit
 * ---- */

typedef struct emitter {
    tokens out;
    int room; /* for ids, without </s> */
} emitter;

static void emit(emitter *m, int32_t id, size_t at) {
    if (m->out.n < m->room) {
        m->out.id[m->out.n++] = id;
        return;
    }
    if (m->out.n_cut++ == 0)
        m->out.cut_at = at;
}

/* Emits the best path through normalised text. */
static void emit_path(const tokenizer *t, const normalised *text, const node *nodes,
                      emitter *m) {
    bool after_unknown = false;
    for (int32_t at = 0; (size_t)at < text->text.size; at = nodes[at].next) {
        int32_t id = nodes[nodes[at].next].id;
        bool unknown = id == t->unknown;
        uint32_t source;
        memcpy(&source, text->source.data + (size_t)at * sizeof source, sizeof source);
        if (!unknown || (!t->byte_fallback && !after_unknown))
            emit(m, id, source);
        for (int32_t i = at; unknown && t->byte_fallback && i < nodes[at].next; i++)
            emit(m, t->byte_id[(uint8_t)text->text.data[i]], source);
        after_unknown = unknown;
    }
}

/* Encodes text that holds no literal piece and stands at offset `base` of the prompt. */
static void encode_plain(const tokenizer *t, utf8_view text, size_t base, emitter *m,
                         err *e) {
    normalised n = {.text = {.max_bytes = NORMALISED_MAX_BYTES}};
    node *nodes = NULL;
    normalise(t, text, base, &n);
    if (!buf_ok(&n.text) || !buf_ok(&n.source)) {
        err_set(e, OVI_ARGUMENT,
                "prompt: too long once its characters are mapped (%zu bytes)", text.size);
        goto out;
    }
    nodes = mem_alloc(e, n.text.size + 1, sizeof *nodes);
    if (!nodes)
        goto out;
    for (size_t i = 1; i <= n.text.size; i++)
        nodes[i].start = -1;
    utf8_view v = {buf_text(&n.text), n.text.size};
    for (size_t i = 0; i < v.size;)
        i += offer_from(t, v, i, nodes);
    link_forward(nodes, v.size);
    emit_path(t, &n, nodes, m);
out:
    mem_free(nodes);
    normalised_release(&n);
}

/* Cuts the text at pieces that are one id wherever they stand. */
static void encode_all(const tokenizer *t, utf8_view text, emitter *m, err *e) {
    size_t from = 0, at = 0;
    while (at < text.size && !err_failed(e)) {
        int32_t id = -1;
        size_t n = longest_prefix(t, &t->literal, utf8_view_from(text, at), &id);
        if (n > 0) {
            encode_plain(t, (utf8_view){text.data + from, at - from}, from, m, e);
            emit(m, id, at);
            from = at + n;
        }
        at += n ? n : 1;
    }
    encode_plain(t, utf8_view_from(text, from), from, m, e);
}

ovi_status tokenizer_encode(const tokenizer *t, utf8_view text, int max_ids, tokens *out,
                            err *e) {
    if (max_ids < 1 || text.size > NORMALISED_MAX_BYTES)
        return err_set(
            e, OVI_ARGUMENT,
            "prompt: expected at most %u bytes and room for a token, found %zu, %d",
            NORMALISED_MAX_BYTES, text.size, max_ids);
    emitter m = {.room = max_ids - 1};
    m.out.id = mem_alloc(e, (size_t)max_ids, sizeof *m.out.id);
    if (m.out.id)
        encode_all(t, text, &m, e);
    if (err_failed(e)) {
        tokens_release(&m.out);
        return e->status;
    }
    m.out.id[m.out.n++] = t->eos;
    *out = m.out;
    return OVI_OK;
}

void tokens_release(tokens *k) {
    mem_free(k->id);
    *k = (tokens){0};
}
