"""How a head drafts on text that it was not trained on."""

from __future__ import annotations

import torch

from mdsd_bounds.models.chimera.losses import total_variation
from mdsd_bounds.models.chimera.network import Chimera
from mdsd_bounds.models.chimera.states import StateStore
from mdsd_bounds.models.chimera.target import TargetSide


def held_out_acceptance(network: Chimera, side: TargetSide, store: StateStore, windows: int) -> dict[str, object]:
    """``1 - TV`` of one draft at each depth over the whole vocabulary, the mean of all places of held-out windows."""
    network.eval()
    sums, rows = torch.zeros(network.shape.depths, dtype=torch.float64), 0
    with torch.no_grad():
        for number in range(windows):
            sample = store.sample("held", [number])
            entering = network(side.embed(sample.tokens), sample.states)[:, 0]
            p = torch.softmax(side.logits(sample.states[0]), -1)
            for i, part in enumerate(entering):
                sums[i] += (1.0 - total_variation(p, side.logits(part))).double().sum()
            rows += len(p)
    return {"windows": windows, "places": rows, "acceptance": [float(s) / rows for s in sums] if rows else []}
