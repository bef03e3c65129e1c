/* Serves the process beside the VMM, over a socket that was inherited: one client at a time.
 *
 * The thread starts with the VM's first slot: a daemon has forked by then, and a sandbox that
 * forbids to spawn processes allows threads. Whatever a client sends, the worst that happens here
 * is that its connection ends; a request is checked before memory is taken for it. A client that
 * goes away leaves the VM as it is, and another one may come; a hold stays until it is lifted.
 */
#define _GNU_SOURCE
#include "beside.h"
#include "bitmaps.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTENER "TAGALONG_BESIDE_FD"
#define HOLD "TAGALONG_BESIDE_HOLD"
#define MAX_TAG_BYTES (TB_MAX_CHOSEN_BYTES / TB_GRANULE_BYTES / 2)
#define MAX_PAYLOAD_BYTES (MAX_TAG_BYTES + TB_MAX_RANGE_PAGES / 8)

/* So long the end of the process waits for its last tags; drivers kill what does not end in 10 s. */
#define LINGER_MS 8000
#define LINGER_STEP_MS 10

static int listener = -1;
static pid_t serving; /* the process that has the service's thread: no child of it */
static atomic_bool has_client;

/* Before any thread and any call of the VMM: a hold must count from its first KVM_RUN. */
__attribute__((constructor)) static void read_environment(void) {
    const char *number = getenv(LISTENER);
    int is_listening = 0;
    socklen_t size = sizeof(is_listening);
    if (!number || !*number)
        return;
    char *end;
    long fd = strtol(number, &end, 10);
    if (*end || fd < 0 || fd > 1 << 20)
        return;
    if (getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) || !is_listening)
        return;
    listener = (int)fd;
    tb_hold(getenv(HOLD) != NULL);
}

int tb_listener(void) {
    return listener;
}

static bool receive(int fd, void *target, size_t size) {
    while (size) {
        ssize_t count = recv(fd, target, size, 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return false;
        target = (char *)target + count;
        size -= (size_t)count;
    }
    return true;
}

static bool send_whole(int fd, const void *source, size_t size) {
    while (size) {
        ssize_t count = send(fd, source, size, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return false;
        source = (const char *)source + count;
        size -= (size_t)count;
    }
    return true;
}

/* The head of a reply whose payload has `size` bytes, if `status` is 0. */
static bool reply_head(int fd, int status, size_t size) {
    struct tb_reply head = {.status = status, .payload_bytes = status ? 0 : (uint32_t)size};
    return send_whole(fd, &head, sizeof(head));
}

static bool reply(int fd, int status, const void *payload, size_t size) {
    return reply_head(fd, status, size) && (status || !size || send_whole(fd, payload, size));
}

static size_t bitmap_bytes(uint64_t pages) {
    return words_of(pages) * sizeof(uint64_t);
}

/* How many pages a bitmap chooses; -1 if it chooses one beyond its end. */
static int64_t count_chosen(const uint64_t *bitmap, uint64_t pages) {
    int64_t count = 0;
    uint64_t words = words_of(pages);
    for (uint64_t i = 0; i < words; i++)
        count += __builtin_popcountll(bitmap[i]);
    bool has_rest = pages % WORD_BITS != 0;
    return has_rest && bitmap[words - 1] >> (pages % WORD_BITS) ? -1 : count;
}

static bool answer_state(int fd, const struct tb_request *request) {
    struct tb_state state;
    (void)request;
    tb_read_state(&state);
    return reply(fd, 0, &state, sizeof(state));
}

static bool answer_slots(int fd, const struct tb_request *request) {
    static struct tb_slot_entry entries[TB_MAX_SLOTS];
    (void)request;
    return reply(fd, 0, entries, tb_read_slots(entries) * sizeof(entries[0]));
}

static size_t tag_bytes(size_t pages) {
    return pages * tb_page_bytes() / TB_GRANULE_BYTES / 2;
}

static void clear_rest(uint64_t *bitmap, uint64_t pages) {
    if (pages % WORD_BITS)
        bitmap[pages / WORD_BITS] &= (1UL << (pages % WORD_BITS)) - 1;
}

/* Make room for a reply that has a bitmap of the pages of a slot between `before` and `behind`
 * bytes; NULL with an errno in *status. */
static uint8_t *room_for(const struct tb_request *request, size_t before, size_t behind,
                         struct tb_place *place, int *status) {
    *status = tb_locate(request, place);
    if (!*status && !request->page_count)
        *status = -ERANGE;
    size_t size = *status ? 0 : bitmap_bytes(request->page_count);
    uint8_t *room = *status ? NULL : calloc(1, before + size + behind);
    if (!*status && !room)
        *status = -ENOMEM;
    return room;
}

static bool answer_populated(int fd, const struct tb_request *request) {
    int status;
    struct tb_place place;
    uint8_t *room = room_for(request, 0, 0, &place, &status);
    uint64_t *bitmap = (uint64_t *)(void *)room;
    if (!status)
        status = tb_populated(request, bitmap);
    if (!status)
        clear_rest(bitmap, request->page_count);
    bool is_sent = reply(fd, status, room, room ? bitmap_bytes(request->page_count) : 0);
    free(room);
    return is_sent;
}

/* Whether no vCPU was in the guest from one state to the other. */
static bool stood_still(const struct tb_state *before, const struct tb_state *after) {
    return !before->vcpus_running && !after->vcpus_running && before->runs == after->runs;
}

/* All that a pass needs in one reply: while the guest stands, each round trip is downtime. */
static bool answer_harvest(int fd, const struct tb_request *request) {
    int status;
    struct tb_place place;
    struct tb_state before, state;
    uint8_t *room = room_for(request, sizeof(state), TB_MAX_HARVEST_TAG_BYTES, &place, &status);
    size_t size = sizeof(state) + (room ? bitmap_bytes(request->page_count) : 0);
    if (!status) {
        uint64_t *bitmap = (uint64_t *)(void *)(room + sizeof(state));
        tb_read_state(&before);
        status = tb_harvest(request, bitmap);
        clear_rest(bitmap, request->page_count);
        size_t more = tag_bytes((size_t)count_chosen(bitmap, request->page_count));
        if (!status && more <= TB_MAX_HARVEST_TAG_BYTES) {
            status = tb_read_tags(place.vm_fd, place.gpa, request->page_count, bitmap, room + size);
            size += more;
        }
        tb_read_state(&state);
        memcpy(room, &state, sizeof(state));
        if (!status && request->argument == TB_FINAL && !stood_still(&before, &state))
            status = -EBUSY; /* what was taken is not all that was left */
    }
    bool is_sent = reply(fd, status, room, size);
    free(room);
    return is_sent;
}

/* Check the bitmap that begins a payload, and find the pages; how many are chosen in *chosen.
 * 0 or -errno. */
static int check_choice(const struct tb_request *request, const uint8_t *payload,
                        struct tb_place *place, size_t *chosen) {
    uint64_t page = tb_page_bytes();
    if (!request->page_count || request->page_count > TB_MAX_RANGE_PAGES)
        return -ERANGE;
    if (request->payload_bytes < bitmap_bytes(request->page_count))
        return -EMSGSIZE;
    int64_t count = count_chosen((const uint64_t *)(const void *)payload, request->page_count);
    if (count < 0 || (uint64_t)count > TB_MAX_CHOSEN_BYTES / page)
        return -ERANGE;
    *chosen = (size_t)count;
    return tb_locate(request, place);
}

/* As check_choice, of a request that has nothing behind the bitmap. */
static int check_bare_choice(const struct tb_request *request, const uint8_t *payload,
                             struct tb_place *place, size_t *chosen) {
    int status = check_choice(request, payload, place, chosen);
    bool is_bare = request->payload_bytes == bitmap_bytes(request->page_count);
    return status || is_bare ? status : -EMSGSIZE;
}

static bool answer_read(int fd, const struct tb_request *request, const uint8_t *payload) {
    struct tb_place place;
    size_t chosen = 0;
    int status = check_bare_choice(request, payload, &place, &chosen);
    size_t size = tag_bytes(chosen);
    uint8_t *packed = status ? NULL : malloc(size ? size : 1);
    if (!status && !packed)
        status = -ENOMEM;
    if (!status)
        status = tb_read_tags(place.vm_fd, place.gpa, request->page_count,
                              (const uint64_t *)(const void *)payload, packed);
    bool is_sent = reply(fd, status, packed, size);
    free(packed);
    return is_sent;
}

static bool answer_write(int fd, const struct tb_request *request, const uint8_t *payload) {
    struct tb_place place;
    size_t chosen = 0;
    int status = check_choice(request, payload, &place, &chosen);
    if (!status &&
        request->payload_bytes != bitmap_bytes(request->page_count) + tag_bytes(chosen))
        status = -EMSGSIZE;
    if (!status)
        status = tb_write_tags(place.vm_fd, place.gpa, request->page_count,
                               (const uint64_t *)(const void *)payload,
                               payload + bitmap_bytes(request->page_count));
    return reply(fd, status, NULL, 0);
}

/* Pages go from the guest's memory to the socket: the kernel copies them, so a page that is gone
 * meanwhile ends the connection and not the VMM. */
static bool answer_data(int fd, const struct tb_request *request, const uint8_t *payload) {
    const uint64_t *bitmap = (const uint64_t *)(const void *)payload;
    struct tb_place place;
    size_t chosen = 0, page = tb_page_bytes();
    int status = check_bare_choice(request, payload, &place, &chosen);
    bool is_sent = reply_head(fd, status, chosen * page);
    uint64_t first = 0, run;
    while (is_sent && !status &&
           (run = tb_next_run(bitmap, request->page_count, UINT64_MAX, &first))) {
        is_sent = send_whole(fd, place.hva + first * page, run * page);
        first += run;
    }
    return is_sent;
}

static bool answer_registers(int fd, const struct tb_request *request) {
    int vcpu_fd = tb_vcpu_fd(request->argument);
    uint8_t *registers = NULL;
    size_t size = 0;
    int status = vcpu_fd < 0 ? -ENOENT : tb_read_registers(vcpu_fd, &registers, &size);
    bool is_sent = reply(fd, status, registers, size);
    free(registers);
    return is_sent;
}

static bool answer(int fd, const struct tb_request *request, const uint8_t *payload) {
    switch (request->operation) {
    case TB_STATE:
        return answer_state(fd, request);
    case TB_SLOTS:
        return answer_slots(fd, request);
    case TB_START_LOG:
        return reply(fd, tb_start_log(), NULL, 0);
    case TB_STOP_LOG:
        tb_stop_log();
        return reply(fd, 0, NULL, 0);
    case TB_HARVEST:
        return answer_harvest(fd, request);
    case TB_POPULATED:
        return answer_populated(fd, request);
    case TB_READ_TAGS:
        return answer_read(fd, request, payload);
    case TB_WRITE_TAGS:
        return answer_write(fd, request, payload);
    case TB_HOLD:
        tb_hold(request->argument != 0);
        return answer_state(fd, request);
    case TB_READ_DATA:
        return answer_data(fd, request, payload);
    case TB_READ_REGISTERS:
        return answer_registers(fd, request);
    }
    return reply(fd, -EOPNOTSUPP, NULL, 0);
}

static bool has_payload(const struct tb_request *request) {
    return request->operation == TB_READ_TAGS || request->operation == TB_WRITE_TAGS ||
           request->operation == TB_READ_DATA;
}

/* One request; false if the connection is to end. */
static bool serve_one(int fd) {
    struct tb_request request;
    if (!receive(fd, &request, sizeof(request)) || request.reserved ||
        request.payload_bytes > (has_payload(&request) ? MAX_PAYLOAD_BYTES : 0))
        return false;
    uint8_t *payload = malloc(request.payload_bytes + sizeof(uint64_t));
    if (!payload)
        return false;
    bool is_whole = receive(fd, payload, request.payload_bytes);
    bool goes_on = is_whole && answer(fd, &request, payload);
    free(payload);
    return goes_on;
}

static bool may_connect(int fd) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void *serve(void *unused) {
    (void)unused;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EINTR && errno != ECONNABORTED && errno != EMFILE && errno != ENFILE)
                return NULL;
            usleep(10000);
            continue;
        }
        atomic_store(&has_client, true);
        while (may_connect(fd) && serve_one(fd))
            continue;
        atomic_store(&has_client, false);
        close(fd);
    }
}

/* Who drives a migration ends the source's VMM as soon as the guest runs elsewhere, by what the VMMs
 * say. If the last tags are still under way then, the guest is held at the destination, and would
 * be for ever. So this process ends when they have left. Its guest does not run any more. */
__attribute__((destructor)) static void wait_for_last_tags(void) {
    if (serving != getpid() || !tb_is_logging())
        return;
    tb_hold_for_end();
    for (int ms = 0; ms < LINGER_MS && atomic_load(&has_client) && tb_is_logging();
         ms += LINGER_STEP_MS)
        usleep(LINGER_STEP_MS * 1000);
}

void tb_serve(void) {
    static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
    static bool is_started;
    sigset_t all, before;
    pthread_t thread;
    pthread_mutex_lock(&starting);
    if (!is_started && listener >= 0) {
        fcntl(listener, F_SETFD, FD_CLOEXEC);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the VMM's */
        is_started = pthread_create(&thread, NULL, serve, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (is_started) {
            pthread_detach(thread);
            serving = getpid();
        }
    }
    pthread_mutex_unlock(&starting);
}
