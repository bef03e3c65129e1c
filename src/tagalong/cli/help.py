"""`tagalong help`: the help of a command, as its --help prints it."""

import click

_EPILOG = """\b
Examples:
  tagalong help
  tagalong help migrate
  tagalong help lab run
"""


@click.command(epilog=_EPILOG)
@click.argument("names", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def command(context: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of COMMAND, or the list of all commands."""
    shown = context.find_root()
    for name in names:
        group = shown.command
        if not isinstance(group, click.Group):
            context.fail(f"{shown.command_path!r} has no command {name!r}")
        _, found, _ = group.resolve_command(shown, [name])
        if found is None:
            context.fail(f"{shown.command_path!r} has no command {name!r}")
        shown = click.Context(found, info_name=name, parent=shown)
    click.echo(shown.get_help())
