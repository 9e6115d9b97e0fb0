// Codes with scales: encoding, decoding, and encoding anew.
#include "fathom.cuh"
