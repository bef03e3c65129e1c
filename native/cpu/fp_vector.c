/* Floating point of vectors, and of scalars among the SIMD groups: not here yet. */
#include "simd.h"

#define NOT_HERE_YET(name)                                                                    \
    bool name(uint32_t word, struct insn *insn)                                               \
    {                                                                                         \
        (void)word;                                                                           \
        insn->run = run_unsupported;                                                          \
        return true;                                                                          \
    }
NOT_HERE_YET(decode_fp_three_same)
NOT_HERE_YET(decode_fp_three_same_half)
NOT_HERE_YET(decode_fp_two_misc)
NOT_HERE_YET(decode_fp_two_misc_half)
NOT_HERE_YET(decode_fp_across)
NOT_HERE_YET(decode_fp_pairwise)
NOT_HERE_YET(decode_fp_by_element)
NOT_HERE_YET(decode_fp_shift)
