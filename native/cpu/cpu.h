/* The interpreter's inside: one vCPU, the machine around it, and what its parts share.
 *
 * Section letters refer to the Arm Architecture Reference Manual for A-profile (DDI 0487).
 *
 *   architecture.h              constants of the manual
 *   decode.c and its groups     instruction word -> struct insn (a pure function of the word)
 *   data_processing_*.c, branch.c, load_store.c, atomics.c, tags_insn.c, system.c   handlers
 *   simd_*.c, fp_*.c            handlers of vector registers; simd.h is what they share
 *   memory.h, memory.c, mmu.c   guest memory with translation and tag checks
 *   exception.c, pstate.c, debug.c, sysregs.c   EL1 and EL0 as the guest sees them
 *   gic.c, gic_*.c, timer.c     the interrupt controller and the timers
 *   state.c, snapshot.c         a vCPU's state by KVM ONE_REG id, and all of it as bytes
 *   threaded.c, threaded_*.c    what is frequent, as threaded code: the quick half; threaded.h
 *   run.c, machine.c            the plain loop, the turns of the vCPUs, the library's entry points
 */
#ifndef TA_CPU_H
#define TA_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "architecture.h"
#include "gic.h"
#include "softfloat.h"
#include "tagalong.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Bits hi..lo of a 32-bit word, and a single bit of any word. */
#define BITS(word, hi, lo) (((uint32_t)(word) >> (lo)) & (0xffffffffu >> (31 - (hi) + (lo))))
#define BIT(word, n) (((word) >> (n)) & 1u)

enum {
    PAGE_SHIFT = 12,
    PAGE_BYTES = 1 << PAGE_SHIFT,
    GRANULE_BYTES = 16,
    TAGS_PER_PAGE_BYTES = PAGE_BYTES / 32,
    TLB_ENTRIES = 256,
    FETCH_TLB_ENTRIES = 256,
    INSN_CACHE_ENTRIES = 256, /* of the plain interpreter */
    CODE_PAGES = 2048,
    BLOCK_SHIFT = 21,
    LARGE_BLOCK_SHIFT = 30,
    BLOCK_SETS = 16, /* of 64 hashes each */
    PAGE_INSNS = PAGE_BYTES / 4,
    MAX_VCPUS = 512,
    VECTORS = 32,
    BREAKPOINTS = 6, /* what most Arm cores have */
    CONTEXT_BREAKPOINTS = 2,
    WATCHPOINTS = 4,
    MMIO_BYTES = 8,  /* the largest access to a device */
    MMIO_VALUES = 64, /* the most that one instruction reads from a device: LD4 of bytes */
    BLOCK_BYTES = 64, /* the largest access that is no DC instruction: LD4, ST4 */
    DC_ZVA_BYTES = 512, /* DCZID_EL0.BS = 7 */
    LDGM_BYTES = 256,   /* GMID_EL1.BS = 6 */
};

#define PAGE_MASK (~(uint64_t)(PAGE_BYTES - 1))
#define NO_PAGE (PAGE_BYTES / 2ull) /* never equal to an address whose lower bits are masked */

/* Slots of the register file. Decoding turns register 31 into one of the last three, so
 * that handlers need not ask: reads of XZR find 0, writes to it land in DISCARD. */
enum { SLOT_ZERO = 31, SLOT_SP = 32, SLOT_DISCARD = 33, SLOTS = 34 };

struct vcpu;
struct insn;
typedef void insn_handler(struct vcpu *cpu, const struct insn *insn);
/* threaded.h says what an op is. */
typedef __attribute__((preserve_none)) void threaded_op(struct vcpu *cpu, struct insn *insn,
                                                        const uint8_t *code, uint64_t left,
                                                        uint64_t a, uint64_t b, uint64_t flags);

struct insn {
    insn_handler *run;
    threaded_op *op; /* of one in a code page */
    union {
        uint64_t imm;
        fp_unary *unary; /* of a floating-point operation on each lane */
        fp_binary *binary;
    };
    uint32_t raw;
    uint8_t rd, rn, rm, ra; /* slots */
    uint8_t shift, amount;  /* shift or extend type and amount; else as the handler says */
    uint8_t size;           /* log2 of the access size; 64-bit if non-zero in arithmetic */
    uint8_t flags;          /* enum access_flags of a memory access, else as the handler says */
};

enum access_flags {
    ACCESS_READ = 1,
    ACCESS_WRITE = 2,
    ACCESS_UNPRIVILEGED = 4, /* LDTR, STTR: as EL0 would */
    ACCESS_UNCHECKED = 8,    /* Tag Unchecked by the instruction's form */
    ACCESS_ALIGNED = 16,     /* must be aligned to its size whatever SCTLR_EL1.A says */
    ACCESS_FETCH = 32,
    ACCESS_MAINTENANCE = 64, /* cache maintenance: sets ISS.CM, checks no tag */
    ACCESS_NO_DEVICE = 128,  /* an alignment fault on Device memory, as DC ZVA takes */
    ACCESS_TAGS = 256,       /* to allocation tags, not to data */
};

/* A page of guest RAM as the present translation regime reaches it. A key equals an address under
 * `mask` (the page's bits, without the top byte if it is ignored) only if that kind of access may
 * go ahead without another look: for writes that includes that the page is marked in the dirty
 * log. */
struct tlb_entry {
    uint64_t read_key, write_key, mask;
    uint8_t *data;
    uint8_t *tags; /* the page's packed tags; NULL if the page is not Tagged memory */
};

struct system_registers {
    uint64_t sctlr, cpacr, ttbr0, ttbr1, tcr, mair, vbar, contextidr;
    uint64_t esr, far, elr, spsr, par;
    uint64_t tpidr_el0, tpidrro_el0, tpidr_el1, csselr, mdscr, cntkctl;
    uint64_t gcr, rgsr, tfsr, tfsre0;
    uint64_t id_aa64pfr0, id_aa64isar0, id_aa64mmfr0, id_aa64dfr0; /* a state may bring others: identity.h */
    uint64_t dbgbvr[BREAKPOINTS], dbgbcr[BREAKPOINTS], dbgwvr[WATCHPOINTS], dbgwcr[WATCHPOINTS];
    uint64_t mdccint, dbgclaim, os_lock;
};

/* A SIMD register by its lanes, the lowest first. Hosts are little-endian, as the guest is, so that
 * lanes of all sizes lie over one another as the manual has them. */
struct vector {
    union {
        uint8_t u8[16];
        uint16_t u16[8];
        uint32_t u32[4];
        uint64_t u64[2];
    };
};

struct exclusive_monitor {
    const uint8_t *data; /* NULL: open */
    uint32_t bytes;
};

/* What a vCPU waits for; it is set by the last instruction that it executed. */
enum waiting {
    WAITING_FOR_NOTHING,
    WAITING_FOR_EVENT,     /* WFE: it looks again at its next turn */
    WAITING_FOR_INTERRUPT, /* WFI: it gets no turn before an interrupt is pending */
};

/* Bits of vcpu.lines, where PSTATE.DAIF has the bits that mask them. */
enum interrupt_line { LINE_FIQ = 1, LINE_IRQ = 2 };

#define NO_DEADLINE UINT64_MAX

/* CNTV_CTL_EL0 and CNTV_CVAL_EL0, or those of the physical timer. */
enum timer_kind { TIMER_VIRTUAL, TIMER_PHYSICAL, TIMERS };
struct timer {
    uint64_t compare;
    uint64_t control; /* ENABLE, IMASK */
};

struct vcpu {
    /* What every instruction uses comes first, together. */
    uint64_t x[SLOTS];
    uint64_t pc, next_pc;
    uint64_t instructions;
    uint64_t fetch_page;
    const uint8_t *fetch_data;
    struct insn *fetch_insns;
    uint64_t slice_end; /* what `instructions` is at the slice's end */
    uint32_t nzcv; /* in bits 31:28, as in SPSR_EL1 */

    /* PSTATE */
    uint8_t el, sp_select, daif, tco, pan, uao, dit, ssbs, il, ss;

    /* What memory accesses need of the system registers; update_memory_mode() sets it. */
    bool tbi[2];        /* by address bit 55 */
    bool check_tags[2]; /* by privilege: [0] as EL0, [1] as EL1 */
    bool checks_tags;   /* at the present one */
    bool strict_alignment;
    bool watches_fetch, watches_data; /* breakpoints, watchpoints are enabled; update_debug() */
    uint32_t step_iss;                /* of the next software step exception */

    uint32_t exit_reason; /* 0 unless the vCPU has to leave to the caller */
    uint32_t exit_word;   /* the instruction that leaves: of HVC and what is unsupported */
    bool powered;
    bool slice_over; /* run_slice() returns after this instruction */
    bool turn_over;   /* the vCPU gives up the rest of its turn */
    uint8_t waiting;  /* enum waiting */
    uint32_t lines;   /* enum interrupt_line; other threads store here, so all access is atomic */
    uint64_t sp_el[2]; /* the stack pointer that is not in x[SLOT_SP] */
    struct system_registers sys;
    struct timer timers[TIMERS];
    struct gic_private gic_private; /* these two mean nothing without a GIC */
    struct gic_interface gic_interface;
    struct vector v[VECTORS];
    uint32_t fpsr, fpcr;
    struct exclusive_monitor monitor;
    uint64_t counted; /* how many of the instructions are part of ta_machine.retired */

    struct {
        uint64_t gpa, data;
        uint32_t size, window;
        bool is_write, pending, aborted; /* aborted: the last answer */
        /* An instruction may make several accesses, and runs again after each answer: `answers`
         * counts those that it has, `seen` those that it has used in this run. */
        uint32_t answers, seen;
        uint64_t values[MMIO_VALUES]; /* what the first ones read */
    } mmio;

    struct ta_machine *machine;
    uint32_t index;
    /* By what may be accessed: as EL0, as EL1 with PSTATE.PAN set, and with it clear. `data_tlb` is
     * the one for the present level; select_tlb() sets it. */
    struct tlb_entry tlb[3][TLB_ENTRIES];
    struct tlb_entry *data_tlb;
    /* By address bit 55: where pages in it are of larger blocks, as a set of hashes of addresses in
     * units of 2 MiB, and of 1 GiB for blocks above 2 MiB. */
    uint64_t tlb_blocks[2][BLOCK_SETS], tlb_large_blocks[2];
    struct fetch_entry {
        uint64_t key;
        const uint8_t *data;
        struct insn *insns; /* in ta_machine.code_pages */
    } fetch_tlb[2][FETCH_TLB_ENTRIES];
    struct insn cache[INSN_CACHE_ENTRIES];
};

struct ram_region {
    uint64_t gpa, size;
    uint8_t *data, *tags;
    uint64_t *dirty;
};

/* A range of guest physical addresses that is RAM or an MMIO window. */
struct mapping {
    uint64_t gpa, size;
    uint32_t index; /* among the RAM regions or the windows, in the order of their adding */
    bool is_mmio;
};

struct ta_machine {
    struct mapping *map; /* by gpa */
    struct ram_region *ram;
    uint32_t map_count, ram_count, mmio_count;
    uint32_t armed_monitors; /* how many vCPUs hold an exclusive reservation */
    struct gic *gic;         /* NULL: the machine has none */
    uint64_t retired;        /* instructions of all vCPUs */
    uint64_t counter_offset; /* what the counter is ahead of them, or of the host's clock */
    uint64_t physical_ahead; /* what CNTPCT_EL0 is ahead of CNTVCT_EL0 */
    uint64_t alarm;          /* when the caller wants to be asked */
    uint64_t next_deadline;  /* the alarm, or when the first of the vCPUs' timers asserts its line */
    bool follows_host_clock;
    int interrupted;         /* accessed atomically */
    bool shares_tags;        /* another machine stores to the same tag planes */
    bool is_plain;           /* by the plain interpreter alone */
    struct insn *code_pages[CODE_PAGES]; /* decoded instructions of pages; see threaded.c */
    uint64_t random;         /* decides the length of turns */
    uint64_t seed;
    uint32_t turn;       /* whose */
    uint32_t idle_turns; /* how many in a row ended in WFE */
    uint64_t turn_left;  /* instructions */
    uint32_t vcpu_count;
    struct vcpu vcpus[];
};

/* Aff2 to Aff0 of vCPU number `index`, as KVM numbers them: 16 with one Aff1, which is how many
 * the target list of an SGI can name. */
static inline uint32_t vcpu_affinity(uint32_t index)
{
    return (index & 0xf) | (index >> 4 & 0xff) << 8 | (index >> 12 & 0xff) << 16;
}

/* --- decode ---------------------------------------------------------------------------- */

void decode(uint32_t word, struct insn *insn);
/* Each group returns false for an unallocated encoding. */
bool decode_data_processing_immediate(uint32_t word, struct insn *insn);
bool decode_data_processing_register(uint32_t word, struct insn *insn);
bool decode_branch_and_system(uint32_t word, struct insn *insn);
bool decode_system(uint32_t word, struct insn *insn);
bool decode_load_store(uint32_t word, struct insn *insn);
bool decode_exclusive_and_ordered(uint32_t word, struct insn *insn);
bool decode_atomic(uint32_t word, struct insn *insn);
bool decode_tag_load_store(uint32_t word, struct insn *insn);
bool decode_tag_arithmetic(uint32_t word, struct insn *insn);
bool decode_tag_two_source(uint32_t word, struct insn *insn);
void run_undefined(struct vcpu *cpu, const struct insn *insn);
void run_unsupported(struct vcpu *cpu, const struct insn *insn);
void run_store_tag_pair(struct vcpu *cpu, const struct insn *insn);

ALWAYS_INLINE uint8_t slot_source(uint32_t reg)
{
    return (uint8_t)reg; /* 31 is SLOT_ZERO */
}
ALWAYS_INLINE uint8_t slot_target(uint32_t reg)
{
    return reg == 31 ? SLOT_DISCARD : (uint8_t)reg;
}
ALWAYS_INLINE uint8_t slot_or_sp(uint32_t reg)
{
    return reg == 31 ? SLOT_SP : (uint8_t)reg;
}
ALWAYS_INLINE int64_t sign_extend(uint64_t value, unsigned bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

/* --- exceptions and control flow -------------------------------------------------------- */

/* All take the exception at once: next_pc is the vector, and the calling handler must
 * return without changing any state. */
void raise_exception(struct vcpu *cpu, enum exception_class ec, uint32_t iss);
void raise_with_address(struct vcpu *cpu, enum exception_class ec, uint32_t iss, uint64_t far);
void raise_data_abort(struct vcpu *cpu, uint64_t va, uint32_t fsc, unsigned flags);
void raise_after(struct vcpu *cpu, enum exception_class ec, uint32_t iss); /* ELR: the next */
void raise_undefined(struct vcpu *cpu);
void exception_return(struct vcpu *cpu);
void branch_to(struct vcpu *cpu, uint64_t target);
void stop_with(struct vcpu *cpu, enum ta_exit_reason reason); /* before this instruction */
/* Interrupts and software step act between two slices: look_for_events() ends this one if the mask
 * that just changed may permit one, and take_interrupt() enters an interrupt's vector. */
void look_for_events(struct vcpu *cpu);
void take_interrupt(struct vcpu *cpu);

uint64_t pstate_get(const struct vcpu *cpu);
void pstate_set(struct vcpu *cpu, uint64_t spsr);
/* As an exception return does, which has more to do. False: SPSR names no exception level of ours,
 * and the present one stays. */
bool pstate_take(struct vcpu *cpu, uint64_t spsr);
void select_stack(struct vcpu *cpu, unsigned el, unsigned sp_select);

/* --- debug ------------------------------------------------------------------------------ */

bool has_breakpoint(const struct vcpu *cpu, uint64_t page); /* enabled, in this page */
bool is_breakpoint(const struct vcpu *cpu, uint64_t pc);    /* taken, at this instruction */
void raise_breakpoint(struct vcpu *cpu);
bool has_watchpoint(const struct vcpu *cpu, uint64_t page);
bool take_watchpoint(struct vcpu *cpu, uint64_t va, uint32_t size, unsigned flags);
bool is_stepping(const struct vcpu *cpu); /* software step is active */
bool step_after_return(const struct vcpu *cpu, uint64_t spsr);
uint64_t run_step(struct vcpu *cpu);
void end_step(struct vcpu *cpu, uint32_t word);
void update_debug(struct vcpu *cpu);

/* --- the loop, and the machine ------------------------------------------------------------ */

uint64_t run_slice(struct vcpu *cpu, uint64_t count); /* returns the instructions executed */
uint64_t run_plainly(struct vcpu *cpu, uint64_t count);
uint64_t run_threaded(struct vcpu *cpu, uint64_t count);
struct insn *code_page_of(struct ta_machine *machine, const uint8_t *data);
void free_code_pages(struct ta_machine *machine);
/* Describes why the slice of `done` instructions ended with an exit; returns how many count. */
uint64_t leave_slice(struct vcpu *cpu, uint64_t done, struct ta_exit *exit);
/* Maps the windows of the GIC. 0, -EINVAL or -ENOMEM; then nothing is mapped. */
int map_gic(struct ta_machine *machine, uint64_t distributor, uint64_t redistributors);
void reset_vcpu(struct vcpu *cpu);

/* --- time and interrupts ------------------------------------------------------------------ */

ALWAYS_INLINE uint32_t interrupt_lines(const struct vcpu *cpu)
{
    return __atomic_load_n(&cpu->lines, __ATOMIC_RELAXED);
}

uint64_t host_ticks(void);

/* The system counter, one for all vCPUs: each instruction of any of them is a tick, or the host's
 * clock is followed. */
ALWAYS_INLINE uint64_t machine_counter(const struct ta_machine *machine)
{
    uint64_t elapsed = unlikely(machine->follows_host_clock) ? host_ticks() : machine->retired;
    return machine->counter_offset + elapsed;
}
ALWAYS_INLINE uint64_t counter(const struct vcpu *cpu)
{
    bool is_exact = cpu->machine->follows_host_clock;
    return machine_counter(cpu->machine) + (is_exact ? 0 : cpu->instructions - cpu->counted);
}

/* Makes the instructions of a slice, or one that is taken back, part of the machine's time. */
ALWAYS_INLINE void count_instructions(struct vcpu *cpu)
{
    cpu->machine->retired += cpu->instructions - cpu->counted;
    cpu->counted = cpu->instructions;
}

/* --- timer.c --- */

uint64_t timer_count(const struct vcpu *cpu, enum timer_kind kind);
uint64_t timer_control(const struct vcpu *cpu, enum timer_kind kind); /* with ISTATUS */
/* Sets the lines of the vCPU's timers and the machine's next deadline; after a write to their
 * registers, or once the counter has reached the deadline. */
void update_timers(struct vcpu *cpu);
void update_all_timers(struct ta_machine *machine);
bool alarm_is_due(const struct ta_machine *machine);
/* Looks at what devices and time have done since the last slice. */
void take_events(struct ta_machine *machine);

/* --- arithmetic shared by the groups ------------------------------------------------------ */

extern const uint16_t condition_table[16]; /* bit n is set if the condition holds for NZCV = n */

ALWAYS_INLINE bool condition_holds(const struct vcpu *cpu, unsigned condition)
{
    return condition_table[condition] >> (cpu->nzcv >> 28) & 1;
}

/* AddWithCarry() (shared/functions/integer); the flags go to *nzcv. */
ALWAYS_INLINE uint64_t add_with_carry64(uint64_t a, uint64_t b, unsigned carry, uint32_t *nzcv)
{
    uint64_t partial, sum;
    bool c1 = __builtin_add_overflow(a, b, &partial);
    bool c2 = __builtin_add_overflow(partial, (uint64_t)carry, &sum);
    uint32_t overflow = (uint32_t)((~(a ^ b) & (a ^ sum)) >> 63);
    *nzcv = (uint32_t)(sum >> 63) << 31 | (uint32_t)(sum == 0) << 30 |
            (uint32_t)(c1 | c2) << 29 | overflow << 28;
    return sum;
}
ALWAYS_INLINE uint64_t add_with_carry32(uint64_t a, uint64_t b, unsigned carry, uint32_t *nzcv)
{
    uint64_t wide = (uint64_t)(uint32_t)a + (uint32_t)b + carry;
    uint32_t sum = (uint32_t)wide;
    uint32_t overflow = (~((uint32_t)a ^ (uint32_t)b) & ((uint32_t)a ^ sum)) >> 31;
    *nzcv = (sum & 0x80000000u) | (uint32_t)(sum == 0) << 30 | (uint32_t)(wide >> 32) << 29 |
            overflow << 28;
    return sum;
}

#endif
