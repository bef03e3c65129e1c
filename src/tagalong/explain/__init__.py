"""What happened, from a crash with tags: the answer of `tagalong explain`.

readers -> Crash -> analysis -> Explanation -> text, JSON, pages

crash            the one model of a crash: each field is known, or None
memory           its memory: a core's, or the windows that a report shows

readers          which form a file has: the way to read any crash
process_core     a Linux process's core
guest            a guest's last exception, through its own tables; running: of a VM that runs
kasan            reports in a kernel's log
tombstone        what both forms of Android's have in common; tombstone_text, tombstone_proto
apple            Apple's reports of tag faults; apple_text: in their form as text
report_text      text of reports, bounded, without what a logger put before lines

instruction      what a load or store touches
signal_frame     what Linux tells a handler of SIGSEGV, on its stack
backtrace        call stacks by frame pointers
drgn_frames      by drgn, where it is installed; kernel_names: of a guest's kernel
modules          programs and libraries as files: code that a core lacks, symbols
code_place       whose code the instruction is
stack            which addresses are a stack's

surroundings     tags and blocks around the fault
glibc, scudo     blocks by their headers; scudo_records: frees and stacks that scudo wrote down
model            priors, and where each cause strikes
hypotheses       candidates, weighed by Bayes' rule
analysis         from a crash to its explanation, and what cannot be told
explanation      the answer: neighbourhood, hypotheses, evidence; its JSON
redaction        the answer without what may be private
words            numbers in sentences

Private: scripts use `tagalong explain --json`.
"""
