"""
What each verifier leaves: the paired gap
=========================================

Bound minus acceptance is taken at every position before it is averaged, so its interval is much narrower than those
of the two levels.  Verifiers of different samplers stand in panels of their own, and a verifier has one colour in
every figure.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import FIGURES, Look

dump = load_example()
settings = Settings(
    samplers=("with_replacement", "without_replacement", "greedy"),
    drafts=(1, 2, 4, 8),
    verifiers=("rrs", "k_seq", "naive_tree", "rrs_without_replacement", "greedy"),
    samples=64,
)
table = run(dump, settings)
FIGURES["gap_by_drafts"](table)

# %%
# For a paper, in the width of one column; ``mdsd plot --size one-column`` writes the same as PDF, SVG or PNG:

FIGURES["gap_by_drafts"](table, look=Look("one-column"))
