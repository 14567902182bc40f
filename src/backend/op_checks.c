/* op_checks.c: the contracts written at the descriptors in backend.h, as code.
 *
 * Models meet these sentences while they are written, and on the dry run before any work:
 * each names the operation, the operand, what was expected and what was found. Only
 * shapes, types, strides and addresses are looked at, never data. */
#include <math.h>
#include <stdio.h>

#include "backend/device.h"

/* An operand and its name in the descriptor. */
typedef struct operand {
    const char *name;
    const tensor *t;
} operand;
#define OPERAND(field) ((operand){#field, &x->field})

/* Which operation is checked, on which device. */
typedef struct checker {
    device *d;
    const char *op;
} checker;

typedef struct shape_text {
    char s[128];
} shape_text;

static shape_text text_of(const tensor *t) {
    shape_text text = {"["};
    size_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n += (size_t)snprintf(text.s + n, sizeof text.s - n, i ? ", %lld" : "%lld",
                              (long long)t->dim[i]);
    snprintf(text.s + n, sizeof text.s - n, "]");
    return text;
}
#define TEXT(operand) text_of((operand).t).s

static bool present(const tensor *t) {
    return t->data != NULL;
}

/* ------------------------------------------------------------- single operands ---- */

static bool has_rank(checker c, operand a, int lo, int hi) {
    if (!present(a.t)) {
        device_fail(c.d, OVI_INTERNAL, "%s: %s is missing", c.op, a.name);
        return false;
    }
    if (a.t->rank >= lo && a.t->rank <= hi)
        return true;
    char ranks[32];
    snprintf(ranks, sizeof ranks, lo == hi ? "%d" : "%d to %d", lo, hi);
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected rank %s, found %d", c.op, a.name,
                TEXT(a), ranks, a.t->rank);
    return false;
}

static bool has_type(checker c, operand a, dtype type) {
    if (a.t->type == type)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected %s, found %s", c.op, a.name,
                TEXT(a), dtype_name(type), dtype_name(a.t->type));
    return false;
}

/* F32 or BF16 of rank lo..hi, any strides. */
static bool is_movable(checker c, operand a, int lo, int hi) {
    if (!has_rank(c, a, lo, hi))
        return false;
    for (int i = 0; i < a.t->rank; i++) {
        if (a.t->dim[i] < 0 || a.t->stride[i] < 0) {
            device_fail(c.d, OVI_INTERNAL, "%s: %s %s: a negative size or stride", c.op,
                        a.name, TEXT(a));
            return false;
        }
    }
    if (a.t->type == DTYPE_F32 || a.t->type == DTYPE_BF16)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected F32 or BF16, found %s", c.op,
                a.name, TEXT(a), dtype_name(a.t->type));
    return false;
}

/* As is_movable, with neighbours along the innermost axis. */
static bool is_activation(checker c, operand a, int lo, int hi) {
    if (!is_movable(c, a, lo, hi))
        return false;
    int last = a.t->rank - 1;
    if (a.t->stride[last] == 1 || a.t->dim[last] == 1)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected innermost stride 1, found %lld",
                c.op, a.name, TEXT(a), (long long)a.t->stride[last]);
    return false;
}

/* As is_activation, or F8_E4M3. */
static bool is_quantised_or_not(checker c, operand a, int lo, int hi) {
    tensor t = *a.t;
    if (t.type == DTYPE_F8_E4M3)
        t.type = DTYPE_BF16;
    return is_activation(c, (operand){a.name, &t}, lo, hi);
}

/* A power of two that f32 can divide by; 0 counts as 1. */
static bool is_scale(checker c, const char *name, float scale) {
    int exponent = 0;
    if (scale == 0 || (isfinite(scale) && frexpf(scale, &exponent) == 0.5f &&
                       exponent > -100 && exponent < 100))
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s: expected a power of two, found %g", c.op,
                name, (double)scale);
    return false;
}

/* Written: no element stands for several. */
static bool is_writable(checker c, operand a) {
    for (int i = 0; i < a.t->rank; i++) {
        if (a.t->dim[i] > 1 && a.t->stride[i] == 0) {
            device_fail(c.d, OVI_INTERNAL, "%s: %s %s is written but repeats axis %d",
                        c.op, a.name, TEXT(a), i);
            return false;
        }
    }
    return true;
}

/* Positive extents on every axis: sums over nothing have no value. */
static bool is_filled(checker c, operand a) {
    for (int i = 0; i < a.t->rank; i++) {
        if (a.t->dim[i] < 1) {
            device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected no empty axis", c.op,
                        a.name, TEXT(a));
            return false;
        }
    }
    return true;
}

static bool has_dim(checker c, operand a, int axis, int64_t n) {
    if (a.t->dim[axis] == n)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected %lld along axis %d, found %lld",
                c.op, a.name, TEXT(a), (long long)n, axis, (long long)a.t->dim[axis]);
    return false;
}

/* An F32 vector of n values. */
static bool is_vector(checker c, operand a, int64_t n) {
    return is_activation(c, a, 1, 1) && has_type(c, a, DTYPE_F32) && has_dim(c, a, 0, n);
}

static bool is_vector_if_any(checker c, operand a, int64_t n) {
    return !present(a.t) || is_vector(c, a, n);
}

/* ------------------------------------------------------------ pairs of operands ---- */

static bool same_shape(checker c, operand a, operand b) {
    if (tensor_same_shape(a.t, b.t))
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s and %s %s: expected equal shapes", c.op,
                a.name, TEXT(a), b.name, TEXT(b));
    return false;
}

static bool same_type(checker c, operand a, operand b) {
    if (a.t->type == b.t->type)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: expected %s like %s, which is %s, found %s", c.op,
                b.name, a.name, dtype_name(a.t->type), dtype_name(b.t->type));
    return false;
}

/* Overlap that can be told from the first address: views of interleaved columns share an
 * extent but no element, and are fine. */
static bool are_apart(checker c, operand a, operand b) {
    if (a.t->data != b.t->data)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s and %s %s overlap", c.op, a.name, TEXT(a),
                b.name, TEXT(b));
    return false;
}

/* Wherever they are. */
static bool lie_alike(const tensor *a, const tensor *b) {
    bool same = a->type == b->type && tensor_same_shape(a, b);
    for (int i = 0; same && i < a->rank; i++)
        same = a->dim[i] == 1 || a->stride[i] == b->stride[i];
    return same;
}

/* b is written: it may be the very view of a, else they are apart. */
static bool same_view_or_apart(checker c, operand a, operand b) {
    return lie_alike(a.t, b.t) || are_apart(c, a, b);
}

/* Something of out's shape and type that may be the very view of out. */
static bool is_residual_if_any(checker c, operand residual, operand out) {
    if (!present(residual.t))
        return true;
    return is_activation(c, residual, out.t->rank, out.t->rank) &&
           same_shape(c, out, residual) && same_type(c, out, residual) &&
           same_view_or_apart(c, residual, out);
}

/* Modulation of x [B, M, C] or [M, C]: [R, C] or [B, R, C], R = 1 or 2. */
static bool is_modulation_if_any(checker c, operand a, operand x, int64_t width,
                                 int64_t split) {
    if (!present(a.t))
        return true;
    if (!is_activation(c, a, 2, x.t->rank) || !has_type(c, a, DTYPE_F32) ||
        !has_dim(c, a, a.t->rank - 1, width) ||
        (a.t->rank == 3 && !has_dim(c, a, 0, x.t->dim[0])))
        return false;
    int64_t n_rows = a.t->dim[a.t->rank - 2], tokens = x.t->dim[x.t->rank - 2];
    if (n_rows == 1 || (n_rows == 2 && split >= 0 && split <= tokens))
        return true;
    device_fail(
        c.d, OVI_INTERNAL,
        "%s: %s %s: expected 1 row, or 2 with a split of 0 to %lld, found %lld rows "
        "and %lld",
        c.op, a.name, TEXT(a), (long long)tokens, (long long)n_rows, (long long)split);
    return false;
}

/* ---------------------------------------------------------------- the operations ---- */

/* What x in F8_E4M3 allows. */
static bool check_f8_linear(checker c, const linear_desc *x) {
    const dtype w = x->w.type, out = x->out.type;
    const bool plain = !present(&x->gate) && !present(&x->residual) &&
                       (x->act == ACT_NONE || x->act == ACT_GELU_TANH);
    if (!is_scale(c, "x_scale", x->x_scale) || !is_scale(c, "w_scale", x->w_scale) ||
        !is_scale(c, "out_scale", x->out_scale))
        return false;
    if ((w == DTYPE_F8_E4M3 || w == DTYPE_BF16) &&
        (out == DTYPE_BF16 || (out == DTYPE_F8_E4M3 && plain)))
        return true;
    device_fail(
        c.d, OVI_INTERNAL,
        "linear: expected w of BF16 or F8_E4M3 and out of BF16, or a plain F8_E4M3, "
        "with x of F8_E4M3, found %s and %s",
        dtype_name(w), dtype_name(out));
    return false;
}

static bool check_linear_types(checker c, const linear_desc *x) {
    if (x->w_by_row && (x->x.type != DTYPE_F8_E4M3 || x->w.type != DTYPE_BF16 ||
                        x->out.type != DTYPE_BF16)) {
        device_fail(
            c.d, OVI_INTERNAL,
            "linear: expected x of F8_E4M3, w and out of BF16 with a scale for each "
            "row of w, found %s, %s and %s",
            dtype_name(x->x.type), dtype_name(x->w.type), dtype_name(x->out.type));
        return false;
    }
    if (x->x.type == DTYPE_F8_E4M3)
        return check_f8_linear(c, x);
    if (!is_activation(c, OPERAND(out), x->x.rank, x->x.rank))
        return false;
    if (x->w.type == x->x.type || (x->x.type == DTYPE_F32 && x->w.type == DTYPE_BF16) ||
        (x->x.type == DTYPE_BF16 && x->w.type == DTYPE_F8_E4M3 &&
         device_backend(c.d)->f8_weights))
        return true;
    device_fail(c.d, OVI_INTERNAL, "linear: expected w of %s%s with x of %s, found %s",
                x->x.type == DTYPE_F32 ? "F32 or " : "", "BF16", dtype_name(x->x.type),
                dtype_name(x->w.type));
    return false;
}

static bool check_linear_shapes(checker c, const linear_desc *x) {
    int last = x->x.rank - 1;
    int64_t k = x->w.dim[1];
    if (x->x.dim[last] != k) {
        device_fail(
            c.d, OVI_INTERNAL, "linear: x %s and w %s: expected K = %lld, found %lld",
            TEXT(OPERAND(x)), TEXT(OPERAND(w)), (long long)k, (long long)x->x.dim[last]);
        return false;
    }
    for (int i = 0; i < last; i++)
        if (!has_dim(c, OPERAND(out), i, x->x.dim[i]))
            return false;
    return has_dim(c, OPERAND(out), last, x->w.dim[0]);
}

/* The norm behind a product: of out, which stays. */
static bool check_linear_norm(checker c, const linear_desc *x) {
    const norm_desc *norm = x->norm;
    if (!norm)
        return true;
    const operand of = {"norm.x", &norm->x}, to = {"norm.out", &norm->out};
    if (!check_norm(c.d, norm) || !same_shape(c, OPERAND(out), of) ||
        !same_type(c, OPERAND(out), of))
        return false;
    if (norm->x.data != x->out.data || !same_view_or_apart(c, OPERAND(out), of)) {
        device_fail(c.d, OVI_INTERNAL, "linear: expected a norm of out, found another x");
        return false;
    }
    return are_apart(c, OPERAND(out), to) && are_apart(c, OPERAND(residual), to) &&
           are_apart(c, OPERAND(w), to);
}

static bool is_plain_product(const linear_desc *x) {
    return !present(&x->gate) && !present(&x->residual) && !x->norm && x->act == ACT_NONE;
}

/* The product beside another one: of the same x, and as plain. */
static bool check_linear_beside(checker c, const linear_desc *x) {
    const linear_desc *y = x->beside;
    if (!y)
        return true;
    if (y->x.data != x->x.data || !lie_alike(&x->x, &y->x) || y->x_scale != x->x_scale ||
        !is_plain_product(x) || !is_plain_product(y)) {
        device_fail(c.d, OVI_INTERNAL,
                    "linear: expected products of one x side by side, with nothing but a "
                    "bias, found others");
        return false;
    }
    const operand w = {"beside.w", &y->w}, out = {"beside.out", &y->out};
    if (!same_shape(c, OPERAND(w), w) || !same_type(c, OPERAND(w), w) ||
        !same_type(c, OPERAND(out), out))
        return false;
    for (; y; y = y->beside) {
        const operand other_w = {"beside.w", &y->w}, other_out = {"beside.out", &y->out};
        if (!are_apart(c, OPERAND(out), other_out) ||
            !are_apart(c, OPERAND(out), other_w) || !are_apart(c, OPERAND(w), other_out))
            return false;
    }
    return check_linear(c.d, x->beside);
}

bool check_linear(device *d, const linear_desc *x) {
    checker c = {d, "linear"};
    if (!is_quantised_or_not(c, OPERAND(x), 2, 3) || !has_rank(c, OPERAND(w), 2, 2) ||
        !is_filled(c, OPERAND(w)) || !check_linear_types(c, x) ||
        !is_quantised_or_not(c, OPERAND(out), x->x.rank, x->x.rank) ||
        !check_linear_shapes(c, x) || !is_writable(c, OPERAND(out)))
        return false;
    if (!tensor_is_dense(&x->w)) {
        device_fail(d, OVI_INTERNAL, "linear: w %s: expected a dense tensor",
                    TEXT(OPERAND(w)));
        return false;
    }
    int64_t n = x->w.dim[0];
    return is_vector_if_any(c, OPERAND(bias), n) &&
           is_modulation_if_any(c, OPERAND(gate), OPERAND(x), n, x->split) &&
           is_residual_if_any(c, OPERAND(residual), OPERAND(out)) &&
           are_apart(c, OPERAND(x), OPERAND(out)) &&
           are_apart(c, OPERAND(w), OPERAND(out)) && check_linear_norm(c, x) &&
           check_linear_beside(c, x);
}

/* cos, sin [M, d/2], both or neither. */
static bool check_rotation(checker c, const norm_desc *x) {
    if (!present(&x->cos) && !present(&x->sin))
        return true;
    int64_t width = x->x.dim[x->x.rank - 1], tokens = x->x.dim[x->x.rank - 2];
    if (x->head_dim < 2 || x->head_dim % 2 || width % x->head_dim) {
        device_fail(c.d, OVI_INTERNAL,
                    "norm: expected an even head_dim that divides %lld, found %lld",
                    (long long)width, (long long)x->head_dim);
        return false;
    }
    const operand tables[] = {OPERAND(cos), OPERAND(sin)};
    for (int i = 0; i < 2; i++)
        if (!is_activation(c, tables[i], 2, 2) || !has_type(c, tables[i], DTYPE_F32) ||
            !has_dim(c, tables[i], 0, tokens) ||
            !has_dim(c, tables[i], 1, x->head_dim / 2))
            return false;
    return true;
}

bool check_norm(device *d, const norm_desc *x) {
    checker c = {d, "norm"};
    if (!is_activation(c, OPERAND(x), 2, 3) ||
        !is_quantised_or_not(c, OPERAND(out), 2, 3) ||
        !same_shape(c, OPERAND(x), OPERAND(out)) || !is_writable(c, OPERAND(out)) ||
        !same_view_or_apart(c, OPERAND(x), OPERAND(out)) || !check_rotation(c, x))
        return false;
    if (x->out.type == DTYPE_F8_E4M3 && (present(&x->cos) || present(&x->normed))) {
        device_fail(d, OVI_INTERNAL, "norm: expected no rotation with out of F8_E4M3");
        return false;
    }
    if (!is_scale(c, "out_scale", x->out_scale))
        return false;
    if (present(&x->scale) != present(&x->shift)) {
        device_fail(d, OVI_INTERNAL, "norm: expected scale and shift, found only %s",
                    present(&x->scale) ? "scale" : "shift");
        return false;
    }
    if (present(&x->normed) && (!is_activation(c, OPERAND(normed), 2, 3) ||
                                !same_shape(c, OPERAND(out), OPERAND(normed)) ||
                                !same_type(c, OPERAND(out), OPERAND(normed)) ||
                                !is_writable(c, OPERAND(normed)) ||
                                !are_apart(c, OPERAND(out), OPERAND(normed)) ||
                                !are_apart(c, OPERAND(x), OPERAND(normed))))
        return false;
    int64_t width = x->x.dim[x->x.rank - 1];
    return is_vector_if_any(c, OPERAND(weight), width) &&
           is_vector_if_any(c, OPERAND(bias), width) &&
           is_modulation_if_any(c, OPERAND(scale), OPERAND(x), width, x->split) &&
           is_modulation_if_any(c, OPERAND(shift), OPERAND(x), width, x->split);
}

static bool check_attention_bias(checker c, const attention_desc *x) {
    int64_t sq = x->q.dim[1], heads = x->q.dim[2], sk = x->k.dim[1];
    if (!is_vector_if_any(c, OPERAND(key_bias), sk))
        return false;
    return !present(&x->rel_bias) || (is_activation(c, OPERAND(rel_bias), 2, 2) &&
                                      has_type(c, OPERAND(rel_bias), DTYPE_F32) &&
                                      has_dim(c, OPERAND(rel_bias), 0, heads) &&
                                      has_dim(c, OPERAND(rel_bias), 1, sq + sk - 1));
}

/* The log-sum-exp of every query, if it is asked for. */
static bool check_attention_lse(checker c, const attention_desc *x) {
    const operand lse = OPERAND(lse),
                  all[] = {OPERAND(q),   OPERAND(k),        OPERAND(v),
                           OPERAND(out), OPERAND(key_bias), OPERAND(rel_bias)};
    if (!present(lse.t))
        return true;
    for (int i = 0; i < 6; i++)
        if (!are_apart(c, all[i], lse))
            return false;
    return is_activation(c, lse, 3, 3) && has_type(c, lse, DTYPE_F32) &&
           has_dim(c, lse, 0, x->q.dim[0]) && has_dim(c, lse, 1, x->q.dim[2]) &&
           has_dim(c, lse, 2, x->q.dim[1]) && is_writable(c, lse);
}

bool check_attention(device *d, const attention_desc *x) {
    checker c = {d, "attention"};
    const operand all[] = {OPERAND(q), OPERAND(k), OPERAND(v), OPERAND(out)};
    for (int i = 0; i < 4; i++)
        if (!is_activation(c, all[i], 4, 4) || !same_type(c, all[0], all[i]))
            return false;
    if (!is_filled(c, OPERAND(k)) || !same_shape(c, OPERAND(k), OPERAND(v)) ||
        !same_shape(c, OPERAND(q), OPERAND(out)) || !is_writable(c, OPERAND(out)))
        return false;
    for (int axis = 0; axis < 4; axis++)
        if (axis != 1 && !has_dim(c, OPERAND(k), axis, x->q.dim[axis]))
            return false;
    for (int i = 0; i < 3; i++)
        if (!are_apart(c, all[i], OPERAND(out)))
            return false;
    return check_attention_bias(c, x) && check_attention_lse(c, x);
}

/* Frames may be apart, pixels within a frame are dense. */
static bool is_frames(checker c, operand a) {
    if (!is_activation(c, a, 4, 4))
        return false;
    tensor frame = *a.t;
    frame.dim[0] = 1;
    if (tensor_is_dense(&frame))
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: %s %s: expected dense frames", c.op, a.name,
                TEXT(a));
    return false;
}

static int64_t one_if_zero(int64_t v) {
    return v == 0 ? 1 : v;
}

/* The extent of out along axis i; 0: no place for the kernel, or hostile numbers. */
static int64_t conv_out_dim(const conv_desc *x, int i) {
    int64_t stride = one_if_zero(x->stride[i]), dilation = one_if_zero(x->dilation[i]);
    int64_t n = x->x.dim[i] * (x->upsample && i > 0 ? 2 : 1);
    int64_t reach = dilation * (x->geometry.kernel[i] - 1) + 1;
    int64_t room = n + x->pad_lo[i] + x->pad_hi[i] - reach;
    bool sane = stride > 0 && dilation > 0 && x->pad_lo[i] >= 0 && x->pad_hi[i] >= 0 &&
                x->geometry.kernel[i] > 0;
    return sane && room >= 0 ? room / stride + 1 : 0;
}

static bool check_conv_weights(checker c, const conv_desc *x) {
    const conv_geometry *g = &x->geometry;
    size_t bytes = device_conv_packed_bytes(c.d, g, x->x.type);
    if (has_rank(c, OPERAND(w), 1, 1) && has_type(c, OPERAND(w), DTYPE_U8) &&
        has_dim(c, OPERAND(w), 0, (int64_t)bytes))
        return is_vector_if_any(c, OPERAND(bias), g->out_channels);
    return false;
}

bool check_conv(device *d, const conv_desc *x) {
    checker c = {d, "conv"};
    if (!is_frames(c, OPERAND(x)) || !is_frames(c, OPERAND(out)) ||
        !same_type(c, OPERAND(x), OPERAND(out)) || !is_writable(c, OPERAND(out)) ||
        !is_filled(c, OPERAND(x)))
        return false;
    for (int i = 0; i < 3; i++) {
        int64_t n = conv_out_dim(x, i);
        if (n < 1) {
            device_fail(
                d, OVI_INTERNAL,
                "conv: x %s: the kernel, stride, dilation and padding of axis %d do "
                "not fit",
                TEXT(OPERAND(x)), i);
            return false;
        }
        if (!has_dim(c, OPERAND(out), i, n))
            return false;
    }
    return has_dim(c, OPERAND(x), 3, x->geometry.in_channels) &&
           has_dim(c, OPERAND(out), 3, x->geometry.out_channels) &&
           check_conv_weights(c, x) && are_apart(c, OPERAND(x), OPERAND(out)) &&
           (!present(&x->residual) || is_frames(c, OPERAND(residual))) &&
           is_residual_if_any(c, OPERAND(residual), OPERAND(out));
}

bool check_copy(device *d, const copy_desc *x) {
    checker c = {d, "copy"};
    return is_movable(c, OPERAND(x), 1, TENSOR_MAX_RANK) &&
           is_movable(c, OPERAND(out), 1, TENSOR_MAX_RANK) &&
           same_shape(c, OPERAND(x), OPERAND(out)) && is_writable(c, OPERAND(out)) &&
           are_apart(c, OPERAND(x), OPERAND(out));
}

bool check_lincomb(device *d, const lincomb_desc *x) {
    checker c = {d, "lincomb"};
    if (x->n < 1 || x->n > 4) {
        device_fail(d, OVI_INTERNAL, "lincomb: expected 1 to 4 terms, found %d", x->n);
        return false;
    }
    if (!is_movable(c, OPERAND(out), 1, TENSOR_MAX_RANK) || !is_writable(c, OPERAND(out)))
        return false;
    static const char *const names[] = {"x[0]", "x[1]", "x[2]", "x[3]"};
    for (int i = 0; i < x->n; i++) {
        operand term = {names[i], &x->x[i]};
        if (!is_movable(c, term, 1, TENSOR_MAX_RANK) ||
            !same_shape(c, term, OPERAND(out)) ||
            !same_view_or_apart(c, term, OPERAND(out)))
            return false;
    }
    return true;
}

bool check_affine(device *d, const affine_desc *x) {
    checker c = {d, "affine"};
    if (!is_activation(c, OPERAND(x), 1, TENSOR_MAX_RANK) ||
        !is_activation(c, OPERAND(out), 1, TENSOR_MAX_RANK) ||
        !same_shape(c, OPERAND(x), OPERAND(out)) || !is_writable(c, OPERAND(out)) ||
        !same_view_or_apart(c, OPERAND(x), OPERAND(out)))
        return false;
    int64_t width = x->x.dim[x->x.rank - 1];
    return is_vector_if_any(c, OPERAND(scale), width) &&
           is_vector_if_any(c, OPERAND(shift), width);
}

bool check_gated(device *d, const gated_desc *x) {
    checker c = {d, "gated"};
    return is_activation(c, OPERAND(a), 2, 2) && is_activation(c, OPERAND(b), 2, 2) &&
           is_activation(c, OPERAND(out), 2, 2) &&
           same_shape(c, OPERAND(a), OPERAND(b)) &&
           same_shape(c, OPERAND(a), OPERAND(out)) && is_writable(c, OPERAND(out)) &&
           same_view_or_apart(c, OPERAND(a), OPERAND(out)) &&
           same_view_or_apart(c, OPERAND(b), OPERAND(out));
}

bool check_snake(device *d, const snake_desc *x) {
    checker c = {d, "snake"};
    if (!is_activation(c, OPERAND(x), 2, 2) || !has_type(c, OPERAND(x), DTYPE_F32) ||
        !is_activation(c, OPERAND(out), 2, 2) || !has_type(c, OPERAND(out), DTYPE_F32) ||
        !same_shape(c, OPERAND(x), OPERAND(out)) || !is_writable(c, OPERAND(out)) ||
        !are_apart(c, OPERAND(x), OPERAND(out)))
        return false;
    int64_t width = x->x.dim[1];
    return is_vector(c, OPERAND(alpha), width) && is_vector(c, OPERAND(beta), width) &&
           is_vector(c, OPERAND(filter), 12);
}

/* A shortcut between x and out: outer and inner extents of time, height and width are
 * factors apart, and the folded channels divide evenly. */
static bool check_shortcut(checker c, operand x, operand out) {
    return is_activation(c, x, 4, 4) && is_activation(c, out, 4, 4) && is_filled(c, x) &&
           is_writable(c, out) && are_apart(c, x, out);
}

static bool is_factor(checker c, const char *name, int factor) {
    if (factor == 1 || factor == 2)
        return true;
    device_fail(c.d, OVI_INTERNAL, "%s: expected %s of 1 or 2, found %d", c.op, name,
                factor);
    return false;
}

/* Channels of one side that unfold into `whole` values, in groups of equal size. */
static bool divides(checker c, operand a, int64_t whole) {
    int64_t part = a.t->dim[3];
    if (part > 0 && whole % part == 0)
        return true;
    device_fail(c.d, OVI_INTERNAL,
                "%s: %s %s: expected channels that divide %lld, found %lld", c.op, a.name,
                TEXT(a), (long long)whole, (long long)part);
    return false;
}

bool check_dup_up(device *d, const dup_up_desc *x) {
    checker c = {d, "dup_up"};
    int64_t f = x->time_factor;
    if (!check_shortcut(c, OPERAND(x), OPERAND(out)) ||
        !is_factor(c, "time_factor", x->time_factor) ||
        !divides(c, OPERAND(x), 4 * f * x->out.dim[3]))
        return false;
    if (x->drop < 0 || x->drop >= x->x.dim[0] * f) {
        device_fail(d, OVI_INTERNAL, "dup_up: x %s: expected to drop 0 to %lld, found %d",
                    TEXT(OPERAND(x)), (long long)(x->x.dim[0] * f - 1), x->drop);
        return false;
    }
    return has_dim(c, OPERAND(out), 0, x->x.dim[0] * f - x->drop) &&
           has_dim(c, OPERAND(out), 1, 2 * x->x.dim[1]) &&
           has_dim(c, OPERAND(out), 2, 2 * x->x.dim[2]);
}

bool check_avg_down(device *d, const avg_down_desc *x) {
    checker c = {d, "avg_down"};
    int64_t f = x->time_factor, s = x->space_factor;
    if (!check_shortcut(c, OPERAND(x), OPERAND(out)) ||
        !is_factor(c, "time_factor", x->time_factor) ||
        !is_factor(c, "space_factor", x->space_factor) ||
        !divides(c, OPERAND(out), x->x.dim[3] * f * s * s))
        return false;
    return has_dim(c, OPERAND(out), 0, (x->x.dim[0] + f - 1) / f) &&
           has_dim(c, OPERAND(x), 1, x->out.dim[1] * s) &&
           has_dim(c, OPERAND(x), 2, x->out.dim[2] * s);
}

bool check_fill(device *d, const fill_desc *x) {
    checker c = {d, "fill"};
    return has_rank(c, OPERAND(out), 1, TENSOR_MAX_RANK) && is_writable(c, OPERAND(out));
}

bool check_pixels(device *d, const pixels_desc *x) {
    checker c = {d, "pixels"};
    return is_movable(c, OPERAND(x), 1, TENSOR_MAX_RANK) &&
           has_type(c, OPERAND(x), DTYPE_F32) &&
           has_rank(c, OPERAND(out), 1, TENSOR_MAX_RANK) &&
           has_type(c, OPERAND(out), DTYPE_U8) && is_writable(c, OPERAND(out)) &&
           same_shape(c, OPERAND(x), OPERAND(out)) &&
           are_apart(c, OPERAND(x), OPERAND(out)) && is_vector_if_any(c, OPERAND(bad), 1);
}

bool check_quantise(device *d, const quantise_desc *x) {
    checker c = {d, "quantise"};
    return is_activation(c, OPERAND(x), 2, 3) && has_type(c, OPERAND(x), DTYPE_BF16) &&
           is_quantised_or_not(c, OPERAND(out), 2, 3) &&
           has_type(c, OPERAND(out), DTYPE_F8_E4M3) && is_writable(c, OPERAND(out)) &&
           same_shape(c, OPERAND(x), OPERAND(out)) &&
           are_apart(c, OPERAND(x), OPERAND(out)) && is_scale(c, "scale", x->scale);
}

bool check_amax(device *d, const amax_desc *x) {
    checker c = {d, "amax"};
    return is_activation(c, OPERAND(x), 2, 3) && has_type(c, OPERAND(x), DTYPE_BF16) &&
           is_vector(c, OPERAND(out), 1) && are_apart(c, OPERAND(x), OPERAND(out));
}
