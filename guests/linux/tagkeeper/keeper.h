/* tagkeeper: a Linux process that lives on its allocation tags and trusts nothing.
 *
 * Each thread keeps a mapping with PROT_MTE. Tag and data of every granule follow from its number
 * and from two counts beside the mapping: how often its tag was changed, and how often its data.
 * Threads compare what they find with what must be there, for ever, and change granules at a
 * given rate: tags alone, data alone, both. The first granule that is wrong ends the program. */
#ifndef KEEPER_H
#define KEEPER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PROT_MTE 0x20
#define GRANULE_BYTES 16
#define TAG_COUNT 16

enum mode { MODE_NONE, MODE_SYNC, MODE_ASYNC, MODE_ASYMM, MODE_COUNT };

/* The command line: words "key=value". */
struct knobs {
    uint64_t mib;     /* of tagged memory per thread */
    uint64_t rate;    /* changes per second and thread */
    uint64_t threads;
    uint64_t seconds; /* until it ends with status 0; 0: never */
    uint64_t forks;   /* 1: a child looks at its copy of the memory each second */
    uint64_t signals; /* 1: a timer's signals interrupt everything */
    uint64_t pageout; /* 1: some memory is paged out each second, if there is swap space */
    uint64_t mode;    /* an enum mode */
};

/* What a thread did so far; others read it. */
struct counts {
    _Atomic uint64_t checked;
    _Atomic uint64_t changed;
    _Atomic uint64_t faults;
    _Atomic uint64_t children;
};

/* One thread's memory and what must be in it. */
struct keeper {
    unsigned number;
    uint8_t *memory; /* its pointer has tag 0 */
    uint32_t granules;
    uint8_t *tag_turns; /* how often each granule's tag was changed, modulo 256 */
    uint8_t *data_turns;
    uint32_t cursor; /* the granule to look at next */
    uint64_t random;
    uint64_t turn; /* slices so far */
    int64_t born_ns;
    uint64_t owed; /* changes made, as counted against the rate */
    struct counts counts;
};

extern struct knobs knobs;

/* report.c */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
int64_t monotonic_ns(void);
void report_forever(struct keeper *keepers);

/* knobs.c */
bool read_knobs(int count, char **words);
const char *mode_name(void);

/* memory.c */
bool create_memory(struct keeper *keeper);
void check_granules(struct keeper *keeper, uint32_t first, uint32_t count);
void change_granule(struct keeper *keeper, uint32_t granule);
void page_out(struct keeper *keeper);
uint32_t draw_granule(struct keeper *keeper);
uint8_t *tagged_pointer(const struct keeper *keeper, uint32_t granule);
unsigned expected_tag(const struct keeper *keeper, uint32_t granule);

/* faults.c */
bool set_mode(void);
bool catch_faults(void);
void provoke_faults(struct keeper *keeper);

/* signals.c */
bool start_signals(void);
uint64_t signals_taken(void);
void set_unchecked(bool unchecked);
void require_unchecked(bool unchecked);

/* registers.c */
void check_vector_registers(void);

/* fork.c */
void check_in_child(struct keeper *keeper);

#endif
