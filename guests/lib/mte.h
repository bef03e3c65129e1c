/* Every MTE instruction as an inline function, and the pointer algebra around them.
 *
 * Memory is touched behind the compiler's back, hence the "memory" clobbers; the results
 * of IRG depend on RGSR_EL1, hence volatile. */
#ifndef MTE_H
#define MTE_H

#include "sysreg.h"

#define GRANULE_BYTES 16UL
#define TAG_SHIFT 56
#define TAG_MASK 0xfUL
#define TAG_COUNT 16

static inline unsigned pointer_tag(u64 pointer) {
    return pointer >> TAG_SHIFT & TAG_MASK;
}

static inline u64 pointer_with_tag(u64 pointer, unsigned tag) {
    return (pointer & ~(TAG_MASK << TAG_SHIFT)) | (u64)tag << TAG_SHIFT;
}

static inline u64 pointer_untagged(u64 pointer) {
    return pointer_with_tag(pointer, 0);
}

/* --- registers only ---------------------------------------------------------------------- */

static inline u64 mte_irg(u64 pointer, u64 exclude) {
    u64 result;
    __asm__ volatile("irg %0, %1, %2" : "=r"(result) : "r"(pointer), "r"(exclude));
    return result;
}

/* `bytes` and `tag` are immediates: 0 to 1008 in steps of 16, and 0 to 15. */
#define MTE_ADDG(pointer, bytes, tag)                                                         \
    ({                                                                                        \
        u64 result_;                                                                          \
        __asm__ volatile("addg %0, %1, #" #bytes ", #" #tag                                   \
                         : "=r"(result_)                                                      \
                         : "r"((u64)(pointer)));                                              \
        result_;                                                                              \
    })

#define MTE_SUBG(pointer, bytes, tag)                                                         \
    ({                                                                                        \
        u64 result_;                                                                          \
        __asm__ volatile("subg %0, %1, #" #bytes ", #" #tag                                   \
                         : "=r"(result_)                                                      \
                         : "r"((u64)(pointer)));                                              \
        result_;                                                                              \
    })

static inline u64 mte_gmi(u64 pointer, u64 mask) {
    u64 result;
    __asm__ volatile("gmi %0, %1, %2" : "=r"(result) : "r"(pointer), "r"(mask));
    return result;
}

static inline u64 mte_subp(u64 left, u64 right) {
    u64 result;
    __asm__ volatile("subp %0, %1, %2" : "=r"(result) : "r"(left), "r"(right));
    return result;
}

/* Stores NZCV (bits 31:28) in *flags. */
static inline u64 mte_subps(u64 left, u64 right, u64 *flags) {
    u64 result, nzcv;
    __asm__ volatile("subps %0, %2, %3\n\tmrs %1, nzcv"
                     : "=&r"(result), "=r"(nzcv)
                     : "r"(left), "r"(right)
                     : "cc");
    *flags = nzcv;
    return result;
}

/* --- one or two granules ------------------------------------------------------------------- */

/* Returns `old` with the allocation tag of address's granule in bits 59:56. */
static inline u64 mte_ldg(u64 old, u64 address) {
    __asm__ volatile("ldg %0, [%1]" : "+r"(old) : "r"(address) : "memory");
    return old;
}

static inline unsigned granule_tag(u64 address) {
    return pointer_tag(mte_ldg(0, address));
}

static inline void mte_stg(u64 tag_source, u64 address) {
    __asm__ volatile("stg %0, [%1]" : : "r"(tag_source), "r"(address) : "memory");
}

static inline void mte_st2g(u64 tag_source, u64 address) {
    __asm__ volatile("st2g %0, [%1]" : : "r"(tag_source), "r"(address) : "memory");
}

static inline void mte_stzg(u64 tag_source, u64 address) {
    __asm__ volatile("stzg %0, [%1]" : : "r"(tag_source), "r"(address) : "memory");
}

static inline void mte_stz2g(u64 tag_source, u64 address) {
    __asm__ volatile("stz2g %0, [%1]" : : "r"(tag_source), "r"(address) : "memory");
}

/* Stores a pair and the pointer's own tag. */
static inline void mte_stgp(u64 pointer, u64 first, u64 second) {
    __asm__ volatile("stgp %0, %1, [%2]" : : "r"(first), "r"(second), "r"(pointer) : "memory");
}

/* --- blocks ------------------------------------------------------------------------------ */

/* 4 bits a granule, at the granule's place in its 256 bytes. */
static inline u64 mte_ldgm(u64 address) {
    u64 tags;
    __asm__ volatile("ldgm %0, [%1]" : "=r"(tags) : "r"(address) : "memory");
    return tags;
}

static inline void mte_stgm(u64 tags, u64 address) {
    __asm__ volatile("stgm %0, [%1]" : : "r"(tags), "r"(address) : "memory");
}

/* The tag is bits 3:0 of `tag`, unlike with every other instruction. */
static inline void mte_stzgm(u64 tag, u64 address) {
    __asm__ volatile("stzgm %0, [%1]" : : "r"(tag), "r"(address) : "memory");
}

#define DC_OPERATION(function, operation)                                                     \
    static inline void function(u64 operand) {                                                \
        __asm__ volatile("dc " operation ", %0" : : "r"(operand) : "memory");                 \
    }

DC_OPERATION(dc_zva, "zva")
DC_OPERATION(dc_gva, "gva")
DC_OPERATION(dc_gzva, "gzva")
DC_OPERATION(dc_igvac, "igvac")
DC_OPERATION(dc_igdvac, "igdvac")
DC_OPERATION(dc_cgvac, "cgvac")
DC_OPERATION(dc_cgdvac, "cgdvac")
DC_OPERATION(dc_cgvap, "cgvap")
DC_OPERATION(dc_cgdvap, "cgdvap")
DC_OPERATION(dc_cigvac, "cigvac")
DC_OPERATION(dc_cigdvac, "cigdvac")
DC_OPERATION(dc_igsw, "igsw")
DC_OPERATION(dc_igdsw, "igdsw")
DC_OPERATION(dc_cgsw, "cgsw")
DC_OPERATION(dc_cgdsw, "cgdsw")
DC_OPERATION(dc_cigsw, "cigsw")
DC_OPERATION(dc_cigdsw, "cigdsw")
DC_OPERATION(dc_cvac, "cvac")

/* --- what this machine has ------------------------------------------------------------------ */

/* ID_AA64PFR1_EL1.MTE: 2 for all of this, 3 with asymmetric checking. */
static inline unsigned mte_version(void) {
    return sysreg_field(SYSREG_READ(id_aa64pfr1_el1), 8, 4);
}

/* What one LDGM or STGM covers. */
static inline u64 mte_bulk_bytes(void) {
    return 4UL << sysreg_field(SYSREG_READ(gmid_el1), 0, 4);
}

/* What one DC ZVA, GVA, GZVA or STZGM covers. */
static inline u64 mte_zero_bytes(void) {
    return 4UL << sysreg_field(SYSREG_READ(dczid_el0), 0, 4);
}

static inline void mte_set_mode(enum tag_check_mode mode) {
    u64 sctlr = SYSREG_READ(sctlr_el1) & ~SCTLR_TCF_MASK;
    SYSREG_WRITE(sctlr_el1, sctlr | (u64)mode << SCTLR_TCF_SHIFT);
}

#endif
