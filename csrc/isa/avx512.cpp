#define PACELINE_ISA isa_avx512
#define PACELINE_VARIANT kernels_avx512
#define PACELINE_NAME "avx512-vnni"

#include "avx512.h"
#include "variant.h"
