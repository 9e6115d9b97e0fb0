// AdamW, and the bias update that balances experts.
#include "fathom.cuh"
