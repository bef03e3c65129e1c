#include "gic.h"

#include "sysreg.h"
#include "vcpu.h"

#define GICD_GPA 0x08000000UL
#define GICR_GPA 0x080a0000UL
#define GICR_STRIDE 0x20000UL
#define SGI_FRAME 0x10000UL

#define GICD_CTLR 0x0000
#define GICD_IGROUPR 0x0080
#define GICD_ISENABLER 0x0100
#define GICD_IPRIORITYR 0x0400
#define GICD_ICFGR 0x0c00
#define GICD_IROUTER 0x6000
#define GICD_PIDR2 0xffe8
#define GICR_WAKER 0x0014

#define CTLR_ENABLE_GROUP_1 (1u << 1)
#define CTLR_ARE (1u << 4)
#define CTLR_RWP (1u << 31)
#define WAKER_PROCESSOR_SLEEP (1u << 1)
#define WAKER_CHILDREN_ASLEEP (1u << 2)
#define PIDR2_ARCHITECTURE(pidr2) ((pidr2) >> 4 & 0xf)

#define PRIORITY 0xa0u
#define ALL_PRIORITIES 0xf0

/* CPU interface registers by their encodings, which every assembler knows. */
#define ICC_PMR_EL1 S3_0_C4_C6_0
#define ICC_IAR1_EL1 S3_0_C12_C12_0
#define ICC_EOIR1_EL1 S3_0_C12_C12_1
#define ICC_BPR1_EL1 S3_0_C12_C12_3
#define ICC_CTLR_EL1 S3_0_C12_C12_4
#define ICC_SRE_EL1 S3_0_C12_C12_5
#define ICC_IGRPEN1_EL1 S3_0_C12_C12_7
#define ICC_SGI1R_EL1 S3_0_C12_C11_5

#define SGI1R_INTID_SHIFT 24

/* One level more, so that a name above is expanded before it is made text. */
#define ICC_READ(name) SYSREG_READ(name)
#define ICC_WRITE(name, value) SYSREG_WRITE(name, value)

static volatile u32 *word(u64 gpa) {
    return (volatile u32 *)gpa;
}

/* Registers with `bits` bits per INTID: changes the field of one. */
static void set_field(u64 base, u64 intid, unsigned bits, u32 value) {
    volatile u32 *place = word(base + intid * bits / 32 * 4);
    unsigned shift = intid * bits % 32;
    u32 mask = ((1u << bits) - 1) << shift;
    *place = (*place & ~mask) | value << shift;
}

static void wait_while(u64 gpa, u32 bits) {
    while (*word(gpa) & bits)
        cpu_relax();
}

bool gic_present(void) {
    trap_arm(0); /* where nothing is, the access aborts */
    u32 pidr2 = *word(GICD_GPA + GICD_PIDR2);
    barrier_all();
    return !trap_taken() && PIDR2_ARCHITECTURE(pidr2) >= 3;
}

void gic_start_distributor(u64 target) {
    *word(GICD_GPA + GICD_CTLR) = CTLR_ARE;
    wait_while(GICD_GPA + GICD_CTLR, CTLR_RWP);
    set_field(GICD_GPA + GICD_IGROUPR, SPI_UART, 1, 1);
    set_field(GICD_GPA + GICD_IPRIORITYR, SPI_UART, 8, PRIORITY);
    set_field(GICD_GPA + GICD_ICFGR, SPI_UART, 2, 0);
    *word(GICD_GPA + GICD_IROUTER + SPI_UART * 8) = (u32)target;
    *word(GICD_GPA + GICD_IROUTER + SPI_UART * 8 + 4) = 0;
    *word(GICD_GPA + GICD_ISENABLER + SPI_UART / 32 * 4) = 1u << SPI_UART % 32;
    *word(GICD_GPA + GICD_CTLR) = CTLR_ARE | CTLR_ENABLE_GROUP_1;
    wait_while(GICD_GPA + GICD_CTLR, CTLR_RWP);
}

void gic_start_vcpu(u64 vcpu) {
    u64 frame = GICR_GPA + vcpu * GICR_STRIDE, sgis = frame + SGI_FRAME;
    *word(frame + GICR_WAKER) &= ~WAKER_PROCESSOR_SLEEP;
    wait_while(frame + GICR_WAKER, WAKER_CHILDREN_ASLEEP);
    *word(sgis + GICD_IGROUPR) = ~0u;
    set_field(sgis + GICD_IPRIORITYR, SGI_TURN, 8, PRIORITY);
    set_field(sgis + GICD_IPRIORITYR, PPI_TIMER, 8, PRIORITY);
    set_field(sgis + GICD_ICFGR, PPI_TIMER, 2, 0);
    *word(sgis + GICD_ISENABLER) = 1u << SGI_TURN | 1u << PPI_TIMER;
    ICC_WRITE(ICC_SRE_EL1, ICC_READ(ICC_SRE_EL1) | 1);
    ICC_WRITE(ICC_PMR_EL1, ALL_PRIORITIES);
    ICC_WRITE(ICC_BPR1_EL1, 0);
    ICC_WRITE(ICC_CTLR_EL1, 0);
    ICC_WRITE(ICC_IGRPEN1_EL1, 1);
}

u64 gic_acknowledge(void) {
    u64 intid = ICC_READ(ICC_IAR1_EL1);
    barrier_all();
    return intid & 0xffffff;
}

void gic_end(u64 intid) {
    barrier_all();
    ICC_WRITE(ICC_EOIR1_EL1, intid);
}

void gic_send(u64 vcpu) {
    barrier_all();
    ICC_WRITE(ICC_SGI1R_EL1, (u64)SGI_TURN << SGI1R_INTID_SHIFT | 1UL << vcpu);
}
