"""Measure a Linux guest on KVM beside QEMU's on the same KVM: python -m bench.linux.

    python -m bench.linux --kernel Image --initrd initrd.cpio --qemu QEMU [--runs 3] [--json]

The defaults are what the lab has with --with-guest --with-vmm. Both VMMs boot the same kernel and
root file system in turn, with a disk and a network card on virtio-mmio; the guest measures by its
own clock. Figures are medians; the ratios are ours to QEMU's.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench.linux.contestants import Files, QemuVmm, TagalongVmm, Vmm
from bench.linux.measure import Figures, measure, measure_boot, with_script

_TARGETS = {
    "boot_s": "at most 1.3",
    "disk_write_mb_s": "0.5",
    "disk_read_mb_s": "0.5",
    "net_send_mb_s": "0.5",
    "net_receive_mb_s": "0.5",
}


def _median(samples: list[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in samples) for name in samples[0]}


def _print(figures: dict[str, Figures]) -> None:
    ours, theirs = figures.values()
    names = "".join(f"{name:>12}" for name in figures)
    sys.stdout.write(f"{'':<22}{names}{'ratio':>8}  target\n")
    for name in ours:
        ratio = ours[name] / theirs[name] if theirs[name] else float("nan")
        values = f"{ours[name]:>12.2f}{theirs[name]:>12.2f}{ratio:>8.2f}"
        sys.stdout.write(f"{name:<22}{values}  {_TARGETS.get(name, '')}\n")


def main() -> None:
    """Parse the command line, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", type=Path, default=Path("/opt/guest/Image"))
    parser.add_argument("--initrd", type=Path, default=Path("/opt/guest/initrd.cpio"))
    parser.add_argument("--qemu", default="/opt/vmm/qemu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("tagalong", "QEMU"), help="measure one of them alone")
    parser.add_argument("--boots", action="store_true", help="boot, and measure nothing else")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = Files(
            arguments.kernel, with_script(arguments.initrd, folder), folder / "disk",
            folder / "net", folder / "console",
        )  # fmt: skip
        vmms: dict[str, Vmm] = {"tagalong": TagalongVmm(), "QEMU": QemuVmm(arguments.qemu)}
        if arguments.only:
            vmms = {arguments.only: vmms[arguments.only]}
        run = measure_boot if arguments.boots else measure
        samples: dict[str, list[Figures]] = {name: [] for name in vmms}
        for _ in range(arguments.runs):
            for name, vmm in vmms.items():
                samples[name].append(run(vmm, files))
                sys.stderr.write(f"{name}: {samples[name][-1]}\n")
    figures = {name: _median(each) for name, each in samples.items()}
    if arguments.json or arguments.only:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        _print(figures)


if __name__ == "__main__":
    main()
