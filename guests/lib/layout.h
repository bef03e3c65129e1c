/* Numbers that C and assembly share. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define MAX_VCPUS 16
#define STACK_BYTES 16384

#define RAM_GPA 0x40000000
#define MAPPED_END 0x100000000 /* what the identity table covers: 3 GiB of RAM */
#define UART_GPA 0x09000000

/* SCTLR_EL1: M, C, I, ATA, TCF = sync (0b01), and what Armv8.0 had as RES1. EL0 has neither
 * tags (ATA0) nor cache maintenance (UCI, DZE). */
#define SCTLR_DEFAULT 0x0000090030d01805

/* MAIR_EL1: attribute 0 Normal write-back Tagged, 1 Device-nGnRnE, 2 Normal write-back
 * untagged. */
#define MAIR_DEFAULT 0x0000000000ff00f0
#define ATTRIBUTE_TAGGED 0
#define ATTRIBUTE_DEVICE 1
#define ATTRIBUTE_UNTAGGED 2

/* TCR_EL1: both halves 4 GiB with a 4 KiB granule and write-back, inner shareable walks;
 * TBI0 and TBI1; EPD1, so that there is no upper half; 32-bit physical addresses. */
#define TCR_DEFAULT 0x00000060b5a03520

#define TCR_EPD1 (1UL << 23)
#define TCR_TBI0 (1UL << 37)
#define TCR_TCMA0 (1UL << 57)
#define TCR_TCMA1 (1UL << 58)

/* Stage-1 descriptors. */
#define PTE_BLOCK 1
#define PTE_TABLE 3
#define PTE_PAGE 3
#define PTE_ATTRIBUTE(index) ((index) << 2)
#define PTE_EL0 (1UL << 6)
#define PTE_READ_ONLY (1UL << 7)
#define PTE_INNER_SHAREABLE (3UL << 8)
#define PTE_ACCESSED (1UL << 10)
#define PTE_PXN (1UL << 53)
#define PTE_UXN (1UL << 54)

/* struct frame, as vectors.S lays it out. */
#define FRAME_BYTES 304
#define FRAME_ELR 248
#define FRAME_SPSR 256
#define FRAME_ESR 264
#define FRAME_FAR 272
#define FRAME_SP_EL0 280
#define FRAME_TCO 288
#define FRAME_VECTOR 296

#endif
