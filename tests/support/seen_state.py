"""A paused machine as its host sees it, in a form that JSON has and another machine's can equal."""

import json
from dataclasses import asdict
from typing import Any

from tagalong.machine import Machine, MachinePages, register_ids
from tagalong.machine.cpu_match import is_identification
from tagalong.machine.register_ids import register_name
from tagalong.migrate import memory_digest

# What one of two machines lacks or works out for itself.
_PSTATE_ALLINT = 1 << 13
_TIMER_ENABLE = 1
_TIMER_CONTROLS = (register_ids.TIMER_CONTROL, register_ids.PTIMER_CONTROL)


def seen_state(machine: Machine) -> dict[str, Any]:
    """Return the state but for what the CPU says of itself, and a digest of memory and tags."""
    state = machine.save_state()
    assert state.gic is not None
    seen = {
        "registers": [
            {
                register_name(each): _meaning(each, value)
                for each, value in vcpu.registers.items()
                if not is_identification(each)
            }
            for vcpu in state.vcpus
        ],
        "gic": asdict(state.gic),
        "digest": memory_digest(MachinePages(machine), lambda: None, has_tags=True).hex(),
    }
    again: dict[str, Any] = json.loads(json.dumps(seen))
    return again


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return what differs between two states, of all that both machines have."""
    parts = [part for part in ("gic", "digest") if there[part] != here[part]]
    for index, (then, now) in enumerate(zip(there["registers"], here["registers"], strict=True)):
        parts += [
            f"vCPU {index}: {name} was {then[name]:#x}, is {now[name]:#x}"
            for name in sorted(then.keys() & now.keys())
            if then[name] != now[name]
        ]
    return parts


def _meaning(register: int, value: int) -> int:
    if register == register_ids.PSTATE:
        return value & ~_PSTATE_ALLINT
    is_off = register in _TIMER_CONTROLS and not value & _TIMER_ENABLE
    return 0 if is_off else value
