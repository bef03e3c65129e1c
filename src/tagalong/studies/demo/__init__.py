"""The demo: a guest moves between two real processes and confirms that its tags came along."""

from tagalong.studies.demo.report import DemoReport, GuestProgress
from tagalong.studies.demo.scenario import DemoObserver, DemoOptions, run_demo

__all__ = ["DemoObserver", "DemoOptions", "DemoReport", "GuestProgress", "run_demo"]
