"""The options of `tagalong run` for disks, networks, consoles and random numbers.

    --disk FILE[,readonly][,serial=TEXT][,name=NAME]
    --net user|unix:PATH|tap:INTERFACE[,mac=ADDRESS][,name=NAME]
    --virtio-console stdout|stdio|pty|unix:PATH|null[,name=NAME]
    --rng

A comma in a path is written twice, as QEMU has it. Devices without a name are called disk0, disk1,
net0, console0 and so on, in their order: a destination that is given the same options finds the
same devices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from tagalong.devices import DiskBacking, NetworkBacking, VirtioBackings, parse_mac
from tagalong.errors import UsageError

_FLAGS: Final = frozenset({"readonly"})
_NETWORKS_WITH_TARGET: Final = ("unix", "tap")
_RNG: Final = "rng0"

disk_option = click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="FILE[,readonly][,serial=TEXT][,name=NAME]",
    help="A disk with this raw image or block device; may be given again. A VM that arrives or is "
    "restored needs the image of each of its disks.",
)
net_option = click.option(
    "--net",
    "networks",
    multiple=True,
    metavar="user|unix:PATH|tap:NAME[,mac=ADDRESS][,name=NAME]",
    help="A network card: on the network of an ordinary user (the program passt), on a socket "
    "that takes frames as QEMU's stream does, or on a tap device; may be given again.",
)
console_option = click.option(
    "--virtio-console",
    "virtio_consoles",
    multiple=True,
    metavar="stdout|stdio|pty|unix:PATH|null[,name=NAME]",
    help="A virtio console (Linux: hvc0), and where it is; may be given again. A VM that arrives "
    "or is restored has its own: one that is not given is nowhere here.",
)
rng_option = click.option("--rng", "has_rng", is_flag=True, help="A source of random numbers.")


@dataclass(frozen=True)
class _Words:
    """An option's value: what comes first, flags, and settings by name."""

    first: str
    settings: Mapping[str, str]


def virtio_backings(
    disks: Sequence[str], networks: Sequence[str], *, has_rng: bool, is_new: bool
) -> VirtioBackings:
    """Return what the values of the options ask for; `is_new`: the VM begins here.

    Raises UsageError for values that make no sense.
    """
    found_disks: dict[str, DiskBacking] = {}
    for option, value in _named("--disk", "disk", disks, {"readonly", "serial"}):
        _refuse_for_old(value, "serial", is_new=is_new)
        _add(found_disks, "--disk", option, _disk(value))
    found_networks: dict[str, NetworkBacking] = {}
    for option, value in _named("--net", "net", networks, {"mac"}):
        _refuse_for_old(value, "mac", is_new=is_new)
        _add(found_networks, "--net", option, _network(value))
    return VirtioBackings(found_disks, found_networks, entropy=[_RNG] if has_rng else [])


def virtio_consoles(values: Sequence[str]) -> dict[str, str]:
    """Return where each virtio console is, by its name. Raises UsageError."""
    found: dict[str, str] = {}
    for name, words in _named("--virtio-console", "console", values, set()):
        _add(found, "--virtio-console", name, words.first)
    return found


def _named(
    option: str, prefix: str, values: Sequence[str], known: set[str]
) -> Iterator[tuple[str, _Words]]:
    """Yield each value with its device's name."""
    for number, text in enumerate(values):
        words = _parse(option, text, known)
        name = words.settings.get("name", f"{prefix}{number}")
        if not name or not name.isprintable() or len(name) > 64:
            raise UsageError(f"{option} {text}: {name!r} is no name of a device")
        yield name, words


def _add(found: dict[str, Any], option: str, name: str, backing: object) -> None:
    if name in found:
        raise UsageError(f"{option}: two devices are called {name!r}; give them different names")
    found[name] = backing


def _disk(words: _Words) -> DiskBacking:
    return DiskBacking(
        Path(words.first), "readonly" in words.settings, words.settings.get("serial", "")
    )


def _network(words: _Words) -> NetworkBacking:
    kind, _, target = words.first.partition(":")
    if kind in _NETWORKS_WITH_TARGET and not target:
        raise UsageError(f"--net {words.first}: write {kind}: and what to connect to behind it")
    if kind not in _NETWORKS_WITH_TARGET and words.first != "user":
        raise UsageError(f"--net {words.first}: no such network; write user, unix:PATH or tap:NAME")
    mac = words.settings.get("mac")
    return NetworkBacking(kind, target, parse_mac(mac) if mac is not None else None)


def _refuse_for_old(words: _Words, setting: str, *, is_new: bool) -> None:
    if setting in words.settings and not is_new:
        raise UsageError(f"{setting}= is for a new VM: one that exists has its own; leave it out")


def _parse(option: str, text: str, known: set[str]) -> _Words:
    first, *rest = _split(text)
    if not first:
        raise UsageError(f"{option} {text!r} is empty; see tagalong run --help")
    settings: dict[str, str] = {}
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in known | {"name"} or (name in _FLAGS) == bool(equals):
            words = ", ".join(
                each if each in _FLAGS else f"{each}=" for each in sorted(known | {"name"})
            )
            raise UsageError(f"{option} {text}: {part!r} is not one of {words}")
        settings[name] = value
    return _Words(first, settings)


def _split(text: str) -> list[str]:
    """Return the parts between single commas; two commas are one of a part."""
    parts, at = [""], 0
    while at < len(text):
        if text.startswith(",,", at):
            parts[-1] += ","
            at += 1
        elif text[at] == ",":
            parts.append("")
        else:
            parts[-1] += text[at]
        at += 1
    return parts
