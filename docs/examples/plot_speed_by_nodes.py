"""
How large a tree pays: speed against nodes
==========================================

The speed of the best tree of each size under given costs: a draft forward pass costs 0.15 of the
target's, and the target's grows with the nodes that it reads.  The ring is what ``mdsd advise`` recommends,
with its interval shaded; ``mdsd advise --figure`` draws the same.
"""

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.plots import speed_by_nodes
from mdsd_bounds.trees.advise import costs_from, profiles
from mdsd_bounds.trees.speed_frontier import speed_by_nodes as best_of_each_size

dump = load_example()
samplers, verifiers = ("with_replacement", "greedy"), ("rrs", "k_seq", "greedy")
found, documents = profiles(run(dump, Settings(samplers, (1, 2, 3, 4), verifiers=verifiers)))
costs = costs_from(0.15, "1:1,8:1.05,16:1.15,32:1.5")
speed_by_nodes(best_of_each_size(found, documents, costs, most_nodes=24))
