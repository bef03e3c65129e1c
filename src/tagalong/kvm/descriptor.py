"""A file descriptor of KVM's and its ioctls; a failure names the ioctl and its arguments."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import Array, Structure, c_int32
from typing import TYPE_CHECKING, Any, Final, Self

from tagalong._native import library
from tagalong.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from tagalong.kvm.abi import KvmIoctl

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.restype = ctypes.c_int
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)

Argument = int | Structure


class IoctlError(HostError):
    """An ioctl that failed: `request` with `argument`, which the message names; `errno` is why."""

    def __init__(self, request: KvmIoctl, argument: Argument, number: int) -> None:
        self.request = request
        self.argument = argument
        self.errno = number
        name = errno.errorcode.get(number, str(number))
        super().__init__(
            f"{request.name}({describe(argument)}) failed: {name} ({os.strerror(number)})"
        )


class Descriptor:
    """Owns one file descriptor. `close` is safe to call twice."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @property
    def fd(self) -> int:
        """Return the descriptor. Raises HostError after close()."""
        if self._fd is None:
            raise HostError(f"the {type(self).__name__} descriptor of KVM is closed")
        return self._fd

    def ioctl(self, request: KvmIoctl, argument: Argument = 0) -> int:
        """Make an ioctl and return what it returns; the GIL is released meanwhile.

        Raises IoctlError, EINTR included: the caller knows whether to try again.
        """
        value = argument if isinstance(argument, int) else ctypes.addressof(argument)
        result = int(_libc.ioctl(self.fd, request, value))
        if result < 0:
            raise IoctlError(request, argument, ctypes.get_errno())
        return result

    def ioctl_each(self, request: KvmIoctl, arguments: Array[Any]) -> Array[c_int32]:
        """Make an ioctl with each structure of an array; return what each returned.

        Raises IoctlError for the first that failed: the later ones were not made.
        """
        results = (c_int32 * len(arguments))()
        size_bytes = ctypes.sizeof(arguments._type_)
        done = library().ta_ioctl_each(
            self.fd, request, arguments, size_bytes, len(arguments), results
        )
        if done < len(arguments):
            raise IoctlError(request, arguments[done], -int(results[done]))
        return results

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def describe(argument: Argument) -> str:
    """Return an argument as it is written in a message: numbers in hex, fields by name.

    >>> from tagalong.kvm.abi import kvm_one_reg
    >>> describe(kvm_one_reg(id=0x603000000013C086, addr=0x1000))
    'id=0x603000000013c086, addr=0x1000'
    """
    if isinstance(argument, int):
        return f"{argument:#x}"
    return ", ".join(_fields(argument))


def _fields(structure: Structure) -> list[str]:
    parts = []
    for name, *_ in structure._fields_:
        value = getattr(structure, name)
        if isinstance(value, Structure):
            parts += _fields(value)
        elif isinstance(value, Array):
            if any(value):
                parts.append(f"{name}=[{', '.join(f'{each:#x}' for each in _trimmed(value))}]")
        elif not name.startswith("padding"):
            parts.append(f"{name}={value:#x}")
    return parts


def _trimmed(values: Iterable[int]) -> list[int]:
    """Return the values without the zeros at the end."""
    trimmed = list(values)
    while trimmed and trimmed[-1] == 0:
        trimmed.pop()
    return trimmed
