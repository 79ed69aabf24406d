"""
What an engine counted
======================

Acceptance at each draft position from the counters of an engine, here made-up counts of three requests; ``mdsd
acceptance metrics.txt --figure`` draws the same from what a server wrote.
"""

from mdsd_bounds.counts import Unit, acceptance, counts
from mdsd_bounds.plots import acceptance_by_position

requests = [
    Unit(drafts=100, drafted=300, accepted=180, accepted_at=(80, 60, 40)),
    Unit(drafts=60, drafted=180, accepted=90, accepted_at=(45, 28, 17)),
    Unit(drafts=90, drafted=270, accepted=190, accepted_at=(78, 64, 48)),
]
acceptance_by_position(acceptance(counts("my engine", "request", requests)))
