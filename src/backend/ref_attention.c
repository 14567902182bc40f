/* ref_attention.c: the reference of attention, one head at a time.
 *
 *   scores[j] = scale q.k_j + key_bias[j] + rel_bias[h, j - i + Sq - 1]
 *   out_i (+)= sum_j softmax(scores)[j] v_j
 *   lse_i = log sum_j exp(scores[j])
 *
 * spec/fusion.md 3; key_bias: the padding key of spec/fusion.md 4; rel_bias: the position
 * buckets of spec/text-encoder.md 4. */
#include <math.h>

#include "backend/ref.h"

/* Rows of one batch and head as f32 [S, d]. t: [B, S, H, d]. */
static void load_head(float *dst, const tensor *t, int64_t b, int64_t h) {
    tensor head = tensor_index(tensor_index(*t, 2, h), 0, b);
    for (int64_t s = 0; s < head.dim[0]; s++) {
        tensor row = ref_row(&head, s);
        ref_load(dst + s * head.dim[1], &row);
    }
}

/* scores: biases in, weights of the softmax out. Returns the logarithm of what they were
 * divided by. */
static double softmax(double *scores, int64_t n) {
    double top = scores[0], sum = 0;
    for (int64_t j = 1; j < n; j++)
        top = fmax(top, scores[j]);
    for (int64_t j = 0; j < n; j++)
        sum += exp(scores[j] - top);
    for (int64_t j = 0; j < n; j++)
        scores[j] = exp(scores[j] - top) / sum;
    return top == -INFINITY ? top : top + log(sum);
}

/* The f32 rows of one head; keys and values [Sk, d], the others one row. */
typedef struct head {
    double *scores; /* [Sk] */
    float *keys, *values, *key_bias, *query, *sum;
} head;

/* Query i, into t->sum; returns its log-sum-exp. */
static double attend(const attention_desc *x, const head *t, int64_t i,
                     const float *rel) {
    int64_t sq = x->q.dim[1], sk = x->k.dim[1], d = x->q.dim[3];
    for (int64_t j = 0; j < sk; j++) {
        double s = x->scale * ref_dot(t->query, t->keys + j * d, d);
        s += x->key_bias.data ? t->key_bias[j] : 0;
        s += x->rel_bias.data ? rel[j - i + sq - 1] : 0;
        t->scores[j] = s;
    }
    const double lse = softmax(t->scores, sk);
    for (int64_t c = 0; c < d; c++) {
        double s = x->accumulate ? t->sum[c] : 0;
        for (int64_t j = 0; j < sk; j++)
            s += t->scores[j] * t->values[j * d + c];
        t->sum[c] = (float)s;
    }
    return lse;
}

void ref_attention(void *self, const attention_desc *x, work w) {
    (void)w;
    int64_t sq = x->q.dim[1], sk = x->k.dim[1], heads = x->q.dim[2], d = x->q.dim[3];
    float *s = ref_scratch(self, 2 * sk * d + 3 * sk + 2 * d + sq + sk - 1);
    if (!s)
        return;
    head t = {.scores = (double *)s, .keys = s + 2 * sk};
    t.values = t.keys + sk * d;
    t.key_bias = t.values + sk * d;
    t.query = t.key_bias + sk;
    t.sum = t.query + d;
    float *rel = t.sum + d;
    if (x->key_bias.data)
        ref_load(t.key_bias, &x->key_bias);
    for (int64_t bh = 0; bh < x->q.dim[0] * heads; bh++) {
        int64_t b = bh / heads, h = bh % heads;
        load_head(t.keys, &x->k, b, h);
        load_head(t.values, &x->v, b, h);
        if (x->rel_bias.data) {
            tensor row = ref_row(&x->rel_bias, h);
            ref_load(rel, &row);
        }
        for (int64_t i = 0; i < sq && !ref_cancelled(self); i++) {
            tensor from = ref_row(&x->q, (b * sq + i) * heads + h);
            tensor to = ref_row(&x->out, (b * sq + i) * heads + h);
            ref_load(t.query, &from);
            ref_load(t.sum, &to);
            const float lse = (float)attend(x, &t, i, rel);
            ref_store(&to, t.sum);
            if (x->lse.data)
                ((float *)x->lse.data)[b * x->lse.stride[0] + h * x->lse.stride[1] + i] =
                    lse;
        }
    }
}
