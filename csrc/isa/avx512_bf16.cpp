#define PACELINE_ISA isa_avx512_bf16
#define PACELINE_VARIANT kernels_avx512_bf16
#define PACELINE_NAME "avx512-vnni-bf16"

#include "avx512.h"
#include "variant.h"
