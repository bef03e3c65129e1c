/* Registers: a machine that moves a vCPU must move all of them. */
#include "churn.h"
#include "random.h"
#include "vcpu.h"

/* About 4 % of the time of a vCPU that works all the time. */
#define SOAK_TURNS 32768

/* Registers that churn sets once and never uses. TFSR_EL1, whose reset value is UNKNOWN, is
 * among those that stay as they are set: in sync mode nothing changes it. */
#define MARKED_REGISTERS(X)                                                                   \
    X(tpidr_el0)                                                                              \
    X(tpidrro_el0)                                                                            \
    X(sp_el0)

#define FIXED_REGISTERS(X)                                                                    \
    X(sctlr_el1, SCTLR_DEFAULT)                                                               \
    X(tcr_el1, TCR_DEFAULT)                                                                   \
    X(mair_el1, MAIR_DEFAULT)                                                                 \
    X(ttbr0_el1, (u64)identity_table)                                                         \
    X(ttbr1_el1, (u64)identity_table)                                                         \
    X(vbar_el1, (u64)vectors)                                                                 \
    X(gcr_el1, EXCLUDED_TAGS)                                                                 \
    X(tfsr_el1, 0)                                                                            \
    X(tfsre0_el1, 1)                                                                          \
    X(tco, 0)

extern u64 identity_table[];
extern u8 vectors[];
extern u64 general_registers_lost(u64 turns, u64 first);

static u64 mark(const struct share *share, u64 number) {
    return random_mix(share->vcpu * 16 + number + share->knobs->seed);
}

void registers_mark(const struct share *share) {
    u64 number = 0;
#define MARK(name) SYSREG_WRITE(name, mark(share, number++));
    MARKED_REGISTERS(MARK)
    SYSREG_WRITE(tfsr_el1, 0);
    SYSREG_WRITE(tfsre0_el1, 1);
    SYSREG_WRITE(gcr_el1, EXCLUDED_TAGS);
}

void registers_audit(const struct share *share) {
    u64 number = 0;
#define REQUIRE_MARK(name)                                                                    \
    require(share, "register " #name, 0, mark(share, number++), SYSREG_READ(name));
    MARKED_REGISTERS(REQUIRE_MARK)
#define REQUIRE_FIXED(name, value)                                                            \
    require(share, "register " #name, 0, value, SYSREG_READ(name));
    FIXED_REGISTERS(REQUIRE_FIXED)
    require(share, "register rgsr_el1", 0, lfsr_to_rgsr(&share->lfsr), SYSREG_READ(rgsr_el1));
    require(share, "register tpidr_el1", 0, (u64)&vcpus[share->vcpu], (u64)this_vcpu());
}

void registers_soak(const struct share *share) {
    u64 lost = general_registers_lost(SOAK_TURNS, mark(share, share->operations));
    require(share, "general register that changed", 0, 0, lost);
}
