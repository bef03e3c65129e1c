/* Where the threads of a transfer run.
 *
 * Two ends on one host share its processors. If a receiver runs where its sender does, each portion
 * is still in that processor's cache when it is copied out, the pages of the kernel's buffers are
 * used again while they are warm, and a wake-up interrupts no other processor. The scheduler finds
 * that by chance or not at all, and keeps what it has found: a migration took 1.5 times as long on
 * one run as on the next. So a receiver looks where its packets are processed, and goes there.
 *
 * It goes, and is free again: the scheduler may move it wherever it wants. */
#define _GNU_SOURCE
#include "tagalong.h"

#include <sched.h>
#include <sys/socket.h>

/* Moves the calling thread to a processor that it may use; nothing happens if it may not. A mask
 * that somebody else sets for the thread just between these calls is lost. */
static void move_to(int cpu)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) || !CPU_ISSET((size_t)cpu, &allowed))
        return;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}

void ta_follow_packets(int fd)
{
    int cpu = -1;
    socklen_t size = sizeof cpu;
    if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &size) || cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    if (cpu != sched_getcpu())
        move_to(cpu);
}

void ta_start_apart(uint32_t number)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    int count = CPU_COUNT(&allowed);
    if (count == 0) /* while a processor is taken offline */
        return;
    uint32_t nth = number % (uint32_t)count;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &allowed) && nth-- == 0) {
            move_to(cpu);
            return;
        }
}
