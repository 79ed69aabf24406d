"""
The gap against the temperature
===============================

At low temperatures one token holds most of the mass, and every rule comes close to its bound.  A facet gives each
number of drafts a panel of its own.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import FIGURES, Look

dump = load_example()
settings = Settings(
    samplers=("with_replacement",), drafts=(2, 4, 8), temperatures=(0.3, 0.6, 1.0), verifiers=("rrs", "k_seq", "nss")
)
FIGURES["gap_by_temperature"](run(dump, settings), look=Look(facet="drafts"))
