// The gradient of attention.
#include "fathom.cuh"
