"""A destination that lies: at every answer the source ends in time, and the guest is not lost."""

from pathlib import Path

import pytest

from tests.support.liar import Conduct, Moment
from tests.support.lie import Lie, judged


@pytest.mark.parametrize("conduct", Conduct)
def test_liar_at_every_answer_ends_the_migration_in_time_and_the_guest_is_not_lost(
    conduct: Conduct, tmp_path: Path
) -> None:
    wrong = judged([Lie(moment, conduct) for moment in Moment], tmp_path)

    assert not wrong, wrong
