// Causal attention over decompressed latent keys and values.
#include "fathom.cuh"
