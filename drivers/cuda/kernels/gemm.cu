// Matrix products of F32 and BF16, plain and grouped.
#include "fathom.cuh"
