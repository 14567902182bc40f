/* fake_runtime.h: what fake_runtime.c and fake_kernels.c share. */
#ifndef FAKE_RUNTIME_H
#define FAKE_RUNTIME_H

#include <stdbool.h>

/* Counts a call of this kind (fake_gpu.h); true: this one fails. */
bool fake_fails(int kind);
#endif
