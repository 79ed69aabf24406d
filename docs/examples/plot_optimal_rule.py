"""
The optimal rule at one position
================================

With replacement, the distribution of the pick of an optimal rule is read off the concave majorant of the points
``(P(H), Q(H))``: its slope on a block of tokens is the ratio of the pick's probability to p.
"""

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds.plots.majorant import majorant_figure

(batch,) = open_dump("../../data/qwen2.5-coder-humaneval").batches(1, start=24, stop=25)
p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
majorant_figure(p[0], q[0], n_drafts=4)
