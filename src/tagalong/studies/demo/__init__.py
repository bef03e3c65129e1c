"""The demo: a guest moves between two real processes and confirms that its tags came along."""

from tagalong.studies.demo.guests import DemoGuest, churn_guest, linux_guest
from tagalong.studies.demo.report import DemoReport, GuestProgress
from tagalong.studies.demo.scenario import DemoObserver, DemoOptions, run_demo

__all__ = [
    "DemoGuest",
    "DemoObserver",
    "DemoOptions",
    "DemoReport",
    "GuestProgress",
    "churn_guest",
    "linux_guest",
    "run_demo",
]
