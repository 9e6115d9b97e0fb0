// Matrix products of E4M3 codes with scales, plain and grouped.
#include "fathom.cuh"
