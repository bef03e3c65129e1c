/* Constants of the Arm Architecture Reference Manual (DDI 0487), by its names. */
#ifndef TA_ARCHITECTURE_H
#define TA_ARCHITECTURE_H

/* SCTLR_EL1, TCR_EL1 and SPSR_EL1 fields (D23.2). */
#define SCTLR_M (1ull << 0)
#define SCTLR_A (1ull << 1)
#define SCTLR_SA (1ull << 3)
#define SCTLR_SA0 (1ull << 4)
#define SCTLR_UMA (1ull << 9)
#define SCTLR_DZE (1ull << 14)
#define SCTLR_UCT (1ull << 15)
#define SCTLR_NTWI (1ull << 16)
#define SCTLR_NTWE (1ull << 18)
#define SCTLR_WXN (1ull << 19)
#define SCTLR_SPAN (1ull << 23)
#define SCTLR_UCI (1ull << 26)
#define SCTLR_TCF0_SHIFT 38
#define SCTLR_TCF_SHIFT 40
#define SCTLR_ATA0 (1ull << 42)
#define SCTLR_ATA (1ull << 43)
#define SCTLR_DSSBS (1ull << 44)
#define TCR_EPD0 (1ull << 7)
#define TCR_TG0_SHIFT 14
#define TCR_TG1_SHIFT 30
#define TCR_EPD1 (1ull << 23)
#define TCR_TBI0_SHIFT 37
#define TCR_HPD0_SHIFT 41
#define TCR_TBID0_SHIFT 51
#define TCR_TCMA0_SHIFT 57
#define TTBR_ASID (0xffffull << 48)
#define CPACR_FPEN_SHIFT 20
#define MDSCR_SS (1ull << 0)
#define MDSCR_TDCC (1ull << 12)
#define MDSCR_KDE (1ull << 13)
#define MDSCR_MDE (1ull << 15)
#define OSLSR_LOCKED 2ull
#define OSLSR_IMPLEMENTED 8ull
#define DAIF_D 8u /* in vcpu.daif */

#define NZCV_MASK 0xf0000000u
#define SPSR_TCO (1ull << 25)
#define SPSR_DIT (1ull << 24)
#define SPSR_UAO (1ull << 23)
#define SPSR_PAN (1ull << 22)
#define SPSR_SS (1ull << 21)
#define SPSR_IL (1ull << 20)
#define SPSR_ALLINT (1ull << 13)
#define SPSR_SSBS (1ull << 12)
#define SPSR_BTYPE (3ull << 10)
#define SPSR_DAIF (0xfull << 6)
#define SPSR_MODE 0x1full
#define MODE_EL0T 0x0u
#define MODE_EL1T 0x4u
#define MODE_EL1H 0x5u

enum exception_class {
    EC_UNKNOWN = 0x00,
    EC_WFX = 0x01,
    EC_FP_ACCESS = 0x07,
    EC_ILLEGAL_STATE = 0x0e,
    EC_SVC = 0x15,
    EC_SYSTEM_REGISTER = 0x18,
    EC_INSTRUCTION_ABORT = 0x20, /* from EL0; +1 from EL1 */
    EC_PC_ALIGNMENT = 0x22,
    EC_DATA_ABORT = 0x24, /* from EL0; +1 from EL1 */
    EC_SP_ALIGNMENT = 0x26,
    EC_HARDWARE_BREAKPOINT = 0x30, /* from EL0; +1 from EL1 */
    EC_SOFTWARE_STEP = 0x32,       /* from EL0; +1 from EL1 */
    EC_WATCHPOINT = 0x34,          /* from EL0; +1 from EL1 */
    EC_BREAKPOINT = 0x3c,
};

enum fault_status {
    FSC_ADDRESS_SIZE = 0x00, /* + level */
    FSC_TRANSLATION = 0x04,  /* + level */
    FSC_ACCESS_FLAG = 0x08,  /* + level */
    FSC_PERMISSION = 0x0c,   /* + level */
    FSC_EXTERNAL = 0x10,
    FSC_TAG_CHECK = 0x11,
    FSC_EXTERNAL_ON_WALK = 0x14, /* + level */
    FSC_ALIGNMENT = 0x21,
    FSC_UNSUPPORTED_ATOMIC = 0x35,
};

#endif
