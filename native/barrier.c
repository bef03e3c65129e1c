/* A full memory barrier, for device models in Python: rings are shared with running vCPUs. */
#include "tagalong.h"

#include <stdatomic.h>

void ta_memory_barrier(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}
