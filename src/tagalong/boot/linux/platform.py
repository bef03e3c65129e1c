"""What a machine for Linux has beside RAM and vCPUs, and where: the map of QEMU's `virt` board."""

from typing import Final

from tagalong.machine import DeviceDescription
from tagalong.machine.gic import REDISTRIBUTOR_BYTES, GicDescription

LINUX_GIC: Final = GicDescription(0x0800_0000, 0x080A_0000, spi_count=256)
"""The interrupt controller of a machine for Linux."""

LINUX_CONSOLE: Final = DeviceDescription("pl011", "pl011", 0x0900_0000, 0x1000, interrupt=33)
"""The UART of a machine for Linux; its device node there is /dev/ttyAMA0."""

LINUX_MAX_VCPUS: Final = (LINUX_CONSOLE.gpa - LINUX_GIC.redistributors) // REDISTRIBUTOR_BYTES
"""How many vCPUs have their redistributors below the UART."""

LINUX_RTC: Final = DeviceDescription("rtc", "pl031", 0x0901_0000, 0x1000, interrupt=34)
"""The real-time clock of a machine for Linux."""

LINUX_GPIO: Final = DeviceDescription("gpio", "pl061", 0x0903_0000, 0x1000, interrupt=39)
"""The GPIO controller of a machine for Linux."""

POWER_BUTTON_LINE: Final = 3
"""The line of a GPIO controller that the power button is connected to."""
