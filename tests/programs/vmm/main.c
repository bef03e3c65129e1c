/* A VMM that does what VMMs may do, and prints what came of it.
 *
 * tests/lab/test_beside.py runs it by itself, under our preloaded library, and under it
 * beside a process of ours: what it prints must be the same. No thread or lock of the library may
 * show, no errno may change, nothing may hang (SIGALRM ends the process then).
 *
 *     vmm PROGRAM_TO_EXEC LIBRARY_TO_OPEN
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNTOUCHED 77
#define RAM 0x40000000UL
#define RAM_BYTES (2UL << 20)
#define DEVICE 0x09000000UL
#define NOBODY 65534

static int kvm, vm, vcpu;
static struct kvm_run *run;
static uint32_t *ram;

/* Prints a result and errno, which a call that succeeds must leave alone. */
static void say(const char *what, long result) {
    int error = errno;
    printf("%s: %ld, errno %d\n", what, result, error);
    fflush(stdout);
    errno = UNTOUCHED;
}

static int set_slot(uint32_t number, uint64_t gpa, uint64_t size, uint32_t flags, void *memory) {
    struct kvm_userspace_memory_region region = {number, flags, gpa, size, (uintptr_t)memory};
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void *anonymous(size_t size) {
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void try_other_descriptors(void) {
    int ends[2], waiting = -1;
    struct kvm_dirty_log log = {0};
    if (pipe(ends) != 0 || write(ends[1], "abc", 3) != 3)
        exit(3);
    say("FIONREAD of a pipe", ioctl(ends[0], FIONREAD, &waiting));
    say("bytes in it", waiting);
    say("KVM_RUN of nothing", ioctl(-1, KVM_RUN, 0));
    say("KVM_RUN of a pipe", ioctl(ends[0], KVM_RUN, 0));
    say("dirty log of a pipe", ioctl(ends[0], KVM_GET_DIRTY_LOG, &log));
    say("a slot of a pipe", ioctl(ends[0], KVM_SET_USER_MEMORY_REGION, NULL));
    say("a VM of a pipe", ioctl(ends[0], KVM_CREATE_VM, 0));
    close(ends[0]);
    close(ends[1]);
}

static void make_vm(void) {
    struct kvm_enable_cap unknown = {.cap = 0x7fffffff};
    struct kvm_vcpu_init init;
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    errno = UNTOUCHED;
    say("version, without an argument", ioctl(kvm, KVM_GET_API_VERSION));
    say("a VM of an unknown type", ioctl(kvm, KVM_CREATE_VM, 1UL << 40));
    vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
    say("a VM", vm >= 0);
    say("an unknown capability", ioctl(vm, KVM_ENABLE_CAP, &unknown));
    say("a capability at no address", ioctl(vm, KVM_ENABLE_CAP, NULL));
    ram = anonymous(RAM_BYTES);
    say("a slot", set_slot(0, RAM, RAM_BYTES, 0, ram));
    say("a slot over it", set_slot(1, RAM, RAM_BYTES, 0, ram));
    say("a slot at no address", ioctl(vm, KVM_SET_USER_MEMORY_REGION, NULL));
    say("tags at no address", ioctl(vm, KVM_ARM_MTE_COPY_TAGS, NULL));
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL);
    say("a vCPU", vcpu >= 0);
    say("the same vCPU", ioctl(vm, KVM_CREATE_VCPU, 0UL));
    say("its kind", ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init));
    say("its start", ioctl(vcpu, KVM_ARM_VCPU_INIT, &init));
    run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
               MAP_SHARED, vcpu, 0);
}

/* A message of the library must not end a VMM whose standard error is a broken pipe. */
static void refuse_with_a_broken_standard_error(void) {
    int ends[2], kept = dup(STDERR_FILENO);
    if (pipe(ends) != 0)
        exit(3);
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    errno = UNTOUCHED;
    say("a slot of half a page", set_slot(5, RAM + RAM_BYTES, 2048, 0, ram));
    dup2(kept, STDERR_FILENO);
    close(kept);
}

static uint64_t core_register(size_t offset) {
    return KVM_REG_ARM64 | KVM_REG_ARM_CORE | KVM_REG_SIZE_U64 | offset / sizeof(uint32_t);
}

static long set_register(size_t offset, uint64_t value) {
    struct kvm_one_reg reg = {core_register(offset), (uintptr_t)&value};
    return ioctl(vcpu, KVM_SET_ONE_REG, &reg);
}

static uint64_t get_register(size_t offset) {
    uint64_t value = 0;
    struct kvm_one_reg reg = {core_register(offset), (uintptr_t)&value};
    ioctl(vcpu, KVM_GET_ONE_REG, &reg);
    return value;
}

#define X(n) (offsetof(struct kvm_regs, regs.regs) + (n) * sizeof(uint64_t))
#define PC offsetof(struct kvm_regs, regs.pc)

static void on_alarm(int number) {
    (void)number; /* it ends KVM_RUN */
}

static void run_the_guest(void) {
    ram[0] = 0xf9400020; /* ldr x0, [x1] */
    ram[1] = 0x14000000; /* b . */
    __builtin___clear_cache((char *)ram, (char *)(ram + 2));
    set_register(PC, RAM);
    set_register(X(1), DEVICE);
    errno = UNTOUCHED;
    say("KVM_RUN up to a device", ioctl(vcpu, KVM_RUN, 0));
    say("why it returned", run->exit_reason);
    *(uint64_t *)(void *)run->mmio.data = 0x1234;
    run->immediate_exit = 1;
    say("KVM_RUN that must return at once", ioctl(vcpu, KVM_RUN, 0));
    run->immediate_exit = 0;
    say("what was loaded", (long)get_register(X(0)));
    struct sigaction interrupt = {.sa_handler = on_alarm}, before;
    sigaction(SIGALRM, &interrupt, &before);
    /* Again and again: the first may come before the guest is entered. */
    struct itimerval soon = {{.tv_usec = 300000}, {.tv_usec = 300000}}, never = {{0}, {0}};
    setitimer(ITIMER_REAL, &soon, NULL);
    errno = UNTOUCHED;
    say("KVM_RUN until a signal", ioctl(vcpu, KVM_RUN, 0));
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    say("where it is", (long)(get_register(PC) - RAM));
}

static void use_dirty_logs(void) {
    static uint64_t bits[RAM_BYTES / 4096 / 64];
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bits};
    struct kvm_clear_dirty_log clear = {.slot = 0, .num_pages = 64, .dirty_bitmap = bits};
    struct kvm_enable_cap manual = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {1}};
    say("a log that is not on", ioctl(vm, KVM_GET_DIRTY_LOG, &log));
    say("a log goes on", set_slot(0, RAM, RAM_BYTES, KVM_MEM_LOG_DIRTY_PAGES, ram));
    say("its bits", ioctl(vm, KVM_GET_DIRTY_LOG, &log));
    say("CLEAR without manual protection", ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear));
    say("manual protection", ioctl(vm, KVM_ENABLE_CAP, &manual));
    /* As the callers to whom a request is an int. */
    say("CLEAR by a negative number",
        ioctl(vm, (unsigned long)(long)(int)KVM_CLEAR_DIRTY_LOG, &clear));
    clear.first_page = 1;
    say("CLEAR of pages that are not whole words", ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear));
    log.slot = 9;
    say("a log of no slot", ioctl(vm, KVM_GET_DIRTY_LOG, &log));
    say("a log at no address", ioctl(vm, KVM_GET_DIRTY_LOG, NULL));
    say("the log goes off", set_slot(0, RAM, RAM_BYTES, 0, ram));
}

static bool came_through;

static void *be_cancelled(void *memory) {
    pthread_cancel(pthread_self());
    /* No ioctl is a point of cancellation. */
    bool is_set = set_slot(7, RAM + (1UL << 30), 65536, 0, memory) == 0;
    bool is_refused = set_slot(8, RAM + 1, 65536, 0, memory) != 0;
    came_through = is_set && is_refused && ioctl(kvm, KVM_CREATE_VM, 0UL) >= 0;
    pthread_testcancel();
    return NULL;
}

static void cancel_a_thread(void) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, be_cancelled, anonymous(65536));
    pthread_join(thread, &result);
    errno = UNTOUCHED;
    say("a cancelled thread came through", came_through && result == PTHREAD_CANCELED);
    say("a slot afterwards", set_slot(7, RAM + (1UL << 30), 0, 0, NULL));
}

static int in_child(const char *program) {
    errno = UNTOUCHED;
    say("child: the parent's VM", set_slot(0, RAM, 0, 0, NULL));
    vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
    say("child: a VM of its own", vm >= 0);
    say("child: a slot", set_slot(0, RAM, RAM_BYTES, 0, ram));
    execl(program, program, "child", NULL);
    return 4;
}

static void fork_and_exec(const char *program) {
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(in_child(program));
    waitpid(child, &status, 0);
    errno = UNTOUCHED;
    say("the child's status", status);
    say("a slot after fork", set_slot(3, RAM + (2UL << 30), RAM_BYTES, 0, ram));
}

static int begin_as_child(void) {
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
    ram = anonymous(RAM_BYTES);
    errno = UNTOUCHED;
    say("executed child: a slot", set_slot(0, RAM, RAM_BYTES, 0, ram));
    return 9;
}

static void make_many_vms(void) {
    int lowest = dup(kvm), again;
    close(lowest);
    for (int i = 0; i < 40; i++) {
        int another = ioctl(kvm, KVM_CREATE_VM, 0UL);
        close(ioctl(another, KVM_CREATE_VCPU, 0UL));
        close(another);
    }
    again = dup(kvm);
    close(again);
    say("descriptors that are left", again - lowest);
}

static void forbid_to_open(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof(steps) / sizeof(*steps), steps};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    errno = UNTOUCHED;
    say("a sandbox", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                             &filter));
    say("a slot in it", set_slot(4, RAM + (3UL << 30), RAM_BYTES, 0, ram));
}

/* setuid changes all threads of the process, by a signal of the C library's. */
static void become_nobody(void) {
    long changed = 0, threads = 0;
    say("another user", setresuid(NOBODY, NOBODY, NOBODY));
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        char name[300], line[256];
        unsigned user = 0;
        if (task->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "/proc/self/task/%s/status", task->d_name);
        FILE *status = fopen(name, "re");
        while (status && fgets(line, sizeof(line), status))
            if (sscanf(line, "Uid: %u", &user) == 1)
                break;
        if (status)
            fclose(status);
        threads++;
        changed += user == NOBODY;
    }
    if (tasks)
        closedir(tasks);
    errno = UNTOUCHED;
    say("all threads are that user's", changed == threads && threads > 0);
    say("a slot as that user", set_slot(6, RAM + (4UL << 30), RAM_BYTES, 0, ram));
}

int main(int count, char **words) {
    alarm(100); /* nothing may hang */
    if (count == 2)
        return begin_as_child();
    errno = UNTOUCHED;
    try_other_descriptors();
    make_vm();
    refuse_with_a_broken_standard_error();
    alarm(0);
    run_the_guest();
    alarm(100);
    use_dirty_logs();
    cancel_a_thread();
    fork_and_exec(words[1]);
    make_many_vms();
    say("the library once more", dlopen(words[2], RTLD_NOW) != NULL);
    say("a slot after it", set_slot(3, RAM + (2UL << 30), 0, 0, NULL));
    become_nobody();
    forbid_to_open();
    exit(42);
}
