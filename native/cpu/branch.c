/* Branches, exception generation (DDI 0487 C4.1.93); system instructions are in system.c. */
#include "cpu.h"

static void run_b(struct vcpu *cpu, const struct insn *insn)
{
    cpu->next_pc = cpu->pc + insn->imm;
}

static void run_bl(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[30] = cpu->pc + 4;
    cpu->next_pc = cpu->pc + insn->imm;
}

static void run_b_cond(struct vcpu *cpu, const struct insn *insn)
{
    if (condition_holds(cpu, insn->shift))
        cpu->next_pc = cpu->pc + insn->imm;
}

static void run_cbz(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = insn->size ? cpu->x[insn->rd] : (uint32_t)cpu->x[insn->rd];
    if ((value != 0) == insn->shift)
        cpu->next_pc = cpu->pc + insn->imm;
}

static void run_tbz(struct vcpu *cpu, const struct insn *insn)
{
    if (BIT(cpu->x[insn->rd], insn->amount) == insn->shift)
        cpu->next_pc = cpu->pc + insn->imm;
}

static void run_br(struct vcpu *cpu, const struct insn *insn)
{
    branch_to(cpu, cpu->x[insn->rn]);
}

static void run_blr(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t target = cpu->x[insn->rn];
    cpu->x[30] = cpu->pc + 4;
    branch_to(cpu, target);
}

static void run_eret(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!cpu->el)
        raise_undefined(cpu);
    else
        exception_return(cpu);
}

static void run_svc(struct vcpu *cpu, const struct insn *insn)
{
    end_step(cpu, insn->raw); /* the call is done when its exception is taken */
    raise_after(cpu, EC_SVC, (uint32_t)insn->imm);
}

/* The machine is the hypervisor: the call leaves the interpreter with pc after it. */
static void run_hvc(struct vcpu *cpu, const struct insn *insn)
{
    if (!cpu->el) {
        raise_undefined(cpu);
        return;
    }
    cpu->exit_word = insn->raw;
    cpu->exit_reason = TA_EXIT_HVC;
    cpu->slice_over = true;
}

static void run_brk(struct vcpu *cpu, const struct insn *insn)
{
    raise_exception(cpu, EC_BREAKPOINT, (uint32_t)insn->imm);
}

/* HLT halts the CPU for an external debugger, which programs without a kernel call for its services
 * (semihosting): none is here, so it stops the machine. Programs of a kernel find it UNDEFINED, as
 * on a CPU on which no debugger is attached. */
static void run_hlt(struct vcpu *cpu, const struct insn *insn)
{
    if (cpu->el)
        run_unsupported(cpu, insn);
    else
        raise_undefined(cpu);
}

/* SMC is UNDEFINED without EL3, DCPS without halting debug. */
static bool decode_exception(uint32_t word, struct insn *insn)
{
    insn->imm = BITS(word, 20, 5);
    switch (BITS(word, 23, 21) << 5 | BITS(word, 4, 0)) {
    case 0x01:
        insn->run = run_svc;
        return true;
    case 0x02:
        insn->run = run_hvc;
        return true;
    case 0x20:
        insn->run = run_brk;
        return true;
    case 0x40:
        insn->run = run_hlt;
        return true;
    default:
        return false;
    }
}

static bool decode_branch_register(uint32_t word, struct insn *insn)
{
    if (BITS(word, 20, 16) != 31 || BITS(word, 15, 10) || BITS(word, 4, 0))
        return false; /* the others sign pointers, which this CPU does not */
    insn->rn = slot_source(BITS(word, 9, 5));
    switch (BITS(word, 24, 21)) {
    case 0: case 2:
        insn->run = run_br; /* BR, RET */
        return true;
    case 1:
        insn->run = run_blr;
        return true;
    case 4:
        insn->run = run_eret;
        return BITS(word, 9, 5) == 31;
    default:
        return false;
    }
}

static bool decode_compare_and_test(uint32_t word, struct insn *insn)
{
    insn->rd = slot_source(BITS(word, 4, 0));
    insn->shift = BIT(word, 24);
    if (BIT(word, 25)) {
        insn->amount = (uint8_t)(BIT(word, 31) << 5 | BITS(word, 23, 19));
        insn->imm = (uint64_t)sign_extend(BITS(word, 18, 5), 14) << 2;
        insn->run = run_tbz;
    } else {
        insn->size = BIT(word, 31);
        insn->imm = (uint64_t)sign_extend(BITS(word, 23, 5), 19) << 2;
        insn->run = run_cbz;
    }
    return true;
}

bool decode_branch_and_system(uint32_t word, struct insn *insn)
{
    switch (BITS(word, 31, 29)) {
    case 0: case 4:
        insn->imm = (uint64_t)sign_extend(BITS(word, 25, 0), 26) << 2;
        insn->run = BIT(word, 31) ? run_bl : run_b;
        return true;
    case 1: case 5:
        return decode_compare_and_test(word, insn);
    case 2:
        insn->imm = (uint64_t)sign_extend(BITS(word, 23, 5), 19) << 2;
        insn->shift = BITS(word, 3, 0);
        insn->run = run_b_cond;
        return !BITS(word, 25, 24) && !BIT(word, 4);
    case 6:
        if (BIT(word, 25))
            return decode_branch_register(word, insn);
        return BIT(word, 24) ? decode_system(word, insn) : decode_exception(word, insn);
    default:
        return false;
    }
}
