"""Lines on standard error that say what a command is doing."""

import click


def announce(message: str) -> None:
    """Say what happens, in a line that begins as errors do."""
    click.echo(f"tagalong: {message}", err=True)
