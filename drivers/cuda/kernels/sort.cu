// The largest of a row, and the stable counting sort of small keys.
#include "fathom.cuh"
