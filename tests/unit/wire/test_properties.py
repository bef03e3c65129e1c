"""Any record, in any portions, arrives as it was; any bytes are refused or wait for more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tagalong.errors import RemoteProtocolError
from tagalong.wire import (
    NEED_DATA,
    Abort,
    AbortReason,
    Commit,
    Connection,
    DeviceEntry,
    Digest,
    Feature,
    GicEntry,
    GicStateEntry,
    Hello,
    KeepAlive,
    MachineRecord,
    NoBytes,
    Pages,
    Phase,
    Power,
    Record,
    RegionEntry,
    Role,
    Run,
    Runs,
    StateRecord,
    VcpuEntry,
)
from tagalong.wire.machine_state import register_bytes
from tests.support.wire_session import (
    DESTINATION,
    PAGE,
    RAM,
    SOURCE,
    hear,
    joined,
    pair_in,
    streams,
)

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
PAGE_SIZES = st.sampled_from([4096, 16384, 65536])


@st.composite
def machines(draw: st.DrawFn) -> MachineRecord:
    page = draw(PAGE_SIZES)
    sizes = draw(
        st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=9)
    )
    regions = []
    end = 0
    for gap, pages in sizes:
        regions.append(RegionEntry(end + gap * page, pages * page))
        end = regions[-1].end
    vcpus = draw(st.integers(1, 512))
    gic = draw(st.one_of(st.none(), gics(end)))
    if gic is not None:
        end = max(frame.end for frame in gic.frames(vcpus))
    last = 1019 if gic is None else 31 + gic.spi_count
    mte_version = draw(st.sampled_from([0, 2, 3]))
    return MachineRecord(page, vcpus, mte_version, tuple(regions), draw(devices(end, last)), gic)


@st.composite
def gics(draw: st.DrawFn, start: int) -> GicEntry:
    frame = 0x1_0000
    distributor = -(-start // frame) + draw(st.integers(0, 3))
    redistributors = distributor + draw(st.integers(1, 3))
    return GicEntry(distributor * frame, redistributors * frame, 32 * draw(st.integers(1, 30)))


@st.composite
def devices(draw: st.DrawFn, start: int, last_interrupt: int) -> tuple[DeviceEntry, ...]:
    found: dict[str, DeviceEntry] = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        gpa = start + draw(st.integers(0, 0x2000))
        interrupt = draw(st.one_of(st.none(), st.integers(32, last_interrupt)))
        size, config = draw(st.integers(1, 0x1_0000)), draw(st.binary(max_size=40))
        found[name] = DeviceEntry(name, draw(NAMES), gpa, size, interrupt, config)
        start = found[name].end
    return tuple(draw(st.permutations(list(found.values()))))


@st.composite
def registers(draw: st.DrawFn) -> dict[int, int]:
    ids = draw(
        st.lists(
            st.builds(
                lambda size, low: 0x6000_0000_0000_0000 | size << 52 | low,
                st.integers(0, 8),
                st.integers(0, (1 << 52) - 1),
            ),
            unique=True,
            max_size=12,
        )
    )
    return {each: draw(st.integers(0, 256 ** register_bytes(each) - 1)) for each in ids}


VCPUS = st.builds(VcpuEntry, st.sampled_from(list(Power)), registers())
DEVICES = st.dictionaries(NAMES, st.binary(max_size=300), max_size=5)
WORDS = st.integers(0, (1 << 32) - 1)
GIC_REGISTERS = st.dictionaries(WORDS, WORDS, max_size=8)
INTERFACES = st.dictionaries(WORDS, st.integers(0, (1 << 64) - 1), max_size=4)
GIC_STATES = st.builds(
    GicStateEntry,
    GIC_REGISTERS,
    st.tuples(GIC_REGISTERS, GIC_REGISTERS),
    st.tuples(INTERFACES, INTERFACES),
    st.lists(WORDS, max_size=30).map(tuple),
    st.tuples(WORDS, WORDS),
)
STATES = st.builds(StateRecord, st.tuples(VCPUS, VCPUS), DEVICES, GIC_STATES)


@st.composite
def batches(draw: st.DrawFn) -> Pages:
    gaps_and_counts = st.tuples(st.integers(0, 20), st.integers(1, 3))
    runs = []
    page = 0
    for gap, count in draw(st.lists(gaps_and_counts, min_size=1, max_size=6)):
        runs.append(Run(RAM + (page + gap) * PAGE, count))
        page += gap + count
    fill = st.one_of(
        st.just(NoBytes.ZERO),
        st.integers(1, 1 << 32).map(lambda seed: memoryview(seed.to_bytes(8, "big"))),
    )
    data, tags = draw(fill), draw(fill)
    total = sum(run.page_count for run in runs)
    whole = repeated(data, total * PAGE)
    return Pages(
        Runs(runs),
        whole if isinstance(whole, NoBytes) else (whole,),
        repeated(tags, total * PAGE // 32),
    )


def repeated(plane: memoryview | NoBytes, size: int) -> memoryview | NoBytes:
    if isinstance(plane, NoBytes):
        return NoBytes.ZERO
    return memoryview(bytes(plane) * (size // len(plane)))


_OF_TAGS = Feature.TAGS_ONLY | Feature.TAGS_IN_PLACE
SIXTEEN = st.binary(min_size=16, max_size=16)
TEXTS = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"]), max_size=1000
)
CASES: st.SearchStrategy[tuple[Phase, Role, Record]] = st.one_of(
    st.tuples(
        st.just(Phase.START),
        st.just(SOURCE),
        st.builds(
            Hello,
            st.just(SOURCE),
            st.binary(min_size=16, max_size=16),
            st.integers(0, 2**64 - 1).map(lambda bits: bits & ~_OF_TAGS),
            st.integers(0, 1),
        ),
    ),
    st.tuples(st.just(Phase.AGREED), st.just(SOURCE), machines()),
    st.tuples(st.just(Phase.COPYING), st.just(SOURCE), batches()),
    st.tuples(st.just(Phase.COPYING), st.just(SOURCE), STATES),
    st.tuples(
        st.just(Phase.VERIFYING),
        st.just(SOURCE),
        st.builds(Digest, SIXTEEN),
    ),
    st.tuples(st.just(Phase.READY), st.just(SOURCE), st.builds(Commit, st.booleans())),
    st.tuples(
        st.sampled_from([phase for phase in Phase if not phase.is_final]),
        st.just(DESTINATION),
        st.builds(Abort, st.sampled_from(list(AbortReason)), TEXTS),
    ),
    st.tuples(st.just(Phase.COPYING), st.sampled_from(list(Role)), st.just(KeepAlive())),
)


@given(CASES, st.lists(st.integers(1, 5000), max_size=8))
@settings(max_examples=150, deadline=None)
def test_record_sent_in_any_portions_arrives_as_it_was(
    case: tuple[Phase, Role, Record], portions: list[int]
) -> None:
    phase, role, record = case
    pair = pair_in(phase)
    sent = joined(pair.end(role).send(record))
    listener = pair.end(role.peer)

    for portion in portions:
        listener.receive_data(sent[:portion])
        if sent[portion:]:
            assert listener.next_record() is NEED_DATA
        sent = sent[portion:]
    listener.receive_data(sent)

    assert listener.next_record() == record
    assert pair.source.phase is pair.destination.phase


Key = TypeVar("Key")
Value = TypeVar("Value")


def backwards(mapping: Mapping[Key, Value]) -> dict[Key, Value]:
    return dict(reversed(list(mapping.items())))


def backwards_gic(gic: GicStateEntry) -> GicStateEntry:
    return replace(
        gic,
        distributor=backwards(gic.distributor),
        redistributors=tuple(map(backwards, gic.redistributors)),
        cpu_interfaces=tuple(map(backwards, gic.cpu_interfaces)),
    )


@given(STATES)
@settings(max_examples=50, deadline=None)
def test_state_has_one_encoding_whatever_its_order(state: StateRecord) -> None:
    reordered = StateRecord(
        tuple(VcpuEntry(it.power, backwards(it.registers)) for it in state.vcpus),
        backwards(state.devices),
        state.gic and backwards_gic(state.gic),
    )

    one, other = (pair_in(Phase.COPYING).source.send(each) for each in (state, reordered))

    assert joined(one) == joined(other)


def exhaust(listener: Connection) -> None:
    while listener.next_record() is not NEED_DATA:
        pass
    listener.receive_eof()


@given(st.binary(max_size=200), st.sampled_from([Phase.START, Phase.AGREED, Phase.COPYING]))
@settings(max_examples=150, deadline=None)
def test_noise_never_becomes_a_record(noise: bytes, phase: Phase) -> None:
    listener = pair_in(phase).destination
    listener.receive_data(noise)

    with pytest.raises(RemoteProtocolError) as caught:
        exhaust(listener)

    assert 0 <= caught.value.offset <= listener.bytes_received


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_stream_with_a_stretch_overwritten_is_refused(data: st.DataObject) -> None:
    sound = streams()[SOURCE]
    at = data.draw(st.integers(0, len(sound) - 1))
    stretch = data.draw(st.binary(min_size=1, max_size=64))[: len(sound) - at]
    assume(sound[at : at + len(stretch)] != stretch)

    with pytest.raises(RemoteProtocolError):
        hear(DESTINATION, sound[:at] + stretch + sound[at + len(stretch) :])
