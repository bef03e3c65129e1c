"""Migrations of guest RAM that an access strategy reads and writes, at one end or at both."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.machine import MachineDescription
from tagalong.memory import Gpa, Region
from tagalong.migrate import MigrationOptions
from tagalong.migrate.pages.compression import parse_compression
from tests.support.fake_machine import RAM, FakeMachine, contents, describe
from tests.support.migration import PATIENT, Migration, Outcome

PAGE = 4096


class Inverse:
    """A route that inverts what it copies: whatever passes it by is found out."""

    def __init__(self, region: Region) -> None:
        self._region = region
        region.route(self)

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> None:
        at = gpa - self._region.gpa
        np.invert(self._region.raw_data[at : at + target.size], out=target)

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> None:
        at = gpa - self._region.gpa
        np.invert(source, out=self._region.raw_data[at : at + source.size])


def routed(machine: FakeMachine) -> FakeMachine:
    for region in machine.memory.regions:
        Inverse(region)
    return machine


def build_routed(description: MachineDescription) -> FakeMachine:
    return routed(FakeMachine(description))


@pytest.fixture
def source() -> FakeMachine:
    """Return a running machine with stretches and single pages, whose guest writes."""
    machine = FakeMachine(
        describe(0x100_0000, 0x40_0000),
        guest=lambda it: it.guest_write(RAM + 0x1000, b"", tags=b"\x12"),
    )
    draw = np.random.default_rng(7)
    for region in machine.memory.regions:
        half = region.data.size // 2
        region.raw_data[:half] = draw.integers(1, 255, half, np.uint8)
        region.raw_data.reshape(-1, PAGE)[half // PAGE + 2 :: 16] = 3
        region.raw_tags[: half // 32] = draw.integers(0, 256, half // 32, np.uint8)
    machine.resume()
    return machine


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", ["none", "zstd:1"])
def test_migration_between_routed_machines_moves_everything_by_the_routes(
    source: FakeMachine, outcomes: list[Outcome], channels: int, compression: str
) -> None:
    options = MigrationOptions(
        channels=channels,
        compression=parse_compression(compression),
        verify=True,
        timeouts=PATIENT,
    )

    outcome = Migration(routed(source), options, build=build_routed).run()
    outcomes.append(outcome)

    outcome.raise_if_failed()
    assert contents(outcome.destination) == contents(source)
    assert outcome.report is not None
    assert outcome.report.source_digest == outcome.report.destination_digest


@pytest.mark.parametrize("at_source", [True, False])
def test_migration_with_one_routed_machine_uses_its_route_for_every_page(
    source: FakeMachine, outcomes: list[Outcome], at_source: bool
) -> None:
    options = MigrationOptions(channels=2, timeouts=PATIENT)
    build = FakeMachine if at_source else build_routed

    outcome = Migration(routed(source) if at_source else source, options, build=build).run()
    outcomes.append(outcome)

    outcome.raise_if_failed()
    for ours, theirs in zip(source.memory.regions, outcome.destination.memory.regions, strict=True):
        used = ours.data_pages().pages()
        sent, arrived = (it.data.reshape(-1, PAGE)[used] for it in (ours, theirs))
        assert np.array_equal(arrived, ~sent)
