"""The judge itself: one linear layer on the target's state, ``score = sigma(w . e + b)``, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mdsd_bounds.models.head_files import read_weights, write_head
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

WEIGHTS, FACTS = "judge.safetensors", "judge.json"
#: Penalties ``l |w|^2 / 2`` on standardised features, per label, from which cross-fitting chooses.
PENALTIES = (0.003, 0.03, 0.3, 3.0)


@dataclass(frozen=True)
class JudgeHead:
    """A trained judge.

    Attributes
    ----------
    weight : Tensor
        ``[H]`` float32.
    bias : float
        Of the same layer.
    facts : mapping
        Which target it belongs to, and what it was trained on.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import JudgeHead
    >>> head = JudgeHead(torch.tensor([1.0, -1.0]), 0.0, {})
    >>> head.scores(torch.tensor([[2.0, 0.0], [0.0, 2.0]])).numpy().round(3)
    array([0.881, 0.119], dtype=float32)
    """

    weight: Tensor = field(repr=False)
    bias: float
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def scores(self, states: Tensor) -> Tensor:
        """Scores ``[...]`` in (0, 1) of states ``[..., H]``."""
        return torch.sigmoid(states.float() @ self.weight + self.bias)


def fit_head(states: Tensor, label: Tensor, penalty: float, harmful_weight: float | None = None) -> JudgeHead:
    """Logistic regression with weighted cross-entropy.

    Parameters
    ----------
    states : Tensor
        ``[N, H]``.
    label : Tensor
        ``[N]``: 1 harmless, 0 harmful.
    penalty : float
        ``l`` of ``l |w|^2 / 2`` on features of mean 0 and variance 1, against the mean loss.
    harmful_weight : float or None
        Weight of a harmful label against a harmless one; None gives both classes the same total.

    Raises
    ------
    InputError
        If the labels are of one class, or a state is not finite.

    Notes
    -----
    Cost: some hundred products with the states.  Convex, so the answer does not depend on where the search begins.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import fit_head
    >>> states = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.9], [0.8, 0.1]])
    >>> head = fit_head(states, torch.tensor([1, 0, 1, 0]), 0.03)
    >>> (head.scores(states) > 0.5).tolist()
    [True, False, True, False]
    """
    check_labels(states, label)
    x = states.double().numpy()
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-30), scale, np.inf)
    x = (x - mean) / scale
    y = label.double().numpy()
    weight = np.where(y > 0, 1.0, (y.sum() / (len(y) - y.sum())) if harmful_weight is None else harmful_weight)
    weight /= weight.sum()

    def loss(given: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ given[:-1] + given[-1]
        value = float(weight @ (np.logaddexp(0.0, z) - y * z)) + penalty / 2 * float(given[:-1] @ given[:-1])
        slope = weight * (1.0 / (1.0 + np.exp(-np.clip(z, -700, 700))) - y)
        return value, np.append(x.T @ slope + penalty * given[:-1], slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    w = found[:-1] / scale
    return JudgeHead(torch.tensor(w, dtype=torch.float32), float(found[-1] - mean @ w))


def check_labels(states: Tensor, label: Tensor) -> None:
    """Raise an error where no judge can be fitted."""
    if not bool(torch.isfinite(states).all()):
        row = int((~torch.isfinite(states)).any(-1).nonzero()[0])
        raise InputError(f"label {row}: its state is not finite; mine its task again")
    harmless = int((label == 1).sum())
    if harmless in (0, len(label)):
        kind = "harmless" if harmless else "harmful"
        raise InputError(f"all {len(label)} labels are {kind}; a judge needs both kinds: mine more tasks")


def save_judge(folder: str | Path, head: JudgeHead) -> None:
    """Write a judge; ``judge.json`` comes last, so that a folder which has it is complete.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds.judge import JudgeHead, save_judge
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_judge(folder, JudgeHead(torch.tensor([1.0, -1.0]), 0.5, {"target": {"source": "my model"}}))
    >>> sorted(file.name for file in folder.iterdir())
    ['judge.json', 'judge.safetensors']
    """
    out = Path(folder)
    arrays = {"weight": head.weight, "bias": torch.tensor([head.bias], dtype=torch.float64)}
    write_head(out / WEIGHTS, out / FACTS, arrays, {**head.facts, "width": len(head.weight)})


def load_judge(folder: str | Path, target: LoadedModel | None = None) -> JudgeHead:
    """The judge of a folder.

    Parameters
    ----------
    folder : str or Path
        As ``mdsd judge fit`` writes it.
    target : LoadedModel, optional
        The model whose states it is to judge.

    Raises
    ------
    InputError
        If it was trained for another target or width, or its file is truncated or another one.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from mdsd_bounds.judge import JudgeHead, load_judge, save_judge
    >>> folder = tempfile.mkdtemp()
    >>> save_judge(folder, JudgeHead(torch.tensor([1.0, -1.0]), 0.5, {"target": {"source": "my model"}}))
    >>> judge = load_judge(folder)
    >>> judge.weight.tolist(), judge.bias
    ([1.0, -1.0], 0.5)
    """
    path = Path(folder)
    try:
        facts = json.loads((path / FACTS).read_text())
        held, width, digest = dict(facts["target"]), int(facts["width"]), str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: holds no finished judge ({FACTS}: {error}); make one with mdsd judge fit"
        ) from None
    if target is not None:
        own = target.identity
        size = int(target.model.config.get_text_config().hidden_size)
        if width != size:
            raise InputError(
                f"{folder}: a judge of states of width {width}, but the target's have {size}; fit one for it"
            )
        if held.get("sha256", held.get("source")) != own.get("sha256", own.get("source")):
            raise InputError(
                f"{folder}: fitted on another target ({held.get('source')}, not {own.get('source')} with these "
                "weights); fit one for this target"
            )
    arrays = read_weights(path / WEIGHTS, digest, FACTS, "fit the judge again")
    try:
        weight, bias = arrays["weight"], float(arrays["bias"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path / WEIGHTS}: no judge ({error}); fit the judge again") from None
    if weight.shape != (width,) or not bool(torch.isfinite(weight).all()):
        raise InputError(f"{path / WEIGHTS}: weights of shape {tuple(weight.shape)}, not finite numbers [{width}]")
    return JudgeHead(weight, bias, facts)
