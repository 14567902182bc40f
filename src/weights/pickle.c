/* pickle.c: the unpickler: a stack machine with marks and a memo.
 *
 *     bytes -> opcodes -> stack of values -> one root value (a tree over objects)
 *
 * Values are small and copied; containers live in one list of objects that owns their
 * items. Every opcode pushes at most one value, so stack, marks, memo and objects are
 * bounded by the length of the bytes. REDUCE and BINPERSID change no data: they check the
 * tuple of arguments and give it another kind. */
#include "weights/pickle.h"

#include <stdio.h>
#include <string.h>

#include "core/host.h"

/* What an accepted name stands for. */
typedef enum global_use { USE_DICT, USE_TENSOR, USE_PARAMETER, USE_STORAGE } global_use;

static const struct {
    const char *module, *name;
    global_use use;
    dtype type; /* of a storage */
} globals[] = {
    {"collections", "OrderedDict", USE_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", USE_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", USE_PARAMETER, 0},
    {"torch", "BFloat16Storage", USE_STORAGE, DTYPE_BF16},
    {"torch", "HalfStorage", USE_STORAGE, DTYPE_F16},
    {"torch", "FloatStorage", USE_STORAGE, DTYPE_F32},
    {"torch", "DoubleStorage", USE_STORAGE, DTYPE_F64},
    {"torch", "LongStorage", USE_STORAGE, DTYPE_I64},
    {"torch", "IntStorage", USE_STORAGE, DTYPE_I32},
    {"torch", "ShortStorage", USE_STORAGE, DTYPE_I16},
    {"torch", "CharStorage", USE_STORAGE, DTYPE_I8},
    {"torch", "ByteStorage", USE_STORAGE, DTYPE_U8},
    {"torch", "BoolStorage", USE_STORAGE, DTYPE_BOOL},
};
#define N_GLOBALS (sizeof globals / sizeof *globals)

typedef struct machine {
    pickle *p;
    const char *path;
    const uint8_t *begin, *at, *end;
    pickle_value *stack; /* owned */
    size_t n, capacity;
    size_t *mark; /* owned: heights of the stack */
    size_t n_marks, mark_capacity;
    pickle_value *memo; /* owned; kind NONE with size 1: never put */
    size_t n_memo, memo_capacity;
    bool stopped;
    err *e;
} machine;

typedef void (*op_fn)(machine *m, uint8_t op);

/* ---------------------------------------------------------------------- plumbing ---- */

static void broken(machine *m, const char *what) {
    err_set(m->e, OVI_FORMAT, "%s: data.pkl: %s at byte %zu", m->path, what,
            (size_t)(m->at - m->begin));
}

/* The next n bytes; NULL if there are fewer. */
static const uint8_t *take(machine *m, size_t n) {
    if ((size_t)(m->end - m->at) < n) {
        broken(m, "it ends early");
        return NULL;
    }
    const uint8_t *bytes = m->at;
    m->at += n;
    return bytes;
}

/* An unsigned little-endian number of n bytes. */
static uint64_t take_number(machine *m, size_t n) {
    const uint8_t *bytes = take(m, n);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < n; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* Room for one more element in a list that doubles. */
static bool make_room(err *e, void *list, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity)
        return true;
    void *old, *grown;
    memcpy(&old, list, sizeof old);
    size_t wanted = *capacity ? 2 * *capacity : 16;
    grown = mem_resize(e, old, wanted, size);
    if (!grown)
        return false;
    memcpy(list, &grown, sizeof grown);
    *capacity = wanted;
    return true;
}

static void push(machine *m, pickle_value v) {
    if (!err_failed(m->e) &&
        make_room(m->e, &m->stack, m->n, &m->capacity, sizeof *m->stack))
        m->stack[m->n++] = v;
}

/* Values under a mark belong to whoever set it. */
static size_t floor_of(const machine *m) {
    return m->n_marks ? m->mark[m->n_marks - 1] : 0;
}

static pickle_value pop(machine *m) {
    if (m->n > floor_of(m))
        return m->stack[--m->n];
    broken(m, "stack underflow");
    return (pickle_value){.kind = PICKLE_NONE};
}

/* Removes the mark; the values above it stay: m->stack[result .. m->n). */
static size_t pop_mark(machine *m) {
    if (m->n_marks > 0)
        return m->mark[--m->n_marks];
    broken(m, "stack underflow: no mark");
    return m->n;
}

static pickle_object *object_of(const machine *m, pickle_value v) {
    return &m->p->object[v.object];
}

static void object_add(machine *m, pickle_value to, pickle_value v) {
    pickle_object *o = object_of(m, to);
    if (!err_failed(m->e) &&
        make_room(m->e, &o->item, o->n, &o->capacity, sizeof *o->item))
        o->item[o->n++] = v;
}

/* A new container of the values m->stack[from .. m->n), which leave the stack. */
static void push_container(machine *m, pickle_kind kind, size_t from) {
    if (err_failed(m->e) ||
        !make_room(m->e, &m->p->object, m->p->n, &m->p->capacity, sizeof *m->p->object))
        return;
    pickle_value v = {.kind = kind, .object = m->p->n};
    m->p->object[m->p->n++] = (pickle_object){0};
    for (size_t i = from; i < m->n; i++)
        object_add(m, v, m->stack[i]);
    m->n = from;
    push(m, v);
}

/* ------------------------------------------------------------------------ frame ---- */

static void op_proto(machine *m, uint8_t op) {
    (void)op;
    uint64_t version = take_number(m, 1);
    if (!err_failed(m->e) && version != 2)
        err_set(m->e, OVI_FORMAT,
                "%s: data.pkl: expected protocol 2, found protocol %llu", m->path,
                (unsigned long long)version);
}

static void op_stop(machine *m, uint8_t op) {
    (void)op;
    m->p->root = pop(m);
    m->stopped = true;
    if (m->n > 0 || m->n_marks > 0)
        broken(m, "something is left on the stack");
}

static void op_mark(machine *m, uint8_t op) {
    (void)op;
    if (make_room(m->e, &m->mark, m->n_marks, &m->mark_capacity, sizeof *m->mark))
        m->mark[m->n_marks++] = m->n;
}

/* ------------------------------------------------------------------- containers ---- */

static void op_empty(machine *m, uint8_t op) {
    pickle_kind kind = op == '}' ? PICKLE_DICT : op == ']' ? PICKLE_LIST : PICKLE_TUPLE;
    push_container(m, kind, m->n);
}

static void op_tuple(machine *m, uint8_t op) {
    (void)op;
    push_container(m, PICKLE_TUPLE, pop_mark(m));
}

/* TUPLE1, TUPLE2, TUPLE3 */
static void op_tuple_n(machine *m, uint8_t op) {
    size_t n = op - 0x84u;
    if (m->n - floor_of(m) < n)
        broken(m, "stack underflow");
    else
        push_container(m, PICKLE_TUPLE, m->n - n);
}

/* The container under the values from `from` on, which must be of that kind. */
static bool container_under(machine *m, size_t from, pickle_kind kind, pickle_value *v) {
    if (err_failed(m->e))
        return false;
    if (from <= floor_of(m)) {
        broken(m, "stack underflow");
        return false;
    }
    *v = m->stack[from - 1];
    if (v->kind != kind)
        broken(m, "an item for something that is not a container");
    return v->kind == kind;
}

static void set_items(machine *m, size_t from) {
    pickle_value dict;
    if (!container_under(m, from, PICKLE_DICT, &dict))
        return;
    if ((m->n - from) % 2 != 0)
        broken(m, "a key without a value");
    for (size_t i = from; i < m->n && !err_failed(m->e); i++) {
        pickle_kind kind = m->stack[i].kind;
        if ((i - from) % 2 == 0 && kind != PICKLE_TEXT && kind != PICKLE_INT)
            broken(m, "a key that is neither text nor a whole number");
        object_add(m, dict, m->stack[i]);
    }
    m->n = from;
}

static void op_setitem(machine *m, uint8_t op) {
    (void)op;
    if (m->n - floor_of(m) < 3)
        broken(m, "stack underflow");
    else
        set_items(m, m->n - 2);
}

static void op_setitems(machine *m, uint8_t op) {
    (void)op;
    set_items(m, pop_mark(m));
}

static void append_items(machine *m, size_t from) {
    pickle_value list;
    if (!container_under(m, from, PICKLE_LIST, &list))
        return;
    for (size_t i = from; i < m->n; i++)
        object_add(m, list, m->stack[i]);
    m->n = from;
}

static void op_append(machine *m, uint8_t op) {
    (void)op;
    if (m->n - floor_of(m) < 2)
        broken(m, "stack underflow");
    else
        append_items(m, m->n - 1);
}

static void op_appends(machine *m, uint8_t op) {
    (void)op;
    append_items(m, pop_mark(m));
}

/* ----------------------------------------------------------------------- values ---- */

static void op_none(machine *m, uint8_t op) {
    (void)op;
    push(m, (pickle_value){.kind = PICKLE_NONE});
}

static void op_bool(machine *m, uint8_t op) {
    push(m, (pickle_value){.kind = PICKLE_BOOL, .number = op == 0x88});
}

/* BININT (signed), BININT1, BININT2 */
static void op_int(machine *m, uint8_t op) {
    uint64_t value = take_number(m, op == 'J' ? 4 : op == 'M' ? 2 : 1);
    int64_t number = op == 'J' ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value;
    push(m, (pickle_value){.kind = PICKLE_INT, .number = number});
}

/* LONG1: up to eight bytes, the highest bit is the sign. */
static void op_long(machine *m, uint8_t op) {
    (void)op;
    size_t n = (size_t)take_number(m, 1);
    if (n > 8) {
        broken(m, "a whole number of more than 64 bits");
        return;
    }
    uint64_t value = take_number(m, n);
    if (n > 0 && n < 8 && value >> (8 * n - 1))
        value |= UINT64_MAX << (8 * n);
    push(m, (pickle_value){.kind = PICKLE_INT, .number = (int64_t)value});
}

static void op_float(machine *m, uint8_t op) {
    (void)op;
    if (take(m, 8))
        push(m, (pickle_value){.kind = PICKLE_FLOAT});
}

/* Bytes of the UTF-8 sequence at s, 0 if it is not one (overlong, surrogate, cut). */
static size_t utf8_length(const uint8_t *s, size_t left) {
    uint8_t c = s[0];
    size_t n = c < 0x80   ? 1
               : c < 0xc2 ? 0
               : c < 0xe0 ? 2
               : c < 0xf0 ? 3
               : c < 0xf5 ? 4
                          : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) ||
        (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static void op_text(machine *m, uint8_t op) {
    (void)op;
    size_t size = (size_t)take_number(m, 4);
    const uint8_t *bytes = take(m, size);
    if (!bytes)
        return;
    for (size_t i = 0, n; i < size; i += n) {
        n = bytes[i] ? utf8_length(bytes + i, size - i) : 0;
        if (n == 0) {
            broken(m, "text that is not UTF-8");
            return;
        }
    }
    push(m, (pickle_value){.kind = PICKLE_TEXT,
                           .size = (uint32_t)size,
                           .text = (const char *)bytes});
}

/* ------------------------------------------------------------------------- memo ---- */

static void op_put(machine *m, uint8_t op) {
    size_t index = (size_t)take_number(m, op == 'q' ? 1 : 4);
    if (m->n <= floor_of(m)) {
        broken(m, "stack underflow");
    } else if (index > (size_t)(m->end - m->begin)) {
        broken(m, "a memo index beyond its length");
    } else {
        while (m->n_memo <= index &&
               make_room(m->e, &m->memo, m->n_memo, &m->memo_capacity, sizeof *m->memo))
            m->memo[m->n_memo++] = (pickle_value){.kind = PICKLE_NONE, .size = 1};
        if (index < m->n_memo)
            m->memo[index] = m->stack[m->n - 1];
    }
}

static void op_get(machine *m, uint8_t op) {
    size_t index = (size_t)take_number(m, op == 'h' ? 1 : 4);
    if (index >= m->n_memo ||
        (m->memo[index].kind == PICKLE_NONE && m->memo[index].size == 1))
        broken(m, "an unknown memo index");
    else
        push(m, m->memo[index]);
}

/* ---------------------------------------------------------------------- objects ---- */

/* The next line without its newline; NULL if there is none. */
static const char *take_line(machine *m, size_t *size) {
    const uint8_t *newline = memchr(m->at, '\n', (size_t)(m->end - m->at));
    if (!newline) {
        m->at = m->end;
        broken(m, "it ends early");
        return NULL;
    }
    const char *line = (const char *)m->at;
    *size = (size_t)(newline - m->at);
    m->at = newline + 1;
    return line;
}

static bool same_text(const char *a, size_t size, const char *b) {
    return strlen(b) == size && memcmp(a, b, size) == 0;
}

/* Refuses a name outside the list; what a terminal could take as a command is masked. */
static void refuse_global(machine *m, const char *module, size_t n_module,
                          const char *name, size_t n_name) {
    char text[200];
    int n = snprintf(text, sizeof text, "%.*s.%.*s", (int)(n_module < 90 ? n_module : 90),
                     module, (int)(n_name < 90 ? n_name : 90), name);
    for (int i = 0; i < n; i++)
        if (text[i] < ' ' || text[i] > '~')
            text[i] = '?';
    err_set(m->e, OVI_FORMAT,
            "%s: data.pkl: refused %s: it is not among the names that checkpoints need",
            m->path, text);
}

static void op_global(machine *m, uint8_t op) {
    (void)op;
    size_t n_module = 0, n_name = 0;
    const char *module = take_line(m, &n_module);
    const char *name = module ? take_line(m, &n_name) : NULL;
    if (!name)
        return;
    for (size_t i = 0; i < N_GLOBALS; i++) {
        if (same_text(module, n_module, globals[i].module) &&
            same_text(name, n_name, globals[i].name)) {
            push(m, (pickle_value){.kind = PICKLE_GLOBAL, .number = (int64_t)i});
            return;
        }
    }
    refuse_global(m, module, n_module, name, n_name);
}

static bool is_global(pickle_value v, global_use use) {
    return v.kind == PICKLE_GLOBAL && globals[v.number].use == use;
}

/* Is v a tuple whose first items are of these kinds, and of n_min to n_max items? */
static bool tuple_fits(const machine *m, pickle_value v, const pickle_kind *kinds,
                       size_t n_min, size_t n_max) {
    if (v.kind != PICKLE_TUPLE)
        return false;
    const pickle_object *o = object_of(m, v);
    if (o->n < n_min || o->n > n_max)
        return false;
    for (size_t i = 0; i < n_min; i++)
        if (o->item[i].kind != kinds[i])
            return false;
    return true;
}

static void op_persid(machine *m, uint8_t op) {
    (void)op;
    static const pickle_kind kinds[] = {PICKLE_TEXT, PICKLE_GLOBAL, PICKLE_TEXT,
                                        PICKLE_TEXT, PICKLE_INT};
    pickle_value v = pop(m);
    if (!tuple_fits(m, v, kinds, 5, 5) || object_of(m, v)->item[4].number < 0 ||
        !is_global(object_of(m, v)->item[1], USE_STORAGE) ||
        !same_text(object_of(m, v)->item[0].text, object_of(m, v)->item[0].size,
                   "storage")) {
        broken(m, "a persistent id that is not a storage");
        return;
    }
    v.kind = PICKLE_STORAGE;
    push(m, v);
}

static bool all_ints(const machine *m, pickle_value tuple) {
    const pickle_object *o = object_of(m, tuple);
    for (size_t i = 0; i < o->n; i++)
        if (o->item[i].kind != PICKLE_INT)
            return false;
    return true;
}

static bool is_tensor_call(const machine *m, pickle_value args) {
    static const pickle_kind kinds[] = {PICKLE_STORAGE, PICKLE_INT,  PICKLE_TUPLE,
                                        PICKLE_TUPLE,   PICKLE_BOOL, PICKLE_DICT};
    return tuple_fits(m, args, kinds, 6, 7) && all_ints(m, object_of(m, args)->item[2]) &&
           all_ints(m, object_of(m, args)->item[3]);
}

static bool is_parameter_call(const machine *m, pickle_value args) {
    static const pickle_kind kinds[] = {PICKLE_TENSOR, PICKLE_BOOL, PICKLE_DICT};
    return tuple_fits(m, args, kinds, 3, 3);
}

static void op_reduce(machine *m, uint8_t op) {
    (void)op;
    pickle_value args = pop(m), callee = pop(m);
    if (is_global(callee, USE_DICT) && tuple_fits(m, args, NULL, 0, 0)) {
        push_container(m, PICKLE_DICT, m->n);
    } else if (is_global(callee, USE_TENSOR) && is_tensor_call(m, args)) {
        args.kind = PICKLE_TENSOR;
        push(m, args);
    } else if (is_global(callee, USE_PARAMETER) && is_parameter_call(m, args)) {
        push(m, object_of(m, args)->item[0]);
    } else {
        broken(m, "a call with arguments of the wrong types");
    }
}

/* Attributes of a dictionary (_metadata of a state dict) are no entries: dropped. */
static void op_build(machine *m, uint8_t op) {
    (void)op;
    pickle_value dict;
    (void)pop(m);
    if (container_under(m, m->n, PICKLE_DICT, &dict))
        return;
    broken(m, "attributes of something that is not a dictionary");
}

/* ------------------------------------------------------------------------- loop ---- */

static const op_fn ops[256] = {
    [0x80] = op_proto,   ['.'] = op_stop,     ['('] = op_mark,    ['}'] = op_empty,
    [']'] = op_empty,    [')'] = op_empty,    ['t'] = op_tuple,   [0x85] = op_tuple_n,
    [0x86] = op_tuple_n, [0x87] = op_tuple_n, ['s'] = op_setitem, ['u'] = op_setitems,
    ['a'] = op_append,   ['e'] = op_appends,  ['N'] = op_none,    [0x88] = op_bool,
    [0x89] = op_bool,    ['J'] = op_int,      ['K'] = op_int,     ['M'] = op_int,
    [0x8a] = op_long,    ['G'] = op_float,    ['X'] = op_text,    ['q'] = op_put,
    ['r'] = op_put,      ['h'] = op_get,      ['j'] = op_get,     ['c'] = op_global,
    ['Q'] = op_persid,   ['R'] = op_reduce,   ['b'] = op_build,
};

static void run(machine *m) {
    while (!m->stopped && !err_failed(m->e)) {
        const uint8_t *op = take(m, 1);
        if (op && ops[*op])
            ops[*op](m, *op);
        else if (op)
            err_set(m->e, OVI_FORMAT, "%s: data.pkl: opcode 0x%02x is not read here",
                    m->path, *op);
    }
}

ovi_status pickle_read(pickle *p, const void *bytes, size_t size, const char *path,
                       err *e) {
    *p = (pickle){0};
    machine m = {.p = p,
                 .path = path,
                 .begin = bytes,
                 .at = bytes,
                 .end = (const uint8_t *)bytes + size,
                 .e = e};
    run(&m);
    mem_free(m.stack);
    mem_free(m.mark);
    mem_free(m.memo);
    if (err_failed(e))
        pickle_release(p);
    return e->status;
}

void pickle_release(pickle *p) {
    for (size_t i = 0; i < p->n; i++)
        mem_free(p->object[i].item);
    mem_free(p->object);
    *p = (pickle){0};
}

dtype pickle_storage_type(const pickle *p, pickle_value storage) {
    return globals[p->object[storage.object].item[1].number].type;
}
