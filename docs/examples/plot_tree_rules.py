"""
Tree rules beside the most that any rule can accept
===================================================

A draft tree of two levels with two drafts a node, over a language of three tokens: every tree is added up, so that the
accepted tokens of each rule are exact.  The dashed line is the joint optimum of all lossless rules.
"""

import matplotlib.pyplot as plt
import torch

from mdsd_bounds.trees.bounds import joint_optimum
from mdsd_bounds.trees.enumerate import branching_trees
from mdsd_bounds.trees.verify import expected_accepted, stops


def model(seed):
    """A distribution of the next token for every path."""

    def distributions(paths):
        rows = []
        for path in paths:
            generator = torch.Generator().manual_seed(seed * 1000 + sum(5**k * (x + 1) for k, x in enumerate(path)))
            rows.append(torch.softmax(2 * torch.randn(3, generator=generator, dtype=torch.float64), 0))
        return torch.stack(rows)

    return distributions


target, draft = model(1), model(2)
trees = branching_trees(draft, (2, 2))
rules = ("recursive", "traversal", "optimal", "sweep")
accepted = [
    sum(chance * expected_accepted(tree, stops(tree, target(tree.paths), rule)) for tree, chance in trees)
    for rule in rules
]
figure, axes = plt.subplots(figsize=(6, 3))
axes.bar(rules, accepted, color="0.6")
axes.axhline(joint_optimum(trees, target), ls="--", color="black")
axes.set_ylabel("accepted tokens a target forward pass")
figure.tight_layout()
