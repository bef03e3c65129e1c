/* The GICv3 as this program uses it: group 1, one security state, one priority, no LPIs.
 *
 * Source: Arm IHI 0069 (GICv3), chapters 4 and 12. */
#ifndef GIC_H
#define GIC_H

#include "types.h"

#define SGI_TURN 1      /* edge-triggered, to the next vCPU */
#define PPI_TIMER 27    /* level-sensitive, the virtual timer of each vCPU */
#define SPI_UART 33     /* level-sensitive, the console's transmit interrupt */
#define NO_INTERRUPT 1020 /* and above: special INTIDs */

/* False if there is no GICv3 where QEMU's `virt` has its own. */
bool gic_present(void);

/* The distributor, by one vCPU before all others; SPI_UART goes to vCPU `target`. */
void gic_start_distributor(u64 target);

/* The redistributor and the CPU interface of the vCPU that calls. */
void gic_start_vcpu(u64 vcpu);

u64 gic_acknowledge(void);
void gic_end(u64 intid);

/* SGI_TURN to a vCPU. */
void gic_send(u64 vcpu);

#endif
