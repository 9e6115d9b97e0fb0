// Softmax cross entropy in place.
#include "fathom.cuh"
