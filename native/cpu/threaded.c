/* The quick half of the interpreter: decoded pages, and what all ops share.
 *
 * Each page of code has an array with a place for each of its words, filled as they are executed.
 * What is in it is not trusted: before an instruction is executed, its word is compared with the
 * one that was decoded. So there is nothing to invalidate when code changes, whether by the guest's own
 * stores, the host's, or a migration's, nor when an array serves another page than before (they are
 * chosen by a hash of the page's host address): a decoded instruction is a pure function of its
 * word and of its place in the page. The price is a load and a compare that the processor predicts.
 *
 * The plain interpreter (run_plainly) carries out single steps, and pages with breakpoints; the
 * tests hold both against each other. */
#include <stdlib.h>

#include "threaded.h"

static struct insn *new_code_page(void)
{
    struct insn *insns = malloc(PAGE_INSNS * sizeof *insns);
    if (!insns)
        return NULL;
    for (unsigned i = 0; i < PAGE_INSNS; i++) /* each looks as if it held the word 0, UDF #0 */
        insns[i] = (struct insn){.run = run_undefined, .op = op_call};
    return insns;
}

struct insn *code_page_of(struct ta_machine *machine, const uint8_t *data)
{
    uint64_t number = (uintptr_t)data >> PAGE_SHIFT;
    struct insn **slot = &machine->code_pages[(number ^ number >> 11) % CODE_PAGES];
    if (!*slot)
        *slot = new_code_page();
    return *slot;
}

void free_code_pages(struct ta_machine *machine)
{
    for (unsigned i = 0; i < CODE_PAGES; i++)
        free(machine->code_pages[i]);
}

static threaded_op *choose_op(struct insn *insn, unsigned index)
{
    threaded_op *op = NULL;
    if (index == PAGE_INSNS - 1 || insn->run == run_undefined || insn->run == run_unsupported)
        return op_call; /* none ends with the instruction behind it in another page */
    switch (BITS(insn->raw, 28, 25)) {
    case 0x8: case 0x9: case 0x5: case 0xd:
        op = integer_op(insn);
        break;
    case 0xa: case 0xb:
        op = branch_op(insn, index);
        break;
    case 0x4: case 0x6: case 0xc: case 0xe:
        op = memory_op(insn);
        break;
    }
    return op ? op : op_call;
}

OP(op_decode)
{
    decode(word_at(code), insn);
    insn->op = choose_op(insn, (unsigned)(insn - cpu->fetch_insns));
    GO(insn->op);
}

OP(op_leave)
{
    (void)insn;
    cpu->pc = pc_of(cpu, code);
    cpu->nzcv = packed_flags(a, b, flags);
    cpu->instructions = cpu->slice_end - left;
}

/* The page is in the fetch TLB, or else run_threaded() has to look. */
OP(op_other_page)
{
    (void)insn, (void)code;
    uint64_t pc = cpu->pc;
    const struct fetch_entry *entry =
        &cpu->fetch_tlb[cpu->el][pc >> PAGE_SHIFT & (FETCH_TLB_ENTRIES - 1)];
    if (unlikely(entry->key != (pc & (PAGE_MASK | 3)) || cpu->il || cpu->watches_fetch ||
                 !entry->insns || !left)) {
        cpu->nzcv = packed_flags(a, b, flags);
        cpu->instructions = cpu->slice_end - left;
        return;
    }
    cpu->fetch_page = entry->key;
    cpu->fetch_data = entry->data;
    cpu->fetch_insns = entry->insns;
    code = entry->data + (pc & (PAGE_BYTES - 1));
    insn = entry->insns + (pc & (PAGE_BYTES - 1)) / 4;
    DISPATCH();
}

OP(op_call)
{
    uint64_t pc = pc_of(cpu, code);
    cpu->nzcv = packed_flags(a, b, flags);
    cpu->pc = pc;
    cpu->next_pc = pc + 4;
    cpu->instructions = cpu->slice_end - left; /* the counter needs it */
    insn->run(cpu, insn);
    a = cpu->nzcv;
    flags = FLAGS_PACKED;
    if (unlikely(cpu->slice_over)) {
        cpu->pc = cpu->next_pc;
        cpu->instructions++;
        return;
    }
    NEXT_TO(cpu->next_pc);
}

static void start(struct vcpu *cpu, uint64_t left)
{
    uint64_t offset = cpu->pc & (PAGE_BYTES - 1);
    struct insn *insn = cpu->fetch_insns + offset / 4;
    const uint8_t *code = cpu->fetch_data + offset;
    threaded_op *op = insn->raw == word_at(code) ? insn->op : op_decode;
    op(cpu, insn, code, left, cpu->nzcv, 0, FLAGS_PACKED);
}

uint64_t run_threaded(struct vcpu *cpu, uint64_t count)
{
    uint64_t begin = cpu->instructions, end = begin + count;
    cpu->slice_end = end;
    cpu->slice_over = false;
    while (cpu->instructions != end && !cpu->slice_over) {
        if ((cpu->pc & (PAGE_MASK | 3)) != cpu->fetch_page && !fetch_page(cpu)) {
            cpu->pc = cpu->next_pc;
            cpu->instructions++;
        } else if ((cpu->pc & PAGE_MASK) != cpu->fetch_page || !cpu->fetch_insns) {
            run_plainly(cpu, 1); /* a breakpoint is in this page, or the host has no memory */
        } else {
            start(cpu, end - cpu->instructions);
        }
    }
    count_instructions(cpu);
    return cpu->instructions - begin;
}
