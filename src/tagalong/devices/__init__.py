"""Device models that both machines share; they know neither.

Private: machines put them together.
"""

from tagalong.devices.pl011 import PL011_BYTES, PL011_GPA, Pl011

__all__ = ["PL011_BYTES", "PL011_GPA", "Pl011"]
