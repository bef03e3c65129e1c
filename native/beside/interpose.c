/* Interposes libc's ioctl, and looks at the calls that concern a VM.
 *
 * Every other call passes straight on: one comparison. A process without /dev/kvm never gets past
 * it. What the VMM sees is what the kernel answered: the result, errno and all; a call that we make
 * besides keeps errno. ioctl is not a cancellation point in glibc, nor is it here.
 */
#define _GNU_SOURCE
#include "beside.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef KVM_SET_USER_MEMORY_REGION2
#define KVM_SET_USER_MEMORY_REGION2 _IOC(_IOC_WRITE, KVMIO, 0x49, 0xa0)
#endif

#define EXPORTED __attribute__((visibility("default")))

typedef int (*ioctl_function)(int, unsigned long, ...);

static _Atomic(ioctl_function) real;
static atomic_bool is_forked;

static void note_fork(void) {
    /* The child has no service thread, and the lock may be held by a thread that it lacks. */
    atomic_store(&is_forked, true);
}

static void watch_forks(void) {
    pthread_atfork(NULL, NULL, note_fork);
}

__attribute__((constructor)) static void begin(void) {
    atomic_store(&real, (ioctl_function)dlsym(RTLD_NEXT, "ioctl"));
}

int tb_real_ioctl(int fd, unsigned long request, void *argument) {
    ioctl_function function = atomic_load_explicit(&real, memory_order_acquire);
    if (!function) { /* called by another library's constructor, before ours */
        int before = errno;
        function = (ioctl_function)dlsym(RTLD_NEXT, "ioctl");
        errno = before;
        if (!function)
            return (int)syscall(SYS_ioctl, fd, request, argument);
        atomic_store(&real, function);
    }
    return function(fd, request, argument);
}

static int create_vm(int fd, unsigned long request, void *argument) {
    int vm_fd = tb_real_ioctl(fd, request, argument);
    if (vm_fd >= 0) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        int before = errno;
        pthread_once(&once, watch_forks);
        tb_vm_created(vm_fd);
        errno = before;
    }
    return vm_fd;
}

static int create_vcpu(int fd, unsigned long request, void *argument) {
    int vcpu_fd = tb_real_ioctl(fd, request, argument);
    if (vcpu_fd >= 0)
        tb_vcpu_created(fd, vcpu_fd);
    return vcpu_fd;
}

static int enable_capability(int fd, unsigned long request, void *argument) {
    int result = tb_real_ioctl(fd, request, argument);
    if (result >= 0)
        tb_capability_enabled(fd, argument);
    return result;
}

static int dispatch(int fd, unsigned long request, void *argument) {
    switch (request) {
    case KVM_CREATE_VM:
        return create_vm(fd, request, argument);
    case KVM_CREATE_VCPU:
        return create_vcpu(fd, request, argument);
    case KVM_ENABLE_CAP:
        return enable_capability(fd, request, argument);
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_SET_USER_MEMORY_REGION2:
        return tb_set_slot(fd, request, argument);
    case KVM_GET_DIRTY_LOG:
        return tb_get_dirty_log(fd, request, argument);
    case KVM_CLEAR_DIRTY_LOG:
        return tb_clear_dirty_log(fd, request, argument);
    case KVM_ARM_MTE_COPY_TAGS:
        return tb_copy_tags_of_vmm(fd, request, argument);
    }
    return tb_real_ioctl(fd, request, argument);
}

/* What we do besides has points of cancellation (files of /proc are read), and a thread that ended
 * there would leave a lock behind. */
static int dispatch_whole(int fd, unsigned long request, void *argument) {
    int before, unused;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    int result = dispatch(fd, request, argument);
    int error = errno;
    pthread_setcancelstate(before, &unused);
    errno = error;
    return result;
}

EXPORTED int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (_IOC_TYPE(request) != KVMIO || tb_listener() < 0 || atomic_load(&is_forked))
        return tb_real_ioctl(fd, request, argument);
    request &= 0xffffffffUL; /* glibc took an int here for long: the kernel looks at 32 bits */
    if (request == KVM_RUN)
        return tb_run_vcpu(fd, request, argument);
    return dispatch_whole(fd, request, argument);
}
