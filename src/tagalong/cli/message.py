"""Lines on standard error that say what a command does at present."""

import click


def announce(message: str) -> None:
    """Print a line that begins as errors do."""
    click.echo(f"tagalong: {message}", err=True)
