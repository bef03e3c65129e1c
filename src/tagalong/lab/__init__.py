"""The lab: an emulated Arm host with a real kernel, a real KVM and MTE, on any machine.

QEMU's `virt` machine under TCG boots a Debian kernel at EL2 in seconds; in it, /dev/kvm and
KVM_CAP_ARM_MTE are there. `set_up` fetches and builds what that takes, without root;
`run` boots it, runs a command with the current checkout's code, and returns its status.
docs/guide/lab.md is the user's view.

Private: scripts use `tagalong lab`.
"""

from tagalong.lab.cache import default_folder
from tagalong.lab.machine import Streams, System, Terminal, run, shell
from tagalong.lab.observer import Observer, Silence
from tagalong.lab.packages import DEFAULT_KERNEL, KERNELS
from tagalong.lab.qemu import MachineOptions
from tagalong.lab.setup import Lab, Request, forget, set_up

__all__ = [
    "DEFAULT_KERNEL",
    "KERNELS",
    "Lab",
    "MachineOptions",
    "Observer",
    "Request",
    "Silence",
    "Streams",
    "System",
    "Terminal",
    "default_folder",
    "forget",
    "run",
    "set_up",
    "shell",
]
