"""
One position: where the minimum is
==================================

Tokens are sorted by p/q; the curve is ``P(H) - Q(H)`` over prefixes of that order.  One plus its minimum is the optimal
acceptance rate, and the prefix where it is attained is the certificate.
"""

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds.plots import subset_curve

(batch,) = open_dump("../../data/qwen2.5-coder-humaneval").batches(1, start=24, stop=25)
p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
subset_curve(p[0], q[0], n_drafts=4, sampler="without_replacement")
