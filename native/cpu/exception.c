/* Exception entry and return for EL1 and EL0 (DDI 0487 D1.3). */
#include "memory.h"
#include "simd.h"

#define ESR_IL (1ull << 25) /* a 32-bit instruction */
#define ISS_WNR (1u << 6)
#define ISS_CM (1u << 8)

enum { VECTOR_CURRENT_SP0 = 0x000, VECTOR_CURRENT_SPX = 0x200, VECTOR_LOWER = 0x400 };
enum { VECTOR_SYNCHRONOUS = 0x000, VECTOR_IRQ = 0x080, VECTOR_FIQ = 0x100 };

static uint64_t vector(const struct vcpu *cpu, unsigned kind)
{
    unsigned offset = !cpu->el ? VECTOR_LOWER
                      : cpu->sp_select ? VECTOR_CURRENT_SPX : VECTOR_CURRENT_SP0;
    return cpu->sys.vbar + offset + kind;
}

static void enter_vector(struct vcpu *cpu, uint64_t return_address, unsigned kind)
{
    uint64_t target = vector(cpu, kind);
    cpu->sys.spsr = pstate_get(cpu);
    cpu->sys.elr = return_address;
    select_stack(cpu, 1, 1);
    cpu->daif = 0xf;
    cpu->ss = 0;
    cpu->step_iss = 0;
    cpu->tco = 1;
    cpu->uao = 0;
    cpu->il = 0;
    cpu->ssbs = (cpu->sys.sctlr & SCTLR_DSSBS) != 0;
    if (!(cpu->sys.sctlr & SCTLR_SPAN))
        cpu->pan = 1;
    update_memory_mode(cpu);
    cpu->next_pc = target;
}

static void enter(struct vcpu *cpu, uint64_t return_address, uint32_t ec, uint32_t iss)
{
    enter_vector(cpu, return_address, VECTOR_SYNCHRONOUS);
    cpu->sys.esr = (uint64_t)ec << 26 | ESR_IL | iss;
}

void raise_exception(struct vcpu *cpu, enum exception_class ec, uint32_t iss)
{
    enter(cpu, cpu->pc, ec, iss);
}

void raise_after(struct vcpu *cpu, enum exception_class ec, uint32_t iss)
{
    enter(cpu, cpu->pc + 4, ec, iss);
}

void raise_undefined(struct vcpu *cpu)
{
    raise_exception(cpu, EC_UNKNOWN, 0);
}

/* ISS: CV is 1, COND is that of an A64 instruction (D24.2.37). */
void raise_fp_trap(struct vcpu *cpu)
{
    raise_exception(cpu, EC_FP_ACCESS, 1u << 24 | 0xeu << 20);
}

void raise_with_address(struct vcpu *cpu, enum exception_class ec, uint32_t iss, uint64_t far)
{
    cpu->sys.far = far;
    raise_exception(cpu, ec, iss);
}

void raise_data_abort(struct vcpu *cpu, uint64_t va, uint32_t fsc, unsigned flags)
{
    uint32_t ec = EC_DATA_ABORT + (cpu->el ? 1u : 0u);
    uint32_t iss = fsc;
    if (flags & ACCESS_MAINTENANCE)
        iss |= ISS_CM | ISS_WNR;
    else if (flags & ACCESS_WRITE)
        iss |= ISS_WNR;
    raise_with_address(cpu, ec, iss, va);
}

void exception_return(struct vcpu *cpu)
{
    uint64_t spsr = cpu->sys.spsr, target = cpu->sys.elr;
    bool steps = step_after_return(cpu, spsr);
    if (!pstate_take(cpu, spsr))
        cpu->il = 1; /* an illegal return stays at this EL and marks PSTATE (D1.4.4) */
    drop_monitor(cpu);
    update_memory_mode(cpu);
    branch_to(cpu, target);
    cpu->ss = steps;
    look_for_events(cpu);
}

void branch_to(struct vcpu *cpu, uint64_t target)
{
    unsigned half = BIT(target, 55);
    bool data_only = BIT(cpu->sys.tcr, TCR_TBID0_SHIFT + half);
    cpu->next_pc = cpu->tbi[half] && !data_only ? (uint64_t)sign_extend(target, 56) : target;
}

void stop_with(struct vcpu *cpu, enum ta_exit_reason reason)
{
    cpu->exit_reason = reason;
    cpu->slice_over = true;
    cpu->next_pc = cpu->pc;
}

/* Both are at EL1 or EL0, where PSTATE.I and F mask what is taken to EL1 (D1.3.6). */
static uint32_t unmasked_lines(const struct vcpu *cpu)
{
    return interrupt_lines(cpu) & ~(uint32_t)cpu->daif;
}

void look_for_events(struct vcpu *cpu)
{
    if (unlikely(unmasked_lines(cpu) || (cpu->sys.mdscr & MDSCR_SS)))
        cpu->slice_over = true;
}

/* ESR_EL1 and FAR_EL1 keep their values. Which of two comes first is ours to choose (D1.3.6):
 * FIQ, as hardware does. */
void take_interrupt(struct vcpu *cpu)
{
    uint32_t lines = unmasked_lines(cpu);
    if (likely(!lines))
        return;
    enter_vector(cpu, cpu->pc, lines & LINE_FIQ ? VECTOR_FIQ : VECTOR_IRQ);
    cpu->pc = cpu->next_pc;
}
