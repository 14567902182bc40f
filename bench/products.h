/* products.h: the products that a piece of model code is made of, run by oneDNN alone.
 *
 * The code runs once on a device that computes nothing and writes down every linear
 * layer, the two products of every attention, and every convolution. So the yardstick
 * cannot drift from the model. */
#ifndef OVI_BENCH_PRODUCTS_H
#define OVI_BENCH_PRODUCTS_H

#include "backend/backend.h"
#include "yardstick.h"

typedef void (*products_fn)(device *d, void *user);

typedef struct products products;

/* Runs `run` on a recording device that stands for `b` with these options, its arena open
 * with arena_bytes. NULL: failed, and the sentence is on stderr. */
products *products_record(const backend *b, const device_options *o, size_t arena_bytes,
                          products_fn run, void *user);
void products_free(products *p); /* takes NULL */

/* Arithmetic of one run, multiply-adds counted as two. */
double products_flops(const products *p);
/* Runs all of them once, in order; false on failure. */
bool products_run(const products *p);
#endif
