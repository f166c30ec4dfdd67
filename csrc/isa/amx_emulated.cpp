#define PACELINE_ISA isa_amx_emulated
#define PACELINE_VARIANT kernels_amx_emulated
#define PACELINE_NAME "amx-emulated"
#define PACELINE_EMULATE_AMX

#include "amx.h"
#include "variant.h"
