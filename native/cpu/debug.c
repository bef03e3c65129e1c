/* Self-hosted debug: breakpoints, watchpoints and software step (DDI 0487 D2).
 *
 * They cost nothing while a guest does not use them, and nothing on pages that it does not watch.
 * An enabled breakpoint keeps its page out of the fetch fast path, an enabled watchpoint keeps its
 * pages out of the TLB; accesses to these pages take the slow paths (fetch_page(), find_page()),
 * which ask here each time. What changes often, the exception level and PSTATE.D, is looked at
 * then; only writes to the debug registers change which pages are kept out. Software step needs no
 * place in the fast path either: while it is active, each slice has one instruction. */
#include "memory.h"
#include "sysregs.h"

#define CONTROL_ENABLE 1ull
#define SECURITY_SECURE 2u /* SSC: in Secure state only; there is none here */

enum breakpoint_type { TYPE_ADDRESS, TYPE_LINKED_ADDRESS, TYPE_CONTEXT, TYPE_LINKED_CONTEXT };

#define ISS_DEBUG 0x22u
#define ISS_WNR (1u << 6)
#define ISS_STEP_VALID (1u << 24)
#define ISS_STEP_EXCLUSIVE (1u << 6)

/* The address that a register holds: a word's, sign-extended from 49 bits (RESS). */
static uint64_t compared_address(uint64_t value)
{
    return (uint64_t)sign_extend(value, 49) & ~3ull;
}

/* AArch64.GenerateDebugExceptions(): all but BRK, from the present exception level. */
static bool are_exceptions_enabled(const struct vcpu *cpu, unsigned el, unsigned mask_d)
{
    if (cpu->sys.os_lock)
        return false;
    return !el || ((cpu->sys.mdscr & MDSCR_KDE) && !mask_d);
}

static bool is_armed(const struct vcpu *cpu, uint64_t control)
{
    return (control & CONTROL_ENABLE) && (cpu->sys.mdscr & MDSCR_MDE) && !cpu->sys.os_lock;
}

/* AArch64.StateMatch(): PMC or PAC has a bit for EL1 and one for EL0; HMC adds levels that are not
 * here. */
static bool matches_state(uint64_t control, unsigned el)
{
    unsigned levels = control >> 1 & 3, security = control >> 14 & 3;
    return security != SECURITY_SECURE && (levels >> !el & 1);
}

static unsigned type_of(uint64_t breakpoint_control)
{
    return breakpoint_control >> 20 & 0xf;
}

static bool matches_context(const struct vcpu *cpu, unsigned number)
{
    bool aware = number >= BREAKPOINTS - CONTEXT_BREAKPOINTS && number < BREAKPOINTS;
    return aware && (uint32_t)cpu->sys.dbgbvr[number] == (uint32_t)cpu->sys.contextidr;
}

/* Whether the breakpoint that a linked one names agrees. */
static bool matches_link(const struct vcpu *cpu, uint64_t control)
{
    unsigned number = control >> 16 & 0xf;
    if (number >= BREAKPOINTS)
        return false;
    uint64_t linked = cpu->sys.dbgbcr[number];
    return (linked & CONTROL_ENABLE) && type_of(linked) == TYPE_LINKED_CONTEXT &&
           matches_context(cpu, number);
}

static bool matches_breakpoint(const struct vcpu *cpu, unsigned number, uint64_t pc)
{
    uint64_t control = cpu->sys.dbgbcr[number];
    if (!is_armed(cpu, control) || !matches_state(control, cpu->el))
        return false;
    switch (type_of(control)) {
    case TYPE_ADDRESS:
        return compared_address(cpu->sys.dbgbvr[number]) == pc;
    case TYPE_LINKED_ADDRESS:
        return compared_address(cpu->sys.dbgbvr[number]) == pc && matches_link(cpu, control);
    case TYPE_CONTEXT:
        return matches_context(cpu, number);
    default:
        return false; /* a linked context matches nothing by itself; the others need EL2 */
    }
}

bool is_breakpoint(const struct vcpu *cpu, uint64_t pc)
{
    if (!are_exceptions_enabled(cpu, cpu->el, cpu->daif & DAIF_D))
        return false;
    for (unsigned i = 0; i < BREAKPOINTS; i++)
        if (matches_breakpoint(cpu, i, pc))
            return true;
    return false;
}

bool has_breakpoint(const struct vcpu *cpu, uint64_t page)
{
    for (unsigned i = 0; i < BREAKPOINTS; i++) {
        uint64_t control = cpu->sys.dbgbcr[i];
        bool everywhere = type_of(control) == TYPE_CONTEXT;
        bool here = (compared_address(cpu->sys.dbgbvr[i]) & PAGE_MASK) == page;
        if (is_armed(cpu, control) && (everywhere || here))
            return true;
    }
    return false;
}

void raise_breakpoint(struct vcpu *cpu)
{
    raise_exception(cpu, EC_HARDWARE_BREAKPOINT + (cpu->el ? 1u : 0u), ISS_DEBUG);
}

/* --- watchpoints --- */

struct watched {
    uint64_t first, last; /* inclusive, so that the end of the address space is no case apart */
    uint8_t bytes;        /* of the doubleword at `first`, if that is all */
    bool is_range;
};

/* A power of two by MASK, or bytes of one doubleword by BAS. */
static struct watched watched_by(const struct vcpu *cpu, unsigned number)
{
    uint64_t control = cpu->sys.dbgwcr[number];
    uint64_t address = compared_address(cpu->sys.dbgwvr[number]);
    unsigned mask = control >> 24 & 0x1f;
    if (mask >= 3) {
        uint64_t inside = (1ull << mask) - 1;
        return (struct watched){address & ~inside, address | inside, 0xff, true};
    }
    uint8_t bytes = control >> 5 & 0xff;
    if (address & 4)
        bytes &= 0xf; /* the register holds a word's address */
    return (struct watched){address, address + 7, bytes, false};
}

/* The first watched byte of the access, or false. */
static bool find_watched(const struct watched *watched, uint64_t address, uint32_t size,
                         uint64_t *found)
{
    uint64_t last = address + size - 1;
    if (last < watched->first || address > watched->last)
        return false;
    uint64_t at = address > watched->first ? address : watched->first;
    for (; at <= last && at <= watched->last; at++)
        if (watched->is_range || watched->bytes >> (at - watched->first) & 1) {
            *found = at;
            return true;
        }
    return false;
}

static bool matches_watchpoint(const struct vcpu *cpu, unsigned number, unsigned flags)
{
    uint64_t control = cpu->sys.dbgwcr[number];
    unsigned access = control >> 3 & 3, privilege = privilege_of(cpu, flags);
    bool linked = BIT(control, 20);
    bool wanted = ((access & 1) && (flags & ACCESS_READ)) ||
                  ((access & 2) && (flags & ACCESS_WRITE));
    return is_armed(cpu, control) && wanted && matches_state(control, privilege) &&
           (!linked || matches_link(cpu, control));
}

bool take_watchpoint(struct vcpu *cpu, uint64_t va, uint32_t size, unsigned flags)
{
    uint64_t address = strip_top_byte(cpu, va), found;
    if (!are_exceptions_enabled(cpu, cpu->el, cpu->daif & DAIF_D))
        return false;
    for (unsigned i = 0; i < WATCHPOINTS; i++) {
        struct watched watched = watched_by(cpu, i);
        if (!matches_watchpoint(cpu, i, flags) || !find_watched(&watched, address, size, &found))
            continue;
        bool by_read = (flags & ACCESS_READ) && (cpu->sys.dbgwcr[i] >> 3 & 1);
        uint32_t ec = EC_WATCHPOINT + (cpu->el ? 1u : 0u);
        raise_with_address(cpu, ec, ISS_DEBUG | (by_read ? 0 : ISS_WNR), va + (found - address));
        return true;
    }
    return false;
}

bool has_watchpoint(const struct vcpu *cpu, uint64_t page)
{
    for (unsigned i = 0; i < WATCHPOINTS; i++) {
        struct watched watched = watched_by(cpu, i);
        if (is_armed(cpu, cpu->sys.dbgwcr[i]) && watched.first <= (page | ~PAGE_MASK) &&
            watched.last >= page)
            return true;
    }
    return false;
}

/* --- software step --- */

bool is_stepping(const struct vcpu *cpu)
{
    return (cpu->sys.mdscr & MDSCR_SS) &&
           are_exceptions_enabled(cpu, cpu->el, cpu->daif & DAIF_D);
}

/* DebugExceptionReturnSS(): PSTATE.SS after an exception return with this SPSR. A debugger's kernel
 * sets SPSR.SS to step one instruction; it counts only if stepping begins with this return. */
bool step_after_return(const struct vcpu *cpu, uint64_t spsr)
{
    unsigned target = (spsr & SPSR_MODE) == MODE_EL0T ? 0 : 1;
    return (spsr & SPSR_SS) && (cpu->sys.mdscr & MDSCR_SS) && !is_stepping(cpu) &&
           are_exceptions_enabled(cpu, target, (spsr & SPSR_DAIF) >> 6 & DAIF_D);
}

static bool is_load_exclusive(uint32_t word)
{
    return (word & 0x3fc00000u) == 0x08400000u;
}

/* Executes one instruction, or takes the exception for the one before. */
uint64_t run_step(struct vcpu *cpu)
{
    const struct insn *insn = &cpu->cache[cpu->pc >> 2 & (INSN_CACHE_ENTRIES - 1)];
    if (!cpu->ss) {
        uint32_t iss = ISS_DEBUG | cpu->step_iss;
        cpu->step_iss = 0;
        raise_exception(cpu, EC_SOFTWARE_STEP + (cpu->el ? 1u : 0u), iss);
        cpu->pc = cpu->next_pc;
        return 0;
    }
    uint64_t done = run_plainly(cpu, 1);
    if (!cpu->exit_reason || cpu->exit_reason == TA_EXIT_HVC)
        end_step(cpu, insn->raw);
    return done;
}

/* SSAdvance(): the instruction is done. An exception that it took has cleared PSTATE.SS already. */
void end_step(struct vcpu *cpu, uint32_t word)
{
    if (!cpu->ss)
        return;
    cpu->ss = 0;
    cpu->step_iss = ISS_STEP_VALID | (is_load_exclusive(word) ? ISS_STEP_EXCLUSIVE : 0);
}

/* --- the registers --- */

/* After a write to any of them. */
void update_debug(struct vcpu *cpu)
{
    cpu->watches_fetch = cpu->watches_data = false;
    for (unsigned i = 0; i < BREAKPOINTS; i++)
        cpu->watches_fetch |= is_armed(cpu, cpu->sys.dbgbcr[i]);
    for (unsigned i = 0; i < WATCHPOINTS; i++)
        cpu->watches_data |= is_armed(cpu, cpu->sys.dbgwcr[i]);
    flush_tlb(cpu);
    cpu->slice_over = true; /* stepping may have begun */
}

void write_debug(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    write_field(cpu, reg, value);
    update_debug(cpu);
}

uint64_t read_oslsr(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return OSLSR_IMPLEMENTED | (cpu->sys.os_lock ? OSLSR_LOCKED : 0);
}

void write_oslsr(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    cpu->sys.os_lock = (value & OSLSR_LOCKED) != 0;
    update_debug(cpu);
}

void write_oslar(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    cpu->sys.os_lock = value & 1;
    update_debug(cpu);
}

/* Claim tags (H9.2): one register sets them and reads as what can be set, the other clears them and
 * reads as what is set. */
uint64_t read_claim_set(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)cpu;
    return reg->bits;
}

void write_claim_set(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    cpu->sys.dbgclaim |= value & reg->bits;
}

void write_claim_clear(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    cpu->sys.dbgclaim &= ~(value & reg->bits);
}

/* The debug communications channel, which has no debugger at its other end. */
enum sysreg_access check_channel(const struct vcpu *cpu)
{
    return if_enabled(cpu, ~cpu->sys.mdscr, MDSCR_TDCC);
}
