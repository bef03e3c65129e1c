/* The machine: its memory map, its vCPUs' power, and answers to their exits. */
#include <errno.h>
#include <stdlib.h>

#include "memory.h"

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
    machine->alarm = machine->next_deadline = NO_DEADLINE;
    for (uint32_t i = 0; i < vcpus; i++) {
        machine->vcpus[i].machine = machine;
        machine->vcpus[i].index = i;
        machine->vcpus[i].powered = i == 0;
        /* An empty entry looks as if it held the word 0, UDF #0: so that is what it runs. */
        for (unsigned entry = 0; entry < INSN_CACHE_ENTRIES; entry++)
            machine->vcpus[i].cache[entry].run = run_undefined;
        reset_vcpu(&machine->vcpus[i]);
    }
    return machine;
}

void ta_machine_free(struct ta_machine *machine)
{
    if (!machine)
        return;
    free_code_pages(machine);
    free(machine->map);
    free(machine->ram);
    free(machine->gic);
    free(machine);
}

/* The first mapping that starts above `gpa`: its number, or map_count. */
static uint32_t first_above(const struct ta_machine *machine, uint64_t gpa)
{
    uint32_t low = 0, high = machine->map_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (machine->map[middle].gpa > gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

const struct mapping *find_mapping(const struct ta_machine *machine, uint64_t gpa,
                                   uint64_t bytes)
{
    uint32_t above = first_above(machine, gpa);
    if (!above)
        return NULL;
    const struct mapping *mapping = &machine->map[above - 1];
    uint64_t offset = gpa - mapping->gpa;
    return offset < mapping->size && bytes <= mapping->size - offset ? mapping : NULL;
}

const struct ram_region *find_ram(const struct ta_machine *machine, uint64_t gpa,
                                  uint64_t bytes)
{
    if (machine->ram_count) { /* most guests have one region: no need to search */
        const struct ram_region *first = &machine->ram[0];
        uint64_t offset = gpa - first->gpa;
        if (likely(offset < first->size && bytes <= first->size - offset))
            return first;
    }
    const struct mapping *mapping = find_mapping(machine, gpa, bytes);
    return mapping && !mapping->is_mmio ? &machine->ram[mapping->index] : NULL;
}

static bool is_free(const struct ta_machine *machine, uint64_t gpa, uint64_t size)
{
    if (!size || (gpa | size) & (PAGE_BYTES - 1) || gpa + size < gpa)
        return false;
    uint32_t above = first_above(machine, gpa);
    if (above < machine->map_count && machine->map[above].gpa - gpa < size)
        return false;
    return !above || gpa - machine->map[above - 1].gpa >= machine->map[above - 1].size;
}

/* Puts the range into the map, which stays sorted. 0, -EINVAL or -ENOMEM. */
static int add_mapping(struct ta_machine *machine, struct mapping mapping)
{
    if (!is_free(machine, mapping.gpa, mapping.size))
        return -EINVAL;
    struct mapping *map = realloc(machine->map, (machine->map_count + 1) * sizeof *map);
    if (!map)
        return -ENOMEM;
    machine->map = map;
    uint32_t at = first_above(machine, mapping.gpa);
    memmove(&map[at + 1], &map[at], (machine->map_count - at) * sizeof *map);
    map[at] = mapping;
    machine->map_count++;
    return 0;
}

int ta_machine_add_ram(struct ta_machine *machine, uint64_t gpa, uint64_t size, uint8_t *data,
                       uint8_t *tags)
{
    struct ram_region *ram = realloc(machine->ram, (machine->ram_count + 1) * sizeof *ram);
    if (!ram)
        return -ENOMEM;
    machine->ram = ram;
    int result = add_mapping(machine, (struct mapping){gpa, size, machine->ram_count, false});
    if (result)
        return result;
    ram[machine->ram_count] =
        (struct ram_region){.gpa = gpa, .size = size, .data = data, .tags = tags};
    return (int)machine->ram_count++;
}

int ta_machine_add_mmio(struct ta_machine *machine, uint64_t gpa, uint64_t size)
{
    int result = add_mapping(machine, (struct mapping){gpa, size, machine->mmio_count, true});
    return result ? result : (int)machine->mmio_count++;
}

static void remove_mapping(struct ta_machine *machine, uint64_t gpa)
{
    uint32_t at = first_above(machine, gpa) - 1;
    machine->map_count--;
    memmove(&machine->map[at], &machine->map[at + 1],
            (machine->map_count - at) * sizeof *machine->map);
}

int map_gic(struct ta_machine *machine, uint64_t distributor, uint64_t redistributors)
{
    struct mapping first = {distributor, GIC_FRAME_BYTES, GIC_WINDOW, true};
    struct mapping others = {redistributors, GIC_REDISTRIBUTOR_BYTES * machine->vcpu_count,
                             GIC_WINDOW, true};
    int result = add_mapping(machine, first);
    if (result)
        return result;
    result = add_mapping(machine, others);
    if (result)
        remove_mapping(machine, distributor);
    return result;
}

void ta_machine_run_plainly(struct ta_machine *machine, uint32_t plainly)
{
    machine->is_plain = plainly != 0;
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

/* Whether the instruction makes another access, which `exit` then describes. */
static bool answer_mmio(struct ta_machine *machine, uint32_t index, uint64_t data, bool aborted,
                        struct ta_exit *exit)
{
    if (index >= machine->vcpu_count || !machine->vcpus[index].mmio.pending)
        return false;
    struct vcpu *cpu = &machine->vcpus[index];
    cpu->mmio.pending = false;
    cpu->mmio.aborted = aborted;
    if (cpu->mmio.answers < MMIO_VALUES)
        cpu->mmio.values[cpu->mmio.answers] = data;
    cpu->mmio.answers++;
    /* The instruction is carried out at once: a paused vCPU is never between an access and its
     * answer, so that neither has to be part of its state. No interrupt comes before it either. */
    run_slice(cpu, 1);
    if (cpu->mmio.pending) {
        leave_slice(cpu, 1, exit);
        return true;
    }
    cpu->mmio.answers = cpu->mmio.seen = 0;
    end_step(cpu, 0);
    machine->turn_left -= machine->turn_left > 0;
    return false;
}

int ta_machine_complete_mmio(struct ta_machine *machine, uint32_t vcpu, uint64_t data,
                             struct ta_exit *exit)
{
    return answer_mmio(machine, vcpu, data, false, exit);
}

void ta_vcpu_abort_mmio(struct ta_machine *machine, uint32_t vcpu)
{
    answer_mmio(machine, vcpu, 0, true, NULL); /* the abort ends the instruction */
}

void ta_vcpu_set_power(struct ta_machine *machine, uint32_t index, uint32_t on)
{
    if (index < machine->vcpu_count) {
        machine->vcpus[index].powered = on != 0;
        machine->vcpus[index].waiting = WAITING_FOR_NOTHING;
    }
}

void ta_vcpu_wait(struct ta_machine *machine, uint32_t index)
{
    if (index >= machine->vcpu_count || interrupt_lines(&machine->vcpus[index]))
        return;
    machine->vcpus[index].waiting = WAITING_FOR_INTERRUPT;
    if (machine->turn == index)
        machine->turn_left = 0;
}

int ta_vcpu_set_interrupt(struct ta_machine *machine, uint32_t index, uint32_t line,
                          uint32_t level)
{
    static const uint32_t lines[] = {[TA_INTERRUPT_IRQ] = LINE_IRQ, [TA_INTERRUPT_FIQ] = LINE_FIQ};
    if (index >= machine->vcpu_count || line > TA_INTERRUPT_FIQ || machine->gic)
        return -1;
    uint32_t *target = &machine->vcpus[index].lines;
    if (level)
        __atomic_fetch_or(target, lines[line], __ATOMIC_RELEASE);
    else
        __atomic_fetch_and(target, ~lines[line], __ATOMIC_RELEASE);
    return 0;
}
