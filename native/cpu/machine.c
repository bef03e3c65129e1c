/* The machine: its memory map, its vCPUs' power, and answers to their exits. */
#include <stdlib.h>

#include "cpu.h"

uint32_t ta_abi_version(void)
{
    return TA_ABI_VERSION;
}

uint32_t ta_exit_size(void)
{
    return sizeof(struct ta_exit);
}

struct ta_machine *ta_machine_new(uint32_t vcpus, uint64_t seed)
{
    if (!vcpus || vcpus > MAX_VCPUS)
        return NULL;
    struct ta_machine *machine =
        calloc(1, sizeof(struct ta_machine) + (size_t)vcpus * sizeof(struct vcpu));
    if (!machine)
        return NULL;
    machine->seed = seed;
    machine->random = seed * 0x9e3779b97f4a7c15ull | 1; /* xorshift must not start at 0 */
    machine->vcpu_count = vcpus;
    machine->turn = vcpus - 1; /* the first turn is vCPU 0's */
    for (uint32_t i = 0; i < vcpus; i++) {
        machine->vcpus[i].machine = machine;
        machine->vcpus[i].index = i;
        machine->vcpus[i].powered = i == 0;
        /* The word 0 is UDF #0, what an empty entry already seems to hold. */
        for (unsigned entry = 0; entry < INSN_CACHE_ENTRIES; entry++)
            machine->vcpus[i].cache[entry].run = run_undefined;
        reset_vcpu(&machine->vcpus[i]);
    }
    return machine;
}

void ta_machine_free(struct ta_machine *machine)
{
    free(machine);
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a - b < b_size || b - a < a_size;
}

static bool is_free(const struct ta_machine *machine, uint64_t gpa, uint64_t size)
{
    if (!size || (gpa | size) & (PAGE_BYTES - 1) || gpa + size < gpa)
        return false;
    for (uint32_t i = 0; i < machine->ram_count; i++)
        if (overlaps(gpa, size, machine->ram[i].gpa, machine->ram[i].size))
            return false;
    for (uint32_t i = 0; i < machine->mmio_count; i++)
        if (overlaps(gpa, size, machine->mmio[i].gpa, machine->mmio[i].size))
            return false;
    return true;
}

int ta_machine_add_ram(struct ta_machine *machine, uint64_t gpa, uint64_t size, uint8_t *data,
                       uint8_t *tags)
{
    if (machine->ram_count == MAX_RAM_REGIONS || !is_free(machine, gpa, size))
        return -1;
    machine->ram[machine->ram_count++] =
        (struct ram_region){.gpa = gpa, .size = size, .data = data, .tags = tags};
    return 0;
}

int ta_machine_add_mmio(struct ta_machine *machine, uint64_t gpa, uint64_t size)
{
    if (machine->mmio_count == MAX_MMIO_WINDOWS || !is_free(machine, gpa, size))
        return -1;
    machine->mmio[machine->mmio_count].gpa = gpa;
    machine->mmio[machine->mmio_count++].size = size;
    return 0;
}

void ta_machine_share_tags(struct ta_machine *machine, uint32_t shared)
{
    machine->shares_tags = shared != 0;
}

int ta_machine_set_dirty_log(struct ta_machine *machine, uint32_t region, uint64_t *bitmap)
{
    if (region >= machine->ram_count)
        return -1;
    machine->ram[region].dirty = bitmap;
    flush_all_tlbs(machine); /* so that the next store to each page is seen again */
    return 0;
}

void ta_machine_interrupt(struct ta_machine *machine)
{
    __atomic_store_n(&machine->interrupted, 1, __ATOMIC_RELEASE);
}

static void answer_mmio(struct ta_machine *machine, uint32_t index, uint64_t data, bool aborted)
{
    if (index >= machine->vcpu_count || !machine->vcpus[index].mmio.pending)
        return;
    struct vcpu *cpu = &machine->vcpus[index];
    cpu->mmio.pending = false;
    cpu->mmio.done = true;
    cpu->mmio.aborted = aborted;
    cpu->mmio.data = data;
    /* Carried out at once, so that no vCPU ever stands between an access and its answer. */
    machine->turn_left -= machine->turn_left > 0;
    run_slice(cpu, 1);
}

void ta_machine_complete_mmio(struct ta_machine *machine, uint32_t vcpu, uint64_t data)
{
    answer_mmio(machine, vcpu, data, false);
}

void ta_vcpu_abort_mmio(struct ta_machine *machine, uint32_t vcpu)
{
    answer_mmio(machine, vcpu, 0, true);
}

void ta_vcpu_set_power(struct ta_machine *machine, uint32_t index, uint32_t on)
{
    if (index < machine->vcpu_count) {
        machine->vcpus[index].powered = on != 0;
        machine->vcpus[index].waiting = false;
    }
}
