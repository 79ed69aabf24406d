"""A selection rule made ready for one position: which draft it picks, and the exact distribution of the pick.

Every rule of this package is of one form.  A *selection rule* picks one of the drafts; let r be the distribution of the
pick over the drafts' own randomness and the rule's.  The pick y is output with probability ``min(1, p_y / r_y)``, else
the output is drawn from ``norm((p - r)_+)``.

**Lossless.**  ``Pr(output = y) = r_y min(1, p_y/r_y) + R (p_y - r_y)_+ / sum_z (p_z - r_z)_+`` with R the probability
of rejection, ``R = 1 - sum_z min(p_z, r_z) = sum_z (p_z - r_z)_+`` since p and r both sum to one; so it is
``min(p_y, r_y) + (p_y - r_y)_+ = p_y``.  Nothing is asked of r but that it is the distribution of the rule that runs.

**Certificate.**  The output is a draft with probability at least ``sum_y min(p_y, r_y)``, so r bounds alpha* from
below; a token set H bounds it from above, ``alpha* <= 1 + P(H) - Q(H)``.  The difference is the field ``gap``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    import pandas as pd


#: Tokens of a block of :attr:`Prepared.residual`.
BLOCK = 1024


class SelectionRule(Protocol):
    """Which draft is picked: data only (arrays and numbers in a frozen dataclass), so that it pickles."""

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` ``[T, n]`` is the pick; 0 for empty slots, which hold -1.

        Averaged over the drafts it is r.
        """

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot ``[T]`` of the pick: a sample of :meth:`pick_distribution`."""

    def summary(self) -> str:
        """What the rule is and how large, in a few words."""


@dataclass(frozen=True, repr=False)
class Prepared:
    """A selection rule for one position, with everything that its steps need; it can be pickled.

    Attributes
    ----------
    p : Tensor
        ``[V]`` float64 target distribution, on the CPU.
    r : Tensor
        ``[V]`` float64: exact distribution of the pick of the rule that runs, up to rounding of float64.
    gap : float
        At least 0: a certified upper bound on alpha* minus :attr:`acceptance`.
    rule : SelectionRule
        The data of the rule, from which a step picks.
    n : int or None
        Number of drafts it was made for; drafts of another number raise an error, since the rule is lossless with no
        other distribution of drafts.
    distinct : bool
        Whether its sampler never draws a token twice.
    sampler : str or None
        The sampler it was made for.
    seconds : float
        Time that the preparation took, by the wall clock.

    Examples
    --------
    >>> import pickle, torch
    >>> from mdsd_bounds.verifiers.optimal import prepare
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]], dtype=torch.float64)
    >>> rule = pickle.loads(pickle.dumps(prepare(p, q, 2, "with_replacement")))
    >>> round(rule.acceptance, 4)
    0.86
    >>> rule.step(torch.tensor([[0, 1]]), torch.Generator().manual_seed(0)).shape
    torch.Size([1])
    """

    p: Tensor
    r: Tensor
    gap: float
    rule: SelectionRule
    n: int | None = None
    distinct: bool = False
    sampler: str | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        made_for = f"{self.sampler}, n={self.n}, V={len(self.p)}"
        return f"Prepared({made_for}, acceptance={self.acceptance:.6f}, gap={self.gap:.1e})"

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a line for each token of p or r: ``token``, ``p`` and ``r``, largest p first."""
        import pandas as pd

        token = torch.nonzero((self.p > 0) | (self.r > 0))[:, 0]
        frame = pd.DataFrame({"token": token.numpy(), "p": self.p[token].numpy(), "r": self.r[token].numpy()})
        return frame.sort_values("p", ascending=False, kind="stable", ignore_index=True)

    def _repr_html_(self) -> str:
        import html

        lines = "<br>".join(html.escape(line) for line in self.summary().splitlines())
        return f"<p>{lines}</p>{self.to_frame().head(10).to_html(border=0, index=False, float_format='{:.5f}'.format)}"

    def summary(self) -> str:
        """One line on the rule, and one on what it cost to prepare and costs to keep."""
        cost = f"prepared in {1e3 * self.seconds:.3g} ms, {self.nbytes:,} bytes with p and r"
        return f"{self!r}\n{self.rule.summary()}; {cost}"

    def __getstate__(self) -> dict[str, Any]:
        # A row of a batch is a view of all its rows, which pickle would write.
        copies: dict[int, Tensor] = {}
        state = {field.name: _own_memory(getattr(self, field.name), copies) for field in dataclasses.fields(self)}
        rule: Any = self.rule
        held = {field.name: _own_memory(getattr(rule, field.name), copies) for field in dataclasses.fields(rule)}
        return state | {"rule": dataclasses.replace(rule, **held)}

    @property
    def nbytes(self) -> int:
        """Bytes of p, r and the arrays of the rule."""
        return _array_bytes(self.p, self.r, self.rule)

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` ``[T, n]`` is the pick, given the drafts."""
        return self.rule.pick_distribution(drafts)

    def pick(self, drafts: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Slot ``[T]`` of the pick: a sample of :meth:`pick_distribution`."""
        return self.rule.pick(drafts, generator)

    @cached_property
    def acceptance(self) -> float:
        """``sum_y min(p_y, r_y)``: the probability that the pick is output."""
        return min(1.0, float(torch.minimum(self.p, self.r).sum()))

    @cached_property
    def residual(self) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative sums over blocks of :data:`BLOCK` tokens of ``(p - r)_+``, to draw rejected positions from; and r.

        Where nothing is left over, so that rounding alone rejects, those of p and an empty array.
        """
        from mdsd_bounds.verifiers.optimal.unit_kernels import excess_of_blocks

        p, r = self.p.numpy(), self.r.numpy()
        sums = np.cumsum(excess_of_blocks(p, r, BLOCK))
        return (sums, r) if sums[-1] > 0.0 else (np.cumsum(excess_of_blocks(p, r[:0], BLOCK)), r[:0])

    def output_distribution(self, drafts: Tensor) -> Tensor:
        """Distribution of the output token ``[T, V]`` given drafts ``[T, n]``.  Cost O(T (V + cost of a pick)).

        Raises
        ------
        InputError
            On drafts that the sampler of the rule cannot have drawn: another number, a repeated or an unknown token.
        """
        drafts = self.checked(drafts)
        chance = self.pick_distribution(drafts)
        token = drafts.clamp(min=0)
        accepted = chance * self._accept_probability(token)
        probs = torch.zeros((len(drafts), len(self.p)), dtype=self.p.dtype)
        probs.scatter_add_(-1, token, accepted)
        left = (self.p - self.r).clamp(min=0.0)
        mass = left.sum()
        # Nothing left over: a rejection is then an event of rounding alone, and p itself keeps the output distribution
        # at p.
        residual = left / mass if bool(mass > 0) else self.p
        return torch.addcmul(probs, (chance - accepted).sum(-1, keepdim=True), residual[None])

    def step(self, drafts: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Output tokens ``[T]`` for drafts ``[T, n]``, each row on its own.  Cost O(pick + log V) a row.

        Raises
        ------
        InputError
            As :meth:`output_distribution`.
        """
        drafts = self.checked(drafts)
        token = drafts.gather(-1, self.pick(drafts, generator)[:, None])[:, 0].numpy()
        uniform = torch.rand((2, len(token)), dtype=self.p.dtype, generator=generator).numpy()
        # A pick whose distribution underflowed to zero is accepted where p is not zero.
        p, r = self.p.numpy(), self.r.numpy()
        rejected = uniform[0] * r[token] >= p[token]
        if rejected.any():
            from mdsd_bounds.verifiers.optimal.unit_kernels import draw_from_blocks

            sums, taken = self.residual
            token[rejected] = draw_from_blocks(p, taken, sums, BLOCK, uniform[1, rejected])
        return torch.from_numpy(token)

    def checked(self, drafts: Tensor) -> Tensor:
        """The drafts on the CPU.  Given other drafts than it was made for, a rule would output another distribution."""
        drafts = drafts.cpu()
        if drafts.ndim != 2 or self.n not in (None, drafts.shape[1]):
            raise InputError(f"drafts: shape {tuple(drafts.shape)}, but the rule was prepared for [T, {self.n}]")
        # NumPy: on the few numbers of a step its operations take a third of the time of torch's.
        ordered = np.sort(drafts.numpy(), axis=-1)
        if ordered.size and not (ordered[:, 0].min() >= -1 and ordered[:, -1].max() < len(self.p)):
            raise InputError(f"drafts: tokens from {ordered.min()} to {ordered.max()}, but V = {len(self.p)}")
        if self.distinct and drafts.shape[1] > 1:
            again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
            if again.any():
                row = int(again.any(-1).nonzero()[0][0])
                raise InputError(
                    f"drafts row {row}: {drafts[row].tolist()} repeats a token, but the rule was prepared for draws "
                    "without replacement; prepare it for the sampler that drew them"
                )
        return drafts

    def _accept_probability(self, token: Tensor) -> Tensor:
        target, picked = self.p[token], self.r[token]
        held = picked > 0
        ratio = (target / torch.where(held, picked, 1.0)).clamp_(max=1.0)
        # A pick whose distribution underflowed to zero.
        return torch.where(held, ratio, (target > 0).to(target.dtype))


def sample_slots(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """A slot ``[T]`` from each row of ``probs`` ``[T, n]``."""
    total = np.cumsum(probs.numpy(), axis=-1)
    # 1 - u lies in (0, 1], so that a slot of probability zero is never hit.
    goal = total[:, -1:] * (1.0 - torch.rand((len(total), 1), dtype=probs.dtype, generator=generator).numpy())
    return torch.from_numpy(np.minimum((total < goal).sum(-1), total.shape[1] - 1))


def _own_memory(value: Any, copies: dict[int, Tensor]) -> Any:
    """``value``, or a copy of a tensor that is part of a larger one; the same copy for the same part."""
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.element_size() * value.nelement():
        return copies.setdefault(value.data_ptr(), value.clone())
    return value


def _array_bytes(*values: Any) -> int:
    """Bytes of all arrays in some records, records inside them included; an array met twice counts once."""
    waiting, found = list(values), set[tuple[int, int]]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.add((value.data_ptr(), value.element_size() * value.nelement()))
        elif isinstance(value, np.ndarray):
            found.add((value.ctypes.data, value.nbytes))
        elif isinstance(value, tuple):
            waiting += value
        elif dataclasses.is_dataclass(value):
            waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]
    return sum(size for _, size in found)
