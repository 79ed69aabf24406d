"""``python -m mdsd_bounds.cli``."""

from mdsd_bounds.cli import entry

entry()
