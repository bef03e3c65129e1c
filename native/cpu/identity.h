/* What this CPU says that it is: its identification registers (DDI 0487 D24.2). */
#ifndef TA_IDENTITY_H
#define TA_IDENTITY_H

/* This CPU: Armv8.5-A with FEAT_MTE3, LSE, LRCPC2, CRC32, FlagM2, PAN, UAO, DIT, SSBS2, SB, LOR,
 * FP16, RDM, DotProd, AES, PMULL, SHA1, SHA256; no PAuth, no EL2 or EL3, no AArch32 (so
 * MVFR0_EL1 and its kin are zero). Implementer 0 is for software.
 *
 * A value that ends in _BEFORE is that of an earlier version of this machine: a guest that has seen
 * it can still be loaded, and keeps it. */
#define MIDR 0x000f7a60ull
#define ID_AA64PFR0 0x0001000000110011ull
#define ID_AA64PFR0_BEFORE 0x0001000000ff0011ull /* no floating point, no SIMD */
#define ID_AA64PFR0_GIC (1ull << 24) /* the system register interface; only with a GIC */
#define ID_AA64PFR1 0x0000000000000320ull
/* 6 breakpoints, 2 of them context-aware, 4 watchpoints, no double lock. The earlier version had no
 * debug registers and claimed numbers that are reserved. */
#define ID_AA64DFR0 0x000000f010305006ull
#define ID_AA64DFR0_BEFORE 0x6ull
#define ID_AA64ISAR0 0x0020100010211120ull
#define ID_AA64ISAR0_BEFORE 0x0020000000210000ull
#define ID_AA64ISAR1 0x0000001000200002ull
#define ID_AA64MMFR0 0x0000000000100025ull /* granules of 4, 16 and 64 KiB */
#define ID_AA64MMFR0_BEFORE 0x000000000f000025ull /* of 4 KiB alone */
#define ID_AA64MMFR1 0x0000000000111000ull
#define ID_AA64MMFR2 0x0000000000000010ull
#define CTR 0x00000004b444c004ull
#define DCZID 7ull
#define DCZID_DZP (1ull << 4)
#define GMID 6ull
#define MPIDR_RES1 0x80000000ull

#endif
