/* A vCPU's whole state as bytes, to execute the same instruction again and differently.
 *
 * Two snapshots are equal only if the vCPUs will behave alike: caches of work already done
 * (TLBs, decoded instructions, where the last fetch came from) are not in them. They hold host
 * addresses and mean nothing in another machine. */
#include "memory.h"

#define STATE_BYTES offsetof(struct vcpu, machine)

size_t ta_vcpu_snapshot_bytes(void)
{
    return STATE_BYTES;
}

int ta_vcpu_save_snapshot(struct ta_machine *machine, uint32_t index, uint8_t *snapshot)
{
    if (index >= machine->vcpu_count)
        return -1;
    struct vcpu *cpu = &machine->vcpus[index];
    cpu->fetch_page = NO_PAGE;
    cpu->fetch_data = NULL;
    cpu->fetch_insns = NULL;
    cpu->slice_end = 0;
    cpu->exit_word = 0;
    cpu->next_pc = cpu->pc;
    cpu->slice_over = false;
    memcpy(snapshot, cpu, STATE_BYTES);
    return 0;
}

int ta_vcpu_load_snapshot(struct ta_machine *machine, uint32_t index, const uint8_t *snapshot)
{
    if (index >= machine->vcpu_count)
        return -1;
    struct vcpu *cpu = &machine->vcpus[index];
    machine->armed_monitors -= cpu->monitor.data != NULL;
    machine->retired -= cpu->counted;
    memcpy(cpu, snapshot, STATE_BYTES);
    machine->armed_monitors += cpu->monitor.data != NULL;
    machine->retired += cpu->counted;
    update_all_timers(machine);
    select_tlb(cpu);
    flush_tlb(cpu); /* translation may be under other registers now */
    return 0;
}
