/* Guest memory as instructions reach it: translation, the TLB, tag checks, loads and stores.
 *
 * The fast path, read_memory() and write_memory(), is here, so that it becomes part of each handler;
 * memory.c has the slow one and mmu.c the translation. */
#ifndef TA_MEMORY_H
#define TA_MEMORY_H

#include "cpu.h"

enum memory_result { MEMORY_OK, MEMORY_FAULT, MEMORY_MMIO };

/* Where the bytes of an access lie in the host; two pieces if it crosses a page. */
struct span {
    uint8_t *data;
    uint8_t *tags;
    uint32_t bytes;
};

struct access {
    struct span spans[2];
    /* Of an MMIO access: */
    uint64_t va, gpa;
    uint32_t window;
    bool crosses; /* it is one of two pages of an access */
};

void update_tag_checks(struct vcpu *cpu);  /* after SCTLR or TCO changed */
void update_memory_mode(struct vcpu *cpu); /* after SCTLR, TCR, IL or EL changed */
void select_tlb(struct vcpu *cpu);         /* after EL or PAN changed */
void flush_tlb(struct vcpu *cpu);
/* Forgets one page, or all of the half of the address space that it is in. */
void flush_tlb_page(struct vcpu *cpu, uint64_t address);
void flush_tlb_half(struct vcpu *cpu, unsigned half);
/* Must be called for each entry that is made, with the block_shift that translate() found. */
void note_block(struct vcpu *cpu, uint64_t address, unsigned shift);
void flush_all_tlbs(struct ta_machine *machine);
bool fetch_page(struct vcpu *cpu); /* false: an exception was taken instead */

struct translation {
    uint64_t gpa; /* of the byte asked for */
    uint32_t fsc; /* if not ok */
    uint8_t attribute; /* MAIR byte */
    uint8_t block_shift; /* log2 of the block's bytes; 0 of a page */
    bool ok, tagged, device, readable, writable;
};
struct translation translate(struct vcpu *cpu, uint64_t address, unsigned flags,
                             unsigned privilege);
const struct ram_region *find_ram(const struct ta_machine *machine, uint64_t gpa,
                                  uint64_t bytes);
/* The RAM or the window that holds all of [gpa, gpa + bytes), or NULL. */
const struct mapping *find_mapping(const struct ta_machine *machine, uint64_t gpa,
                                   uint64_t bytes);
void mark_dirty(const struct ram_region *ram, uint64_t gpa);

/* Finds the host bytes of an access of `size` bytes (512 at most), all checks made and the
 * dirty log marked. `align` is what an alignment check asks for. MEMORY_FAULT: the exception
 * was taken. */
enum memory_result resolve(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                           unsigned flags, struct access *access);
/* As resolve, but takes an abort for what is not RAM: true or an exception was taken. */
bool resolve_ram(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                 struct access *access);
/* As resolve, for allocation tags alone. Memory that is not Tagged has none, whatever lies behind
 * it; a span without tags then has no data either if there is no RAM. */
bool resolve_tags(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                  struct access *access);
/* The stores of an instruction that writes `size` bytes (a multiple of 8) of zeros to what is not
 * RAM; false if an exception was taken or the vCPU has to leave. */
bool zero_device(struct vcpu *cpu, uint64_t va, uint32_t size);
bool read_slow(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
               void *out);
bool write_slow(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align, unsigned flags,
                const void *in);
void clear_monitors(struct vcpu *cpu, const uint8_t *data);
void drop_monitor(struct vcpu *cpu);
bool tags_enabled(const struct vcpu *cpu, unsigned flags); /* allocation tag access (ATA) */

ALWAYS_INLINE unsigned privilege_of(const struct vcpu *cpu, unsigned flags)
{
    return cpu->el && !(flags & ACCESS_UNPRIVILEGED);
}

/* The address without its top byte, where TBI says so (D8.8, "Address tagging"). */
ALWAYS_INLINE uint64_t strip_top_byte(const struct vcpu *cpu, uint64_t va)
{
    return cpu->tbi[BIT(va, 55)] ? (uint64_t)sign_extend(va, 56) : va;
}

ALWAYS_INLINE unsigned tag_at(const uint8_t *page_tags, unsigned granule)
{
    return (page_tags[granule >> 1] >> ((granule & 1) * 4)) & 0xf;
}

ALWAYS_INLINE unsigned logical_tag(uint64_t va)
{
    return (unsigned)(va >> 56) & 0xf;
}

/* True only where no rule can object to this access of at most 16 bytes within a page; all
 * else is for the slow path to judge. */
ALWAYS_INLINE bool tags_agree(const struct vcpu *cpu, const uint8_t *page_tags, uint64_t va,
                              uint32_t size, unsigned flags)
{
    if (!page_tags || (flags & ACCESS_UNCHECKED) || !cpu->check_tags[privilege_of(cpu, flags)])
        return true;
    unsigned offset = (unsigned)va & (PAGE_BYTES - 1), tag = logical_tag(va);
    return tag_at(page_tags, offset / GRANULE_BYTES) == tag &&
           tag_at(page_tags, (offset + size - 1) / GRANULE_BYTES) == tag;
}

/* CheckSPAlignment() (shared/functions), for an access whose base register may be SP. */
ALWAYS_INLINE bool stack_is_aligned(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t enabled = cpu->el ? SCTLR_SA : SCTLR_SA0;
    if (likely(insn->rn != SLOT_SP) || !(cpu->x[SLOT_SP] & 15) || !(cpu->sys.sctlr & enabled))
        return true;
    raise_exception(cpu, EC_SP_ALIGNMENT, 0);
    return false;
}

ALWAYS_INLINE bool is_plain(const struct vcpu *cpu, uint64_t address, uint32_t size,
                            uint32_t align, unsigned flags)
{
    return (address & (PAGE_BYTES - 1)) + size <= PAGE_BYTES &&
           (!(address & (align - 1)) ||
            (!(flags & ACCESS_ALIGNED) && !cpu->strict_alignment));
}

ALWAYS_INLINE struct tlb_entry *tlb_slot(struct vcpu *cpu, uint64_t address, unsigned flags)
{
    struct tlb_entry *tlb = flags & ACCESS_UNPRIVILEGED ? cpu->tlb[0] : cpu->data_tlb;
    return &tlb[(address >> PAGE_SHIFT) % TLB_ENTRIES];
}

/* The key that an entry for `address` has. */
ALWAYS_INLINE uint64_t tlb_key(const struct vcpu *cpu, uint64_t address, uint64_t *mask)
{
    *mask = PAGE_MASK & (cpu->tbi[BIT(address, 55)] ? ~(0xffull << 56) : ~0ull);
    return address & *mask;
}

/* memcpy() of what one instruction moves: a call costs more than that. */
ALWAYS_INLINE void copy_small(void *to, const void *from, uint32_t size)
{
    switch (size) {
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    case 16:
        memcpy(to, from, 16);
        break;
    default:
        memcpy(to, from, size);
    }
}

/* Both return false if an exception was taken or the vCPU has to leave for MMIO. `size` is
 * at most 16; `align` is the size of one element. */
ALWAYS_INLINE bool read_memory(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                               unsigned flags, void *out)
{
    uint64_t address = strip_top_byte(cpu, va);
    const struct tlb_entry *entry = tlb_slot(cpu, address, flags);
    if (likely(entry->read_key == (address & entry->mask) &&
               is_plain(cpu, address, size, align, flags) &&
               tags_agree(cpu, entry->tags, va, size, flags))) {
        copy_small(out, entry->data + (address & (PAGE_BYTES - 1)), size);
        return true;
    }
    return read_slow(cpu, va, size, align, flags | ACCESS_READ, out);
}

ALWAYS_INLINE bool write_memory(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                                unsigned flags, const void *in)
{
    uint64_t address = strip_top_byte(cpu, va);
    const struct tlb_entry *entry = tlb_slot(cpu, address, flags);
    if (likely(entry->write_key == (address & entry->mask) &&
               is_plain(cpu, address, size, align, flags) &&
               tags_agree(cpu, entry->tags, va, size, flags) &&
               !cpu->machine->armed_monitors)) {
        copy_small(entry->data + (address & (PAGE_BYTES - 1)), in, size);
        return true;
    }
    return write_slow(cpu, va, size, align, flags | ACCESS_WRITE, in);
}

#endif
