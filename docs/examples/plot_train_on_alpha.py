"""
A draft trained for four proposals
==================================

One draft distribution q has to serve eight different target distributions, as a draft that knows too little does.
Trained on cross-entropy it becomes their mean; trained on ``1 - alpha*_n`` it becomes what serves n proposals best.
The gradient goes through the minimising subset of every row (:mod:`mdsd_bounds.bounds.gradient`).
"""

import matplotlib.pyplot as plt
import torch

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.bounds import acceptance_loss
from mdsd_bounds.plots.style import COLOURS, axes, legend

torch.manual_seed(0)
p = torch.softmax(3.0 * torch.randn(8, 40, dtype=torch.float64), -1)
counts = (1, 2, 4, 8)


def trained(loss):
    logits = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(p, logits.expand(8, -1)).mean().backward()
        optimizer.step()
    return torch.softmax(logits.detach(), -1)


drafts = {
    "cross-entropy": trained(lambda p, logits: -(p * torch.log_softmax(logits, -1)).sum(-1)),
    "alpha*_1": trained(acceptance_loss(1, "with_replacement")),
    "alpha*_4": trained(acceptance_loss(4, "with_replacement")),
}
ax = axes(None)
for (name, q), colour in zip(drafts.items(), COLOURS, strict=False):
    bound = optimal_acceptance(p, q.expand(8, -1), counts, "with_replacement")
    ax.plot(counts, bound.value.mean(-1), marker="o", color=colour, label=f"trained on {name}")
ax.set_xticks(counts)
ax.set_xlabel("drafts n, with replacement")
ax.set_ylabel("mean optimal acceptance rate")
legend(ax)
plt.show()
