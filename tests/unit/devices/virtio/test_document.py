"""docs/formats/virtio.md and the code say the same."""

from pathlib import Path

from tagalong.devices import ConsoleBacking, DiskBacking, NetworkBacking, VirtioBackings
from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.block import DISK_LAYOUT
from tagalong.devices.virtio.described import BASE_FEATURES, HEAD_LAYOUT, own_config
from tagalong.devices.virtio.entropy import RANDOM_LAYOUT
from tagalong.devices.virtio.queue import QUEUE_LAYOUT
from tagalong.devices.virtio.saved import TRANSPORT_LAYOUT
from tests.support.format_document import FormatDocument

DOCUMENT = FormatDocument("virtio.md")
IDS = {
    "virtio-net": DeviceId.NETWORK,
    "virtio-blk": DeviceId.BLOCK,
    "virtio-console": DeviceId.CONSOLE,
    "virtio-rng": DeviceId.ENTROPY,
}


def test_byte_tables_are_the_layouts() -> None:
    for title, layout in (
        ("Head", HEAD_LAYOUT),
        ("Disk", DISK_LAYOUT),
        ("Transport", TRANSPORT_LAYOUT),
        ("Queue", QUEUE_LAYOUT),
        ("Random numbers", RANDOM_LAYOUT),
    ):
        DOCUMENT.require_byte_table(title, layout)


def test_kinds_have_the_queues_and_features_that_are_written(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    backings = VirtioBackings(
        disks={"disk0": DiskBacking(image), "disk1": DiskBacking(image, read_only=True)},
        networks={"net0": NetworkBacking("user")},
        consoles={"console0": ConsoleBacking(lambda _: None)},
        entropy=["rng0"],
    )
    queues = {kind: (int(n), int(count), int(size)) for kind, n, count, size in
              DOCUMENT.rows_after("This document\nis normative for both parts")}  # fmt: skip
    features = {row[0]: row[1] for row in DOCUMENT.rows_after("What follows depends on the kind")}

    offered: dict[str, int] = {}
    for described in backings.describe():
        config = own_config(described)
        assert queues[described.kind] == (
            IDS[described.kind], config.queue_count, config.queue_size,
        )  # fmt: skip
        offered[described.kind] = offered.get(described.kind, 0) | config.features
    for kind, text in features.items():
        bits = sum(1 << int(part.split(")")[0]) for part in text.split("(")[1:])
        assert offered[kind] == bits | BASE_FEATURES, kind
    assert f"INDIRECT_DESC ({BASE_FEATURES.bit_length() - 5})" in DOCUMENT.text
