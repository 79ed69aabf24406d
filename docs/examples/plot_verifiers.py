"""
Verifiers against their bound
=============================

Each point is one position: the acceptance rate of a published verifier against the best that any lossless verifier
could do with the same drafts.  Points below the diagonal are acceptance left on the table.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import FIGURES

dump = load_example()
settings = Settings(samplers=("with_replacement",), drafts=(2, 4), verifiers=("rrs", "k_seq"))
table = run(dump, settings)
FIGURES["acceptance_against_bound"](table)

# %%
# The same table as curves over the number of drafts:

FIGURES["acceptance_by_drafts"](table)
