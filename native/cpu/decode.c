/* The top of the instruction tree (DDI 0487 C4.1). An encoding that this CPU's ID registers
 * do not claim is UNDEFINED, as on a CPU without that feature; what is not
 * here although a CPU without the feature would have it, too, stops the machine with "unsupported":
 * today that is HLT. */
#include "simd.h"

void run_undefined(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    raise_undefined(cpu);
}

void run_unsupported(struct vcpu *cpu, const struct insn *insn)
{
    cpu->exit_word = insn->raw;
    stop_with(cpu, TA_EXIT_UNSUPPORTED);
}

static bool decode_group(uint32_t word, struct insn *insn)
{
    switch (BITS(word, 28, 25)) {
    case 0x8: case 0x9:
        return decode_data_processing_immediate(word, insn);
    case 0xa: case 0xb:
        return decode_branch_and_system(word, insn);
    case 0x4: case 0x6: case 0xc: case 0xe:
        return decode_load_store(word, insn);
    case 0x5: case 0xd:
        return decode_data_processing_register(word, insn);
    case 0x7: case 0xf:
        return decode_simd(word, insn);
    default:
        return false; /* UDF, and the space of SVE and SME */
    }
}

void decode(uint32_t word, struct insn *insn)
{
    *insn = (struct insn){.raw = word};
    if (!decode_group(word, insn))
        insn->run = run_undefined;
}
