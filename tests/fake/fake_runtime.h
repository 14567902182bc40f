/* fake_runtime.h: what fake_runtime.c and fake_kernels.c share. */
#ifndef FAKE_RUNTIME_H
#define FAKE_RUNTIME_H

#include <stdbool.h>

#include "fake_gpu.h"

/* Counts a call of this kind (fake_gpu.h); true: this one fails. */
bool fake_fails(int kind);

/* Streams, events and handles are of the card that is the thread's when they are made, and can
 * be used on no other: that card; NULL: it is another, or lost. */
void *fake_make(void); /* NULL: lost */
fake_card *fake_card_of(const void *object);
bool fake_drop(void *object);
#endif
