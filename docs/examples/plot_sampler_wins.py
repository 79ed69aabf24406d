"""
Which sampler wins where
========================

The share of positions at which each draft sampler has the highest bound.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import FIGURES

dump = load_example()
settings = Settings(samplers=("with_replacement", "without_replacement", "greedy", "top_k"), drafts=(2, 4, 8))
FIGURES["sampler_wins"](run(dump, settings))
