"""
Draft trees: how many tokens a pass, and how deep
=================================================

From the study of draft trees on real models: tokens per target forward pass of tree families at a fixed number
of nodes, and how deep drafts are accepted.
"""

import pandas as pd

from mdsd_bounds.plots.tree_depths import tree_depths
from mdsd_bounds.plots.tree_protocols import tree_protocols

tree_protocols(pd.read_csv("../results/trees/protocols.csv"), "budget")

# %%
# Trees of 14 nodes:

depths = pd.read_csv("../results/trees/depths.csv")
depths["tree"] = depths["family"] + " " + depths["shape"].astype(str)
shown = depths["tree"].isin(["chain 14", "Sequoia 14", "RSD-S 2x7"]) & (depths["rule"] == "recursive")
tree_depths(depths[shown])
