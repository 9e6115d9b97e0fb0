// Sums and maxima of rows, sums of columns.
#include "fathom.cuh"
