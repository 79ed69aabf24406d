"""An explicit joint distribution: any finite table of draft tuples with probabilities.

``q`` is ``[B, T]``, the probability of each row of the option ``table`` ``[T, n]``.
For small V only: enumeration, LP or max-flow.
"""

import torch
from torch import Tensor

from mdsd_bounds.problem import ArrayLike, InputError, Option
from mdsd_bounds.samplers.base import NO_DRAFT, Sampler, draw


def _prefix_matches(table: Tensor, drawn: Tensor, k: int) -> Tensor:
    """``[B, T]``: rows of the table whose first k drafts are exactly the set drawn so far."""
    begun = torch.zeros((table.shape[0], drawn.shape[1]), dtype=torch.bool, device=drawn.device)
    for j in range(k):
        held = table[:, j] >= 0
        begun[held, table[held, j]] = True
    return (begun[None] == drawn[:, None]).all(-1)


def conditional(q: Tensor, drawn: Tensor, k: int, n: int, *, table: ArrayLike, **_: Option) -> Tensor:
    """Distribution of draft k given the set of the first k drafts, from the table.  O(B T V)."""
    table = torch.as_tensor(table, dtype=torch.int64)
    weight = q * _prefix_matches(table, drawn, k)
    probs = torch.zeros(drawn.shape, dtype=q.dtype, device=q.device)
    held = table[:, k] >= 0
    probs = probs.index_add(-1, table[held, k], weight[:, held])
    mass = weight.sum(-1, keepdim=True)
    return probs / torch.where(mass > 0, mass, torch.ones_like(mass))


class _Joint(Sampler):
    """Whole tuples are drawn and scored at once; their order need not be Markov in the drafted set."""

    def sample(self, q: Tensor, n: int, generator: torch.Generator | None = None, **options: Option) -> Tensor:
        row = draw(q, generator)
        return _table(options, n)[row]

    def log_prob(self, q: Tensor, drafts: Tensor, **options: Option) -> Tensor:
        table = _table(options, drafts.shape[1])
        match = (table[None] == drafts[:, None]).all(-1)
        return (q * match).sum(-1).log()


def _table(options: dict[str, Option], n: int) -> Tensor:
    given = options.get("table")
    if given is None:
        raise InputError("joint: the option table=[T, n] (the draft tuples) is missing")
    table = torch.as_tensor(given, dtype=torch.int64)
    if table.ndim != 2 or table.shape[1] != n:
        raise InputError(f"joint: the table has shape {tuple(table.shape)} but {n} drafts are asked for; give [T, n]")
    if int(table.min()) < NO_DRAFT:
        raise InputError(f"joint: token {int(table.min())} in the table; token indices start at 0")
    return table


def tuples(q: Tensor, *, table: ArrayLike, **_: Option) -> tuple[Tensor, Tensor]:
    """The table as it was given, and the probability of each of its rows."""
    return torch.as_tensor(table, dtype=torch.int64, device=q.device), q


def subset_mass(q: Tensor, subset: Tensor, n: int, *, table: ArrayLike, **_: Option) -> Tensor:
    """Mass ``[B]`` of the rows of the table that lie in the subset."""
    table = torch.as_tensor(table, dtype=torch.int64)
    inside: Tensor = (subset[:, table.clamp(min=0)] | (table == NO_DRAFT)).all(-1)
    return (q * inside).sum(-1)


def check(q: Tensor, n_drafts: tuple[int, ...], tokens: int, *, table: ArrayLike | None = None, **_: Option) -> None:
    """Compare the table with q ``[B, T]``, the numbers of drafts and the vocabulary.

    Raises
    ------
    InputError
        If the table is missing, has another shape than ``[T, n]``, or names a token that p does not have.
    """
    if table is None:
        raise InputError("joint: the option table=[T, n] (the draft tuples) is missing")
    table = torch.as_tensor(table)
    if table.ndim != 2 or table.shape[0] != q.shape[1] or n_drafts != (table.shape[1],):
        raise InputError(
            f"joint: table has shape {tuple(table.shape)}; with q of {q.shape[1]} tuples and "
            f"n_drafts={list(n_drafts)} give [{q.shape[1]}, n] and ask for that n alone"
        )
    if int(table.max()) >= tokens:
        raise InputError(f"joint: token {int(table.max())} in the table, but p has {tokens} tokens")


SAMPLER = _Joint(
    "joint",
    conditional,
    replacement=True,
    options=("table",),
    check=check,
    takes="table",
    subset_mass=subset_mass,
    tuples=tuples,
    cost="small vocabularies, in Python alone: a linear programme",
)
