/* A child has its own copy of the memory, tags included. */
#include "keeper.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANGES 64

static void live_as_child(struct keeper *keeper) {
    check_granules(keeper, 0, keeper->granules);
    for (unsigned change = 0; change < CHANGES; change++)
        change_granule(keeper, draw_granule(keeper));
    check_granules(keeper, 0, keeper->granules);
    _exit(0);
}

/* The parent's own look at its memory comes later: the child's changes must not be there. */
void check_in_child(struct keeper *keeper) {
    pid_t child = fork();
    if (child < 0)
        fail("thread=%u cannot fork: errno %d", keeper->number, errno);
    if (child == 0)
        live_as_child(keeper);
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            fail("thread=%u cannot wait for its child: errno %d", keeper->number, errno);
    if (status != 0)
        fail("thread=%u its child ended with wait status %#x", keeper->number, status);
    keeper->counts.children++;
}
