"""Walk a guest's own translation tables: what its kernel's virtual addresses lead to."""

import threading

import tagalong
from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tagalong.paging import Half, Regime, walk

ready = threading.Event()  # the guest says a line once its tables are in use
machine = tagalong.SoftMachine.create(ram_bytes=16 << 20, console=lambda _: ready.set())
tagalong.boot_guest(machine, tagalong.guest_image_path("paged").read_bytes())
machine.resume()
ready.wait()
machine.pause()


def read(gpa: Gpa, length: int) -> bytes:
    """Return guest memory; `walk` asks for tables only."""
    return machine.memory.read(gpa, length)


regime = Regime.of(machine.vcpus[0].save().registers, Half.KERNEL)
found = walk(read, machine.description.regions, regime)
print(
    f"{found.tables} tables, the first at {regime.table:#x}, pages of {regime.granule_bytes} bytes"
)
for mapping in found.mappings:
    kind = "tagged" if mapping.is_tagged else "untagged"
    print(f"{mapping.address:#x} to {mapping.end:#x} -> gpa {mapping.gpa:#x}, {kind}")
print(f"vCPU 0 is at {machine.vcpus[0].get_register(register_ids.PC):#x}")
machine.close()
