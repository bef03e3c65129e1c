/* A vCPU's state by KVM ONE_REG id (Linux Documentation/virt/kvm/api.rst, 4.68). */
#include "cpu.h"
#include "sysregs.h"

#define ID_CORE 0x6030000000100000ull /* + offset in struct kvm_regs / 4 */
#define ID_SYSREG 0x6030000000130000ull
#define ID_TIMER_COUNT 0x603000000013df1aull /* KVM_REG_ARM_TIMER_CNT */

enum core_register { CORE_SP_EL0 = 31, CORE_PC, CORE_PSTATE, CORE_SP_EL1, CORE_ELR, CORE_SPSR,
                     CORE_COUNT };

static uint64_t *stack_pointer(struct vcpu *cpu, unsigned which)
{
    return cpu->sp_select == which ? &cpu->x[SLOT_SP] : &cpu->sp_el[which];
}

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
        return index < CORE_SP_EL0 ? &cpu->x[index] : NULL;
    }
}

static bool is_core(uint64_t id, uint64_t *index)
{
    *index = (id - ID_CORE) / 2;
    return id >= ID_CORE && id < ID_CORE + 2 * CORE_COUNT && !(id & 1);
}

static struct vcpu *vcpu_at(struct ta_machine *machine, uint32_t index)
{
    return index < machine->vcpu_count ? &machine->vcpus[index] : NULL;
}

int ta_vcpu_get(struct ta_machine *machine, uint32_t index, uint64_t id, uint64_t *value)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    uint64_t core;
    if (!cpu)
        return -1;
    if (is_core(id, &core)) {
        *value = core == CORE_PSTATE ? pstate_get(cpu) : *core_register(cpu, core);
        return 0;
    }
    if (id == ID_TIMER_COUNT) {
        *value = counter(cpu);
        return 0;
    }
    if (id >> 16 != ID_SYSREG >> 16)
        return -1;
    const struct sysreg *reg = find_sysreg((uint32_t)id & 0xffff);
    if (reg && is_sysreg_state(reg)) {
        *value = *sysreg_field(cpu, reg);
        return 0;
    }
    return !reg && find_sysreg_constant(cpu, (uint32_t)id & 0xffff, value) ? 0 : -1;
}

static int set_pstate(struct vcpu *cpu, uint64_t value)
{
    uint64_t mode = value & SPSR_MODE;
    /* ALLINT is taken and forgotten: a CPU with FEAT_NMI sets it at each exception, also for a
     * guest to which KVM shows no such feature, and it means nothing while SCTLR_EL1.NMI is 0. */
    uint64_t known = NZCV_MASK | SPSR_TCO | SPSR_DIT | SPSR_UAO | SPSR_PAN | SPSR_IL |
                     SPSR_ALLINT | SPSR_SSBS | SPSR_DAIF | SPSR_MODE;
    if ((value & ~known) || (mode != MODE_EL0T && mode != MODE_EL1T && mode != MODE_EL1H))
        return -1;
    pstate_set(cpu, value);
    return 0;
}

int ta_vcpu_set(struct ta_machine *machine, uint32_t index, uint64_t id, uint64_t value)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    uint64_t core, constant;
    if (!cpu)
        return -1;
    drop_monitor(cpu); /* as after any context switch */
    cpu->waiting = WAITING_FOR_NOTHING;
    if (is_core(id, &core)) {
        if (core == CORE_PSTATE)
            return set_pstate(cpu, value);
        *core_register(cpu, core) = value;
        cpu->fetch_page = NO_PAGE;
        return 0;
    }
    if (id == ID_TIMER_COUNT) {
        machine->counter_offset = value - machine->retired;
        return 0;
    }
    if (id >> 16 != ID_SYSREG >> 16)
        return -1;
    const struct sysreg *reg = find_sysreg((uint32_t)id & 0xffff);
    if (reg) {
        if (!is_sysreg_state(reg) || (value & ~reg->mask))
            return -1;
        *sysreg_field(cpu, reg) = value;
        after_sysreg_write(cpu, reg);
        return 0;
    }
    return find_sysreg_constant(cpu, (uint32_t)id & 0xffff, &constant) && constant == value ? 0 : -1;
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
    for (uint64_t i = 0; i < CORE_COUNT; i++)
        put_id(&list, ID_CORE + 2 * i);
    each_sysreg_state(put_sysreg, &list);
    put_id(&list, ID_TIMER_COUNT);
    return list.count;
}

uint64_t ta_vcpu_instructions(struct ta_machine *machine, uint32_t index)
{
    struct vcpu *cpu = vcpu_at(machine, index);
    return cpu ? cpu->instructions : 0;
}
