#define PACELINE_ISA isa_avx2
#define PACELINE_VARIANT kernels_avx2
#define PACELINE_NAME "avx2"

#include "avx2.h"
#include "variant.h"
