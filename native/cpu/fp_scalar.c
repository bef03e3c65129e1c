/* Scalar floating point (DDI 0487 C4.1.96.27 to .33): not here yet. */
#include "simd.h"

bool decode_fp_scalar(uint32_t word, struct insn *insn)
{
    (void)word;
    insn->run = run_unsupported;
    return true;
}
