"""
The optimal rule without replacement, as a tree
===============================================

Every component of the tree spans some tokens and picks by its own order with the probability written on it, else one
of its parts picks.  Below stand p, q and the distribution of the pick.
"""

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds.plots.priority_orders import priority_orders_figure

(batch,) = open_dump("../../data/qwen2.5-coder-humaneval").batches(1, start=24, stop=25)
p, q = (to_probs(rows, top_k=14)[0] for rows in (batch.target_logits, batch.draft_logits))
priority_orders_figure(p, q, 4)
