// Rotary position embedding with interleaved pairs.
#include "fathom.cuh"
