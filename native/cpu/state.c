/* A vCPU's state by KVM ONE_REG id (Linux Documentation/virt/kvm/api.rst, 4.68). */
#include "memory.h"
#include "sysregs.h"

#define ID_SIZE_SHIFT 52 /* bits 55:52 are log2 of the register's bytes */
#define ID_SIZE_MASK 0xf
#define ID_CORE 0x6030000000100000ull   /* + offset in struct kvm_regs / 4 */
#define ID_VECTOR 0x6040000000100054ull /* V0 to V31, four apart */
#define ID_FPSR 0x60200000001000d4ull
#define ID_FPCR 0x60200000001000d5ull
#define FPCR SYSREG(3, 3, 4, 4, 0)
#define FPSR SYSREG(3, 3, 4, 4, 1)
#define ID_SYSREG 0x6030000000130000ull
/* The timers' ids in KVM: CNT and CVAL of the virtual one are swapped, for ever. */
#define ID_TIMER_COUNT 0x603000000013df1aull   /* KVM_REG_ARM_TIMER_CNT */
#define ID_TIMER_CONTROL 0x603000000013df19ull /* _CTL */
#define ID_TIMER_COMPARE 0x603000000013df02ull /* _CVAL */
#define ID_PTIMER_COUNT 0x603000000013df01ull  /* KVM_REG_ARM_PTIMER_CNT */
#define ID_PTIMER_CONTROL 0x603000000013df11ull
#define ID_PTIMER_COMPARE 0x603000000013df12ull
#define TIMER_CONTROL_BITS 3ull
#define TIMER_STATUS 4ull

enum core_register { CORE_SP_EL0 = 31, CORE_PC, CORE_PSTATE, CORE_SP_EL1, CORE_ELR, CORE_SPSR,
                     CORE_COUNT };

static uint64_t *stack_pointer(struct vcpu *cpu, unsigned which)
{
    return cpu->sp_select == which ? &cpu->x[SLOT_SP] : &cpu->sp_el[which];
}

/* Where a 64-bit core register other than PSTATE is. */
static uint64_t *core_register(struct vcpu *cpu, uint64_t index)
{
    switch (index) {
    case CORE_SP_EL0:
        return stack_pointer(cpu, 0);
    case CORE_PC:
        return &cpu->pc;
    case CORE_SP_EL1:
        return stack_pointer(cpu, 1);
    case CORE_ELR:
        return &cpu->sys.elr;
    case CORE_SPSR:
        return &cpu->sys.spsr;
    default:
        return &cpu->x[index];
    }
}

static bool is_core(uint64_t id, uint64_t *index)
{
    *index = (id - ID_CORE) / 2;
    return id >= ID_CORE && id < ID_CORE + 2 * CORE_COUNT && !(id & 1);
}

/* Where a register of the SIMD and floating-point unit is, or NULL if the id names none. */
static void *fp_register(struct vcpu *cpu, uint64_t id)
{
    uint64_t index = (id - ID_VECTOR) / 4;
    if (id == ID_FPSR)
        return &cpu->fpsr;
    if (id == ID_FPCR)
        return &cpu->fpcr;
    return id >= ID_VECTOR && index < VECTORS && !(id & 3) ? &cpu->v[index] : NULL;
}

/* Whether it can have this value: all that the control registers do not have reads as zero. */
static bool fp_accepts(uint64_t id, const void *value)
{
    uint32_t word;
    if (id != ID_FPSR && id != ID_FPCR)
        return true;
    memcpy(&word, value, sizeof word);
    return !(word & ~find_sysreg(id == ID_FPCR ? FPCR : FPSR)->bits);
}

/* The system register that a state can hold under this id, or NULL. */
static const struct sysreg *state_sysreg(uint64_t id)
{
    const struct sysreg *reg = id >> 16 == ID_SYSREG >> 16 ? find_sysreg(id & 0xffff) : NULL;
    return reg && reg->flags & (STATE | CONSTANT) ? reg : NULL;
}

/* --- the timers --- */

static bool get_timer(const struct vcpu *cpu, uint64_t id, uint64_t *value)
{
    switch (id) {
    case ID_TIMER_COUNT: case ID_PTIMER_COUNT:
        *value = timer_count(cpu, id == ID_PTIMER_COUNT);
        return true;
    case ID_TIMER_CONTROL: case ID_PTIMER_CONTROL:
        *value = timer_control(cpu, id == ID_PTIMER_CONTROL);
        return true;
    case ID_TIMER_COMPARE: case ID_PTIMER_COMPARE:
        *value = cpu->timers[id == ID_PTIMER_COMPARE].compare;
        return true;
    default:
        return false;
    }
}

/* False if it is no timer's register, or the value has bits that CTL does not have. ISTATUS follows
 * from the rest. */
static bool set_timer(struct vcpu *cpu, uint64_t id, uint64_t value)
{
    struct ta_machine *machine = cpu->machine;
    uint64_t now = machine_counter(machine);
    switch (id) {
    case ID_TIMER_COUNT:
        machine->counter_offset += value - now;
        machine->physical_ahead -= value - now; /* each is set for itself, in any order */
        break;
    case ID_PTIMER_COUNT:
        machine->physical_ahead = value - now;
        break;
    case ID_TIMER_CONTROL: case ID_PTIMER_CONTROL:
        if (value & ~(TIMER_CONTROL_BITS | TIMER_STATUS))
            return false;
        cpu->timers[id == ID_PTIMER_CONTROL].control = value & TIMER_CONTROL_BITS;
        break;
    case ID_TIMER_COMPARE: case ID_PTIMER_COMPARE:
        cpu->timers[id == ID_PTIMER_COMPARE].compare = value;
        break;
    default:
        return false;
    }
    update_all_timers(machine);
    return true;
}

static struct vcpu *vcpu_at(struct ta_machine *machine, uint32_t index)
{
    return index < machine->vcpu_count ? &machine->vcpus[index] : NULL;
}

static size_t register_bytes(uint64_t id)
{
    return (size_t)1 << (id >> ID_SIZE_SHIFT & ID_SIZE_MASK);
}

/* False if the vCPU has no such register of 64 bits. */
static bool get_u64(struct vcpu *cpu, uint64_t id, uint64_t *value)
{
    uint64_t core;
    const struct sysreg *reg = state_sysreg(id);
    if (is_core(id, &core))
        *value = core == CORE_PSTATE ? pstate_get(cpu) : *core_register(cpu, core);
    else if (reg)
        *value = read_sysreg_state(cpu, reg);
    else
        return get_timer(cpu, id, value);
    return true;
}

int ta_vcpu_get(struct ta_machine *machine, uint32_t index, uint64_t id, void *value,
                size_t bytes)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    uint64_t word;
    if (!cpu || bytes != register_bytes(id))
        return -1;
    const void *source = fp_register(cpu, id);
    if (!source && get_u64(cpu, id, &word))
        source = &word;
    if (!source)
        return -1;
    memcpy(value, source, bytes);
    return 0;
}

static bool set_pstate(struct vcpu *cpu, uint64_t value)
{
    uint64_t mode = value & SPSR_MODE;
    /* ALLINT is accepted and forgotten: a CPU with FEAT_NMI sets it at each exception, also for a
     * guest to which KVM shows no such feature, and it means nothing while SCTLR_EL1.NMI is 0. So
     * is BTYPE: a CPU with FEAT_BTI has it for the one instruction behind an indirect branch, and
     * it has no effect outside guarded pages, which this CPU does not implement. */
    uint64_t known = NZCV_MASK | SPSR_TCO | SPSR_DIT | SPSR_UAO | SPSR_PAN | SPSR_SS | SPSR_IL |
                     SPSR_ALLINT | SPSR_SSBS | SPSR_BTYPE | SPSR_DAIF | SPSR_MODE;
    if ((value & ~known) || (mode != MODE_EL0T && mode != MODE_EL1T && mode != MODE_EL1H))
        return false;
    pstate_set(cpu, value);
    return true;
}

/* False if the vCPU has no such register of 64 bits, or it cannot have this value. */
static bool set_u64(struct vcpu *cpu, uint64_t id, uint64_t value)
{
    uint64_t core;
    const struct sysreg *reg = state_sysreg(id);
    if (is_core(id, &core) && core == CORE_PSTATE)
        return set_pstate(cpu, value);
    if (is_core(id, &core)) {
        *core_register(cpu, core) = value;
        cpu->fetch_page = NO_PAGE;
        return true;
    }
    if (reg)
        return write_sysreg_state(cpu, reg, value);
    return set_timer(cpu, id, value);
}

int ta_vcpu_set(struct ta_machine *machine, uint32_t index, uint64_t id, const void *value,
                size_t bytes)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    uint64_t word;
    if (!cpu || bytes != register_bytes(id))
        return -1;
    drop_monitor(cpu); /* as after any context switch */
    cpu->waiting = WAITING_FOR_NOTHING;
    void *target = fp_register(cpu, id);
    if (target) {
        if (!fp_accepts(id, value))
            return -1;
        memcpy(target, value, bytes);
        return 0;
    }
    if (bytes != sizeof word)
        return -1;
    memcpy(&word, value, bytes);
    return set_u64(cpu, id, word) ? 0 : -1;
}

/* What `bytes` of registers of many have in common: one place of this size for each. */
enum { PLACE_BYTES = 16 };

void ta_vcpu_get_each(struct ta_machine *machine, uint32_t index, const uint64_t *ids,
                      size_t count, void *values, uint8_t *done)
{
    uint8_t *place = values;
    for (size_t i = 0; i < count; i++, place += PLACE_BYTES) {
        size_t bytes = register_bytes(ids[i]);
        done[i] = bytes <= PLACE_BYTES && !ta_vcpu_get(machine, index, ids[i], place, bytes);
    }
}

void ta_vcpu_set_each(struct ta_machine *machine, uint32_t index, const uint64_t *ids,
                      size_t count, const void *values, uint8_t *done)
{
    const uint8_t *place = values;
    for (size_t i = 0; i < count; i++, place += PLACE_BYTES) {
        size_t bytes = register_bytes(ids[i]);
        done[i] = bytes <= PLACE_BYTES && !ta_vcpu_set(machine, index, ids[i], place, bytes);
    }
}

struct id_list {
    uint64_t *ids;
    size_t count, max;
};

static void put_id(struct id_list *list, uint64_t id)
{
    if (list->count < list->max)
        list->ids[list->count] = id;
    list->count++;
}

static void put_sysreg(void *list, uint32_t encoding)
{
    put_id(list, ID_SYSREG | encoding);
}

size_t ta_vcpu_register_ids(uint64_t *ids, size_t max_ids)
{
    struct id_list list = {.ids = ids, .max = max_ids};
    put_id(&list, ID_FPSR);
    put_id(&list, ID_FPCR);
    for (uint64_t i = 0; i < CORE_COUNT; i++)
        put_id(&list, ID_CORE + 2 * i);
    each_sysreg_state(put_sysreg, &list);
    put_id(&list, ID_PTIMER_COUNT);
    put_id(&list, ID_TIMER_COMPARE);
    put_id(&list, ID_PTIMER_CONTROL);
    put_id(&list, ID_PTIMER_COMPARE);
    put_id(&list, ID_TIMER_CONTROL);
    put_id(&list, ID_TIMER_COUNT);
    for (uint64_t i = 0; i < VECTORS; i++)
        put_id(&list, ID_VECTOR + 4 * i);
    return list.count;
}

uint64_t ta_vcpu_instructions(struct ta_machine *machine, uint32_t index)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    return cpu ? cpu->instructions : 0;
}
