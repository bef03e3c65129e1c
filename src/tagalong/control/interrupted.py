"""What a signal does to a command, apart from the event loop: most commands need none."""

import signal


class Interrupted(Exception):  # noqa: N818 (not an error: the operator asked for it)
    """A signal ended the work; `exit_code` is 128 and its number, as a shell counts."""

    def __init__(self, number: int, outcome: str) -> None:
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"interrupted ({name}){': ' if outcome else ''}{outcome}")
