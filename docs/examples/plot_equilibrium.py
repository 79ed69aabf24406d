"""
Could another sampler do better?
================================

How often the token of each rank under q is in the minimising subset H*.  Where the curve is level, moving probability
from one rank to another gains nothing: the sampler is in equilibrium.
"""

from mdsd_bounds import load_example
from mdsd_bounds.diagnostics.equilibrium import equilibrium
from mdsd_bounds.plots import equilibrium as draw

dump = load_example()
draw(equilibrium(dump.batches(32), n_drafts=(2, 4), temperatures=(1.0,), ranks=(1, 2, 4, 8, 16, 32)))
