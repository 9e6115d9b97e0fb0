// The gated product of a feed-forward network and its gradient.
#include "fathom.cuh"
