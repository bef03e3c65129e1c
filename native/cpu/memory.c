/* Data accesses: alignment, translation, tag checks (DDI 0487 D10), MMIO, the dirty log.
 *
 * Two paths. The fast one (read_memory, write_memory in cpu.h) is a TLB hit within one page whose
 * tags agree; everything else comes here, and here alone the rules are judged, in the manual's
 * order of priority: alignment, translation, permission, external abort, tag check.
 *
 * The dirty log is a property of the TLB: an entry's write key is valid only if the page is marked
 * already, and each harvest flushes the entries. So the mark always comes before the store, a
 * store to a marked page costs nothing, and a tag store is a store like any other: a page whose
 * tags alone changed is in the log.
 *
 * An access is judged as a whole before anything changes: both pages of one that crosses a page
 * are translated and checked first, so that a fault on the second leaves the first untouched. */
#include "memory.h"

void mark_dirty(const struct ram_region *ram, uint64_t gpa)
{
    if (ram->dirty) {
        uint64_t page = (gpa - ram->gpa) >> PAGE_SHIFT;
        ram->dirty[page / 64] |= 1ull << (page % 64);
    }
}

bool tags_enabled(const struct vcpu *cpu, unsigned flags)
{
    return cpu->sys.sctlr & (privilege_of(cpu, flags) ? SCTLR_ATA : SCTLR_ATA0);
}

/* Whether this address is exempt whatever its tag: TBI off, or TCMA (D10.5.1). */
static bool is_exempt(const struct vcpu *cpu, uint64_t va)
{
    unsigned half = BIT(va, 55);
    if (!cpu->tbi[half])
        return true;
    return BIT(cpu->sys.tcr, TCR_TCMA0_SHIFT + half) && logical_tag(va) == (half ? 0xfu : 0u);
}

enum { TCF_NONE, TCF_SYNC, TCF_ASYNC, TCF_ASYMMETRIC };

/* A read-modify-write reports WnR = 0 where a read alone would have failed too. */
static unsigned as_read(unsigned flags)
{
    return flags & ACCESS_READ ? flags & ~(unsigned)ACCESS_WRITE : flags;
}

/* A mismatch at `va`: true if the access continues (none, async), false if a fault was taken. */
static bool tag_check_failed(struct vcpu *cpu, uint64_t va, unsigned flags)
{
    unsigned privilege = privilege_of(cpu, flags);
    unsigned tcf = cpu->sys.sctlr >> (privilege ? SCTLR_TCF_SHIFT : SCTLR_TCF0_SHIFT) & 3;
    bool sync = tcf == TCF_SYNC || (tcf == TCF_ASYMMETRIC && (flags & ACCESS_READ));
    if (sync) {
        raise_data_abort(cpu, va, FSC_TAG_CHECK, as_read(flags));
        return false;
    }
    *(privilege ? &cpu->sys.tfsr : &cpu->sys.tfsre0) |= 1ull << BIT(va, 55);
    return true;
}

static bool check_tags(struct vcpu *cpu, uint64_t va, uint32_t size, unsigned flags,
                       const struct access *access)
{
    if ((flags & (ACCESS_UNCHECKED | ACCESS_MAINTENANCE)) ||
        !cpu->check_tags[privilege_of(cpu, flags)] || is_exempt(cpu, va))
        return true;
    unsigned tag = logical_tag(va);
    for (uint32_t done = 0; done < size;) {
        const struct span *span = &access->spans[done >= access->spans[0].bytes];
        uint64_t at = va + done;
        if (span->tags && tag_at(span->tags, (at & (PAGE_BYTES - 1)) / GRANULE_BYTES) != tag)
            return tag_check_failed(cpu, at, flags);
        done += GRANULE_BYTES - (uint32_t)(at & (GRANULE_BYTES - 1));
    }
    return true;
}

/* One page's part of an access. */
struct piece {
    struct translation page;
    const struct ram_region *ram;
    uint64_t va;
    uint32_t bytes, window;
};

static enum memory_result find_page(struct vcpu *cpu, struct piece *piece, uint32_t align,
                                    unsigned flags)
{
    uint64_t address = strip_top_byte(cpu, piece->va);
    piece->page = translate(cpu, address, flags, privilege_of(cpu, flags));
    if (!piece->page.ok) {
        raise_data_abort(cpu, piece->va, piece->page.fsc,
                         piece->page.readable ? flags : as_read(flags));
        return MEMORY_FAULT;
    }
    bool misaligned = (flags & ACCESS_NO_DEVICE) || (address & (align - 1));
    if (piece->page.device && misaligned && !(flags & ACCESS_MAINTENANCE)) {
        raise_data_abort(cpu, piece->va, FSC_ALIGNMENT, as_read(flags));
        return MEMORY_FAULT;
    }
    if (unlikely(cpu->watches_data) && !(flags & ACCESS_MAINTENANCE) &&
        take_watchpoint(cpu, piece->va, piece->bytes, flags))
        return MEMORY_FAULT;
    if (flags & ACCESS_MAINTENANCE)
        return MEMORY_OK; /* no cache holds anything, so no memory is accessed */
    piece->ram = find_ram(cpu->machine, piece->page.gpa & PAGE_MASK, PAGE_BYTES);
    if (piece->ram)
        return MEMORY_OK;
    bool has_tags = piece->page.tagged && tags_enabled(cpu, flags);
    if ((flags & ACCESS_TAGS) && !has_tags)
        return MEMORY_OK; /* no tag access takes place (AArch64.MemTag) */
    const struct mapping *device = find_mapping(cpu->machine, piece->page.gpa, piece->bytes);
    if (device && !(flags & ACCESS_TAGS)) {
        piece->window = device->index;
        return MEMORY_MMIO;
    }
    raise_data_abort(cpu, piece->va, FSC_EXTERNAL, as_read(flags));
    return MEMORY_FAULT;
}

static struct span span_of(const struct piece *piece)
{
    if (!piece->ram)
        return (struct span){.bytes = piece->bytes};
    uint64_t offset = piece->page.gpa - piece->ram->gpa;
    return (struct span){
        .data = piece->ram->data + offset,
        .tags = piece->page.tagged ? piece->ram->tags + (offset & PAGE_MASK) / 32 : NULL,
        .bytes = piece->bytes,
    };
}

/* Marks the page in the dirty log and gives the fast path an entry for it. */
static void commit_page(struct vcpu *cpu, const struct piece *piece, unsigned flags)
{
    if (!piece->ram)
        return;
    uint64_t address = strip_top_byte(cpu, piece->va), mask, key = tlb_key(cpu, address, &mask);
    struct tlb_entry *entry = tlb_slot(cpu, address, flags);
    struct span span = span_of(piece);
    if (flags & ACCESS_WRITE)
        mark_dirty(piece->ram, piece->page.gpa);
    if (piece->page.device)
        return; /* alignment has to be checked each time */
    if (unlikely(cpu->watches_data) && has_watchpoint(cpu, address & PAGE_MASK))
        return;
    if (entry->read_key != key && entry->write_key != key)
        entry->write_key = NO_PAGE;
    note_block(cpu, address, piece->page.block_shift);
    entry->mask = mask;
    entry->data = span.data - (address & (PAGE_BYTES - 1));
    entry->tags = span.tags;
    entry->read_key = piece->page.readable ? key : NO_PAGE;
    if (flags & ACCESS_WRITE)
        entry->write_key = key;
    else if (entry->write_key != key)
        entry->write_key = NO_PAGE;
}

enum memory_result resolve(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                           unsigned flags, struct access *access)
{
    uint64_t address = strip_top_byte(cpu, va);
    if ((address & (align - 1)) && ((flags & ACCESS_ALIGNED) || cpu->strict_alignment)) {
        raise_data_abort(cpu, va, FSC_ALIGNMENT, as_read(flags));
        return MEMORY_FAULT;
    }
    uint32_t left = PAGE_BYTES - (uint32_t)(address & (PAGE_BYTES - 1));
    uint32_t first = size < left ? size : left;
    struct piece pieces[2] = {{.va = va, .bytes = first},
                              {.va = va + first, .bytes = size - first}};
    unsigned count = first < size ? 2 : 1;
    *access = (struct access){0};
    for (unsigned i = 0; i < count; i++) {
        enum memory_result result = find_page(cpu, &pieces[i], i ? 1 : align, flags);
        access->va = pieces[i].va;
        access->gpa = pieces[i].page.gpa;
        access->window = pieces[i].window;
        access->crosses = count == 2;
        if (result != MEMORY_OK)
            return result;
        access->spans[i] = span_of(&pieces[i]);
    }
    if (!check_tags(cpu, va, size, flags, access))
        return MEMORY_FAULT;
    for (unsigned i = 0; i < count; i++)
        commit_page(cpu, &pieces[i], flags);
    return MEMORY_OK;
}

bool resolve_ram(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                 struct access *access)
{
    enum memory_result result = resolve(cpu, va, size, align, flags, access);
    if (result == MEMORY_MMIO)
        raise_data_abort(cpu, va, FSC_UNSUPPORTED_ATOMIC, as_read(flags));
    return result == MEMORY_OK;
}

bool resolve_tags(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                  struct access *access)
{
    flags |= ACCESS_TAGS | ACCESS_UNCHECKED;
    return resolve(cpu, va, size, align, flags, access) == MEMORY_OK;
}

/* Takes the next answer to an access of this instruction, if it is there. */
static bool take_answer(struct vcpu *cpu, uint64_t *value)
{
    if (cpu->mmio.seen == cpu->mmio.answers)
        return false;
    if (cpu->mmio.seen < MMIO_VALUES)
        *value = cpu->mmio.values[cpu->mmio.seen];
    cpu->mmio.seen++;
    return true;
}

/* One access to a device. The GIC answers here and now, by the interpreter's own state. Of others,
 * without an answer the vCPU leaves with the access described in
 * cpu->mmio; with it the same instruction runs again, from its start, and finds here the answers
 * that it has had. So no handler needs a half-finished state, and what an instruction does to RAM
 * or registers before its last access it must be able to do twice. */
static bool mmio_element(struct vcpu *cpu, const struct access *access, uint32_t offset,
                         uint32_t size, unsigned flags, uint64_t *value)
{
    uint64_t gpa = access->gpa + offset;
    if (access->window == GIC_WINDOW) {
        if (flags & ACCESS_WRITE)
            gic_write(cpu, gpa, size, *value);
        else
            *value = gic_read(cpu, gpa, size);
        return true;
    }
    if (take_answer(cpu, value)) {
        if (!cpu->mmio.aborted || cpu->mmio.seen < cpu->mmio.answers)
            return true;
        raise_data_abort(cpu, access->va + offset, FSC_EXTERNAL, flags);
        return false;
    }
    cpu->mmio.gpa = gpa;
    cpu->mmio.window = access->window;
    cpu->mmio.size = size;
    cpu->mmio.is_write = (flags & ACCESS_WRITE) != 0;
    cpu->mmio.data = cpu->mmio.is_write ? *value : 0;
    cpu->mmio.pending = true;
    cpu->mmio.seen = 0;
    stop_with(cpu, TA_EXIT_MMIO);
    return false;
}

/* A pair is two accesses, as its elements are single-copy atomic each by itself (B2.2.1); so a
 * store of 16 zeros is two, and so is an element of 16 bytes, the widest that a bus has being 8. An
 * access that crosses into a device's page is no access of a bus. */
static bool mmio_access(struct vcpu *cpu, const struct access *access, uint32_t size,
                        uint32_t align, unsigned flags, void *bytes)
{
    uint32_t step = size > align && align ? align : size;
    if (step > MMIO_BYTES)
        step = MMIO_BYTES;
    if (access->crosses) {
        raise_data_abort(cpu, access->va, FSC_EXTERNAL, flags);
        return false;
    }
    for (uint32_t done = 0; done < size; done += step) {
        uint64_t value = 0;
        memcpy(&value, (uint8_t *)bytes + done, step);
        if (!mmio_element(cpu, access, done, step, flags, &value))
            return false;
        memcpy((uint8_t *)bytes + done, &value, step);
    }
    return true;
}

bool zero_device(struct vcpu *cpu, uint64_t va, uint32_t size)
{
    static const uint64_t zero;
    for (uint32_t done = 0; done < size; done += MMIO_BYTES)
        if (!write_slow(cpu, va + done, MMIO_BYTES, MMIO_BYTES, ACCESS_WRITE | ACCESS_UNCHECKED,
                        &zero))
            return false;
    return true;
}

bool read_slow(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
               void *out)
{
    struct access access;
    enum memory_result result = resolve(cpu, va, size, align, flags, &access);
    if (result == MEMORY_MMIO) {
        memset(out, 0, size);
        return mmio_access(cpu, &access, size, align, flags, out);
    }
    if (result == MEMORY_FAULT)
        return false;
    uint32_t first = access.spans[0].bytes;
    memcpy(out, access.spans[0].data, first);
    if (first < size)
        memcpy((uint8_t *)out + first, access.spans[1].data, size - first);
    return true;
}

bool write_slow(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                const void *in)
{
    struct access access;
    enum memory_result result = resolve(cpu, va, size, align, flags, &access);
    if (result == MEMORY_MMIO) {
        uint8_t bytes[BLOCK_BYTES];
        memcpy(bytes, in, size);
        return mmio_access(cpu, &access, size, align, flags, bytes);
    }
    if (result == MEMORY_FAULT)
        return false;
    uint32_t first = access.spans[0].bytes;
    clear_monitors(cpu, access.spans[0].data);
    memcpy(access.spans[0].data, in, first);
    if (first < size) {
        clear_monitors(cpu, access.spans[1].data);
        memcpy(access.spans[1].data, (const uint8_t *)in + first, size - first);
    }
    return true;
}

void drop_monitor(struct vcpu *cpu)
{
    if (cpu->monitor.data) {
        cpu->monitor.data = NULL;
        cpu->machine->armed_monitors--;
    }
}

/* A store clears the other vCPUs' reservations of the same 64 bytes (CTR_EL0.ERG = 4). No access
 * within one call is longer than that; DC ZVA calls once per 64 bytes. */
void clear_monitors(struct vcpu *cpu, const uint8_t *data)
{
    struct ta_machine *machine = cpu->machine;
    if (!machine->armed_monitors)
        return;
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        struct vcpu *other = &machine->vcpus[i];
        uintptr_t a = (uintptr_t)other->monitor.data / 64, b = (uintptr_t)data / 64;
        if (other != cpu && other->monitor.data && (a == b || a == b + 1))
            drop_monitor(other);
    }
}
