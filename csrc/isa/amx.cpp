#define PACELINE_ISA isa_amx
#define PACELINE_VARIANT kernels_amx
#define PACELINE_NAME "amx-int8-bf16"

#include "amx.h"
#include "variant.h"
