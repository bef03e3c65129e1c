/* KVM_RUN for tests of native/beside/vcpus.c on any host: a vCPU is a file of one page, its kvm_run.
 */
#define _GNU_SOURCE
#include "beside.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#define RAN 5

int stub_entries; /* how often the guest was entered */
int stub_returns; /* how often KVM_RUN has returned before that */

int tb_real_ioctl(int fd, unsigned long request, void *argument) {
    (void)request;
    (void)argument;
    struct kvm_run *run = mmap(NULL, tb_page_bytes(), PROT_READ, MAP_SHARED, fd, 0);
    bool must_return = run->immediate_exit;
    munmap(run, tb_page_bytes());
    if (must_return) {
        stub_returns++;
        errno = EINTR;
        return -1;
    }
    stub_entries++;
    return RAN;
}

uint32_t tb_page_bytes(void) {
    return 4096;
}
