"""Starting weights by least squares: the two matrices of each depth as a linear guess of the target's next state.

What enters the target's head is ``g * rms(W^h a + W^d b)`` with ``a = rms(h_j / g)`` and ``b = rms(d)``; the target's
own distribution of that token is its head of ``h_{j+1+i}``.  So ``W^h`` and ``W^d`` begin as the ridge regression of
``rms(h_{j+1+i} / g)`` on ``(a, b)``, in closed form: a usable draft, where training from other matrices needs hundreds
of steps to come to the same place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.models.chimera.network import Chimera, rms
from mdsd_bounds.models.chimera.states import StateStore
from mdsd_bounds.models.chimera.target import TargetSide

#: Windows that are read at most.
MOST = 64
#: Ridge, as a part of the mean square of the regressors (which is one).
RIDGE = 1e-3


def least_squares(network: Chimera, side: TargetSide, store: StateStore, counts: dict[str, int]) -> None:
    """Fill in ``from_state`` and ``from_text`` of every depth, at a cost of ``6 H^2`` products a token and depth."""
    size, depths = network.shape.hidden, network.shape.depths
    width = size * (network.has_states + network.has_text)
    products = torch.zeros(depths, width, width + size, dtype=torch.float64)
    rows = 0
    numbers = [(kind, number) for kind, count in counts.items() for number in range(count)]
    with torch.no_grad():
        for kind, number in numbers[:: -(-len(numbers) // MOST)]:
            sample = store.sample(kind, [number])
            states = sample.states[0]
            text = network.trigrams(side.embed(sample.tokens))[0]
            wanted = rms(states / network.gain)
            rows += len(states)
            for i in range(depths):
                given = _regressors(network, states, text, i)
                products[i] += (given.T @ torch.cat([given, wanted], 1)).double()
        for i, total in enumerate(products):
            ridge = RIDGE * rows * torch.eye(width, dtype=torch.float64)
            found = torch.linalg.solve(total[:, :width] + ridge, total[:, width:]).T.float()
            if network.has_states:
                network.from_state[i] = found[:, :size]
            if network.has_text:
                network.from_text[i] = found[:, width - size :]


def _regressors(network: Chimera, states: Tensor, text: Tensor, depth: int) -> Tensor:
    parts = []
    if network.has_states:
        before = torch.nn.functional.pad(states, (0, 0, 1 + depth, 0))[: len(states)]
        parts.append(rms(before / network.gain))
    if network.has_text:
        parts.append(rms(text))
    return torch.cat(parts, 1)
