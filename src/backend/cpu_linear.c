/* cpu_linear.c: linear layers, out = residual + gate * act(x w^T + bias), as tiles of
 * LINEAR_M_TILE rows and LINEAR_N_TILE columns (cpu_product.c). Weights are used in plain
 * row-major [N, K], as they lie in the file. x bf16 with w bf16 is one native product where
 * the machine has it; every other pair is computed in f32 from expanded panels. */
#include "backend/cpu_internal.h"

#define LINEAR_M_TILE  256
#define LINEAR_N_TILE  256
#define LINEAR_K_CHUNK 1024 /* of expanded panels */

static row_view rows_of(const tensor *t) {
    row_view v = {.data = t->data, .type = t->type};
    if (!t->data)
        return v;
    v.stride = t->stride[t->rank - 2];
    v.group = t->dim[t->rank - 2] > 0 ? t->dim[t->rank - 2] : 1;
    v.branch = t->rank == 3 ? t->stride[0] : 0;
    return v;
}

static void set_gate(product *p, const linear_desc *d) {
    const tensor *gate = &d->gate;
    if (!gate->data)
        return;
    p->gate = gate->data;
    p->gate_branch = gate->rank == 3 ? gate->stride[0] : 0;
    if (gate->dim[gate->rank - 2] == 2) {
        p->gate_row = gate->stride[gate->rank - 2];
        p->split = d->split;
    }
}

static product product_of(const linear_desc *d, bool native_bf16) {
    int rank = d->x.rank;
    product p = {.op = "linear",
                 .branches = rank == 3 ? d->x.dim[0] : 1,
                 .m = d->x.dim[rank - 2],
                 .n = d->w.dim[0],
                 .k = d->w.dim[1],
                 .m_tile = LINEAR_M_TILE,
                 .n_tile = LINEAR_N_TILE,
                 .k_chunk = LINEAR_K_CHUNK,
                 .bf16 = native_bf16 && d->x.type == DTYPE_BF16,
                 .a = rows_of(&d->x),
                 .b = d->w.data,
                 .b_type = d->w.type,
                 .out = rows_of(&d->out),
                 .residual = rows_of(&d->residual),
                 .bias = d->bias.data,
                 .act = d->act};
    set_gate(&p, d);
    return p;
}

size_t cpu_linear_bytes(int n_threads, const linear_desc *d) {
    product p = product_of(d, false);
    return product_slice_bytes(&p) * (size_t)n_threads;
}

void cpu_linear(void *self, const linear_desc *d, work w) {
    product p = product_of(d, ((cpu *)self)->native_bf16);
    product_run(self, &p, w);
}
