"""The same random programs on the embedded machine and on QEMU's user mode end the same.

Compared are all registers (general-purpose ones, vectors, FPSR, FPCR), flags and TCO, all memory,
all allocation tags, each fault with its PC and FAR, whether an asynchronous tag fault was recorded,
and what IRG would draw next. A batch is 256 programs; `python -m tests.oracle.long` runs more.
"""

from pathlib import Path

import pytest

from tests.support.oracle_compare import compare
from tests.support.oracle_generate import ENCODINGS, KINDS, batch
from tests.support.oracle_report import explain
from tests.support.oracle_soft import SoftSide

BATCHES = 2
ENCODING_BATCHES = 5

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("number", range(BATCHES))
@pytest.mark.parametrize("kind", KINDS)
def test_programs_of_a_kind_end_as_on_the_oracle(
    qemu: Path, soft: SoftSide, kind: str, number: int
) -> None:
    failures = compare(qemu, soft, batch(kind, number))

    assert not failures, explain(qemu, soft, failures)


@pytest.mark.parametrize("number", range(ENCODING_BATCHES))
def test_random_words_are_undefined_or_executed_as_on_the_oracle(
    qemu: Path, soft: SoftSide, number: int
) -> None:
    failures = compare(qemu, soft, batch(ENCODINGS, number))

    assert not failures, explain(qemu, soft, failures)
