// Fills, conversions, maps of one and two operands, window masks and random numbers.
#include "fathom.cuh"
