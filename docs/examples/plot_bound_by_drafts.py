"""
The bound against the number of drafts
======================================

How much do more drafts buy, and does it matter how they are drawn?  Bars are 95% intervals with documents as the unit.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import FIGURES

dump = load_example()
settings = Settings(samplers=("with_replacement", "without_replacement", "greedy"), drafts=(1, 2, 4, 8))
table = run(dump, settings)
FIGURES["acceptance_by_drafts"](table)
