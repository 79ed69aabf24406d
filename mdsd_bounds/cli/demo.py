"""``mdsd demo``."""

from __future__ import annotations

import sys

from mdsd_bounds.cli.options import Format, Limit, Quiet, Style
from mdsd_bounds.cli.running import Running
from mdsd_bounds.cli.table import Summary, run_and_print

#: Published rules with a closed form, and the one that attains the bound.
VERIFIERS = ("naive_tree", "rrs", "k_seq", "optimal")


def demo(format: Style = Format.table, limit: Limit = None, quiet: Quiet = False) -> None:
    """Four verifiers against the bound on a real dump that ships with mdsd."""
    from mdsd_bounds.cli.compare import best_first
    from mdsd_bounds.dumps.example import EXAMPLE
    from mdsd_bounds.pipeline.conclusions import comparison_in_words
    from mdsd_bounds.pipeline.evaluate_block import Settings
    from mdsd_bounds.pipeline.tables import COMPARED

    settings = Settings(("with_replacement",), (1, 2, 4), verifiers=VERIFIERS)
    layout = Summary(comparison_in_words, COMPARED, ("share",))
    run_and_print(str(EXAMPLE), settings, Running(limit=limit, quiet=quiet), best_first, layout, format)
    print(
        f"note: the dump is {EXAMPLE}; next: mdsd compare example, or a dump of your own models (mdsd log --help)",
        file=sys.stderr,
    )
