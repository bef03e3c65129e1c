"""Trials of looking at a guest that runs beside us: its cores, while it runs and paused."""

from tagalong.control.client import connect
from tagalong.control.saving import save_vm
from tagalong.core import Space, open_core
from tagalong.core.check import check_core
from tagalong.errors import TagalongError
from tagalong.qapi.saving import SaveInfo, SaveKind, SaveRequest
from tests.support.beside_scene import MIB, VCPUS, Scene, failure_of, until
from tests.support.keeper_core import find_kept


def _quiet_save(_: SaveInfo) -> None:
    """Show nothing."""


async def dump_has_memory_tags_and_registers(scene: Scene) -> None:
    """All granules are as tagkeeper keeps them, the kernel is found, and the guest runs on."""
    path = scene.folder / "vm.core"
    request = SaveRequest(path, kind=SaveKind.DUMP)
    result = await save_vm(scene.here.control, request, _quiet_save)
    assert result.report.was_running
    assert not result.report.is_torn
    await scene.require_alive(scene.here)
    kept = find_kept(path, VCPUS, MIB, scene.folder)
    assert kept is not None, "no vCPU runs tagkeeper"
    assert (kept.wrong_tags, kept.wrong_data) <= (1, 1), kept
    with open_core(path) as core:
        assert core.vmcoreinfo is not None, "no VMCOREINFO"
        assert len(core.vcpus) == VCPUS
        assert all(vcpu.pc for vcpu in core.vcpus)
        assert all(vcpu.v is not None for vcpu in core.vcpus)
        report = check_core(core)
    assert report.kernel is not None
    assert report.kernel.opens, report.kernel
    await dump_by_virtual_addresses(scene)


async def dump_by_virtual_addresses(scene: Scene) -> None:
    """The running VM gives its own tables' view, too: the kernel's, and that of a process."""
    path = scene.folder / "kernel.core"
    request = SaveRequest(path, kind=SaveKind.DUMP, space=Space.KERNEL)
    await save_vm(scene.here.control, request, _quiet_save)
    with open_core(path) as core:
        assert any(region.address >> 63 for region in core.regions)
    sizes = [await _tagged_bytes_of_process(scene, vcpu) for vcpu in range(VCPUS)]
    assert max(sizes) >= MIB << 20, sizes


async def _tagged_bytes_of_process(scene: Scene, vcpu: int) -> int:
    """Return how much tagged memory the process on a vCPU has mapped, by a dump of the VM."""
    path = scene.folder / f"user-{vcpu}.core"
    request = SaveRequest(path, kind=SaveKind.DUMP, space=Space.USER, vcpu=vcpu)
    try:
        await save_vm(scene.here.control, request, _quiet_save)
    except TagalongError:  # an idle vCPU has no process
        return 0
    with open_core(path) as core:
        assert not any(region.address >> 63 for region in core.regions)
        return sum(region.size_bytes for region in core.regions if region.has_tags)


async def live_dump_says_that_it_is_of_different_moments(scene: Scene) -> None:
    path = scene.folder / "live.core"
    request = SaveRequest(path, kind=SaveKind.DUMP, live=True, max_downtime_ms=300)
    result = await save_vm(scene.here.control, request, _quiet_save)
    assert result.report.is_torn
    assert result.report.downtime_s < result.report.duration_s
    with open_core(path) as core:
        assert core.machine is not None
        assert core.machine.is_torn
        assert len(core.vcpus) == VCPUS
    await scene.require_alive(scene.here)


async def paused_guest_is_dumped_and_stays_paused(scene: Scene) -> None:
    path = scene.folder / "paused.core"
    async with connect(scene.here.control) as client:
        await client.execute("stop")
        request = SaveRequest(path, kind=SaveKind.DUMP)
        result = await save_vm(scene.here.control, request, _quiet_save)
        state = await client.run_state()
        await client.execute("cont")
    assert not result.report.was_running
    assert state == "paused"
    await scene.require_alive(scene.here)


async def snapshot_is_refused_with_the_way_out(scene: Scene) -> None:
    path = scene.folder / "snapshot.core"
    try:
        await save_vm(scene.here.control, SaveRequest(path), _quiet_save)
    except TagalongError as error:
        words = str(error)
    else:
        words = "it was written"
    assert "--vmm-uri file:REST" in words, words
    assert not path.exists()


async def plugged_memory_is_memory_of_the_guest(scene: Scene) -> None:
    """Memory can be plugged before; while QEMU migrates, it refuses that itself."""
    more = ["-S", "-m", "128M,maxmem=1G", "-device", "pcie-root-port,id=slot0"]
    here = scene.host(awaits=False, more=more)
    await until(here.control.exists, "the process beside QEMU")
    await until(scene.own_monitor(here).exists, "QEMU's start")
    device = {"driver": "virtio-mem-pci", "id": "more", "bus": "slot0", "memdev": "more-ram"}
    path = scene.folder / "plugged.core"
    async with connect(scene.own_monitor(here)) as own:
        backend = {"qom-type": "memory-backend-ram", "id": "more-ram", "size": 256 << 20}
        await own.execute("object-add", backend)
        await own.execute("device_add", device)
        await save_vm(here.control, SaveRequest(path, kind=SaveKind.DUMP), _quiet_save)
        await own.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        await own.execute("migrate", {"uri": f"file:{scene.folder}/slow"})
        words = await failure_of(own.execute("device_add", {**device, "id": "again"}))
    scene.end(here)
    assert "migrat" in words, words
    with open_core(path) as core:
        sizes = [region.size_bytes for region in core.regions]
    assert sizes == [128 << 20, 256 << 20], sizes


DUMPS = (
    dump_has_memory_tags_and_registers,
    live_dump_says_that_it_is_of_different_moments,
    paused_guest_is_dumped_and_stays_paused,
    snapshot_is_refused_with_the_way_out,
    plugged_memory_is_memory_of_the_guest,
)
