// The choice of experts, its gradient, and the balance loss.
#include "fathom.cuh"
