"""The oracle: runs batches of programs on qemu-aarch64 user mode."""

import struct
import subprocess
import tempfile
from pathlib import Path

from tests.support.oracle_layout import CODE, CODE_BYTES, HOLE, MAX_FAULTS, READONLY
from tests.support.oracle_outcome import Fault, FaultKind, Outcome
from tests.support.oracle_program import Program
from tests.support.oracle_runner import (
    IRG_PROBES,
    OUTPUT,
    SEGV_MTEAERR,
    SIGSEGV,
    linux_executable,
)

_TIMEOUT_S = 60
# Without SVE, because a signal frame that has SVE's registers restores V0 to V31 from them.
_CPU = "max,sve=off,sme=off"
_KINDS = {
    (4, None): FaultKind.UNDEFINED,
    (5, None): FaultKind.BREAKPOINT,
    (7, 1): FaultKind.ALIGNMENT,
    (SIGSEGV, 1): FaultKind.TRANSLATION,
    (SIGSEGV, 2): FaultKind.PERMISSION,
    (SIGSEGV, 9): FaultKind.TAG,
}


class OracleRun:
    """One program's result on the oracle, with what our side must start from to be equal."""

    def __init__(self, record: bytes) -> None:
        fields = OUTPUT.unpack(record)
        fpsr, fpcr, vectors = fields[34:37]
        probes = [word >> 56 & 15 for word in fields[37 : 37 + 2 * IRG_PROBES]]
        count, log, data, plain, tags = fields[37 + 2 * IRG_PROBES :]
        if count > MAX_FAULTS:
            raise RuntimeError(f"{count} faults in one oracle program, room for {MAX_FAULTS}")
        entries = list(struct.iter_unpack("<IIQQ", log[: 24 * count]))
        self.irg_before = probes[:IRG_PROBES]
        self.outcome = Outcome(
            registers=fields[:31],
            sp=fields[31],
            pstate=fields[33],
            data=data,
            plain=plain,
            tags=tags,
            faults=tuple(_fault(*entry) for entry in entries if entry[:2] != _ASYNCHRONOUS),
            asynchronous=any(entry[:2] == _ASYNCHRONOUS for entry in entries),
            irg=tuple(probes[IRG_PROBES:]),
            vectors=vectors,
            fpcr=fpcr,
            fpsr=fpsr,
        )


_ASYNCHRONOUS = (SIGSEGV, SEGV_MTEAERR)


def _fault(signal: int, code: int, pc: int, address: int) -> Fault:
    kind = _KINDS.get((signal, None)) or _KINDS.get((signal, code), FaultKind.OTHER)
    if kind is FaultKind.PERMISSION and not _is_readonly(address):
        kind = FaultKind.TRANSLATION  # QEMU maps the gaps of an executable without access
    detail = f"signal {signal} code {code}" if kind is FaultKind.OTHER else ""
    return Fault(kind, pc, address, detail)


def _is_readonly(address: int) -> bool:
    address &= (1 << 56) - 1
    return READONLY <= address < HOLE or CODE <= address < CODE + CODE_BYTES


def run(qemu: Path, programs: list[Program]) -> list[OracleRun]:
    """Run `programs` in one process. Raises RuntimeError if it did not come to its end."""
    with tempfile.TemporaryDirectory(prefix="tagalong-oracle-") as folder:
        executable, output = Path(folder, "programs.elf"), Path(folder, "output")
        executable.write_bytes(linux_executable(programs))
        executable.chmod(0o700)
        status = _execute([str(qemu), "-cpu", _CPU, str(executable)], output)
        records = output.read_bytes()
    finished = len(records) // OUTPUT.size
    if status or finished != len(programs):
        suspect = programs[min(finished, len(programs) - 1)]
        raise RuntimeError(
            f"{qemu} {status or 'ended early'} after {finished} of {len(programs)} programs, "
            f"in {suspect.name}"
        )
    return [
        OracleRun(records[start : start + OUTPUT.size])
        for start in range(0, len(records), OUTPUT.size)
    ]


def _execute(command: list[str], output: Path) -> str:
    """Run with stdout to a file; return what went wrong, or nothing."""
    with output.open("wb") as sink:
        try:
            done = subprocess.run(
                command, stdout=sink, stderr=subprocess.PIPE, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"did not end in {_TIMEOUT_S} s"
    if not done.returncode:
        return ""
    return f"exit status {done.returncode} ({done.stderr.decode(errors='replace').strip()})"
