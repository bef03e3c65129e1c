"""`dump --pid` in the lab: a guest of an unmodified QEMU on KVM, with the tags that it wrote."""

import json

from tests.support.lab_command import lab

SCRIPT = "mkdir /tmp/a && cd /tagalong && python3 -m tests.support.looked_at_guests bare /tmp/a"


def test_dump_of_a_qemu_on_kvm_has_the_tags_that_its_guest_wrote() -> None:
    run = lab("run", "--with-vmm", "--", "sh", "-c", SCRIPT, seconds=600)

    assert run.returncode == 0, run.stderr.decode()
    found = json.loads(run.stdout)
    # The guest says where its pages are, the last one first.
    for page, tags in zip(range(7, -1, -1), found["tags"], strict=True):
        assert tags == [(page + granule) % 16 for granule in range(256)]
    assert found["untagged"] == 0
    assert len(found["pc"]) == 1
    assert 0x4020_0000 <= found["pc"][0] < 0x4022_0000
    assert found["words"]["pause"] == "the guest was paused meanwhile"
    assert found["words"]["tags"] == "those of the guest's pages, by a mapping with PROT_MTE"
    assert found["words"]["layout"] == "by QEMU's monitor"
