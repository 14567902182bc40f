/* kernels.cu */
#include "backend/cuda/kernels.h"
