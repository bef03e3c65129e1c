"""Options that several commands share; request_options has those that migrate or save a VM."""

import click

from tagalong.access import ACCESS_NAMES, AUTO
from tagalong.vmm.machine_names import AUTO as AUTO_MACHINE
from tagalong.vmm.machine_names import MACHINE_NAMES

machine_option = click.option(
    "--machine",
    type=click.Choice(MACHINE_NAMES),
    default=AUTO_MACHINE,
    show_default=True,
    help="Kind of machine; auto: kvm where it works, else soft.",
)


access_option = click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    default=AUTO,
    show_default=True,
    help="How this process touches guest RAM; auto: the best that works (see tagalong access).",
)


access_change_option = click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    help="How the VM's process touches guest RAM from now on; default: as it does.",
)
