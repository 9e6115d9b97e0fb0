// Gathers and scatters of rows and columns, and the combination of experts' outputs.
#include "fathom.cuh"
