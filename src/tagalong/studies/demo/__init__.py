"""The demo: a guest moves between two real processes and confirms that its tags came along."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.studies.demo.guests import DemoGuest, churn_guest, linux_guest
    from tagalong.studies.demo.report import DemoReport, GuestProgress
    from tagalong.studies.demo.scenario import DemoObserver, DemoOptions, run_demo
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.studies.demo.guests": ("DemoGuest", "churn_guest", "linux_guest"),
            "tagalong.studies.demo.report": ("DemoReport", "GuestProgress"),
            "tagalong.studies.demo.scenario": ("DemoObserver", "DemoOptions", "run_demo"),
        },
    )

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
