"""The problem and its answers: frozen, batch-first records that every other module speaks in.

One *position* of multi-draft speculative decoding is a pair of distributions over the same V tokens, the target's ``p``
and the draft's ``q``.  Everything here holds B positions at once.  A result keeps the problem it answers, so that its
certificate can be checked later without anything else at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

#: What is read as rows of numbers: a tensor, a numpy array, or nested sequences.
ArrayLike: TypeAlias = Tensor | npt.ArrayLike
#: A number of drafts, or several.
Counts: TypeAlias = int | Iterable[int] | Tensor
#: An option of a sampler or a verifier, as given by name.
Option: TypeAlias = bool | int | float | str | Tensor | np.ndarray | Sequence[object] | None


class InputError(ValueError):
    """Bad input, said in one line that names the file or argument, the row and the remedy.

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance
    >>> optimal_acceptance([0.6, 0.3, 0.2], [0.2, 0.3, 0.5], 2)
    Traceback (most recent call last):
        ...
    mdsd_bounds.problem.InputError: p row 0: probabilities sum to 1.1, not 1 within 1e-06; normalise ...
    """


@dataclass(frozen=True)
class PairBatch:
    """Target and draft distributions of B positions over one vocabulary of V tokens.

    Attributes
    ----------
    p, q : Tensor
        ``[B, V]`` float64, each row a probability distribution: non-negative, summing to 1 (or to ``1 - missing``).
    doc, position, token : Tensor or None
        ``[B]`` int64: document a row comes from, its place in that document, the token that followed.
    p_missing, q_missing : Tensor or None
        ``[B]`` float64 in [0, 1]: mass that a truncated row (top-k, floored) does not place on any token.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds import PairBatch
    >>> batch = PairBatch(p=torch.tensor([[0.6, 0.4]]), q=torch.tensor([[0.5, 0.5]]), doc=torch.tensor([7]))
    >>> batch.p.shape, batch.doc
    (torch.Size([1, 2]), tensor([7]))
    """

    p: Tensor
    q: Tensor
    doc: Tensor | None = None
    position: Tensor | None = None
    token: Tensor | None = None
    p_missing: Tensor | None = None
    q_missing: Tensor | None = None


@dataclass(frozen=True, repr=False)
class Problem:
    """What is asked: the best acceptance for ``p`` when ``n`` drafts come from ``q`` through a draft sampler.

    Attributes
    ----------
    p : Tensor
        ``[B, V]`` float64 target distributions.
    q : Tensor
        ``[B, V]`` float64 draft distributions; ``[B, n, V]`` for ``sampler="independent"``, one distribution per draft.
    n_drafts : tuple of int
        The numbers of drafts asked for, each at least 1.
    sampler : str
        Name in :data:`mdsd_bounds.samplers.SAMPLERS`.
    options : mapping
        Options of the sampler, for example ``{"m": 1}`` for ``top_m_plus``.
    mass_error : Tensor or None
        ``[B]``: how far the given rows were from summing to one, ``|1 - sum p| + n |1 - sum q|`` with the largest n;
        every interval is widened by it.

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance
    >>> problem = optimal_acceptance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], (1, 2), "with_replacement").problem
    >>> problem.n_drafts, problem.sampler, tuple(problem.p.shape)
    ((1, 2), 'with_replacement', (1, 3))
    """

    p: Tensor
    q: Tensor
    n_drafts: tuple[int, ...]
    sampler: str
    options: Mapping[str, Option] = field(default_factory=dict)
    mass_error: Tensor | None = None

    def __repr__(self) -> str:
        shape = f"V={self.p.shape[-1]:,}"
        if self.p.ndim == 2:
            shape = f"{self.p.shape[0]:,} position{'' if self.p.shape[0] == 1 else 's'}, {shape}"
        options = "".join(f", {key}={value!r}" for key, value in self.options.items() if not isinstance(value, Tensor))
        return f"Problem({self.sampler}, n={', '.join(map(str, self.n_drafts))}, {shape}{options})"


class _Told:
    """A result that shows a line a number of drafts in place of its tensors, and as a table in notebooks."""

    problem: Problem

    def _columns(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _name(self) -> str:
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a line for each number of drafts and position: ``drafts``, ``row``, and the numbers."""
        import pandas as pd

        counts = self.problem.n_drafts
        flat = {name: x.detach().cpu().reshape(-1).numpy() for name, x in self._columns().items()}
        rows = len(next(iter(flat.values()))) // len(counts)
        places = {"drafts": [n for n in counts for _ in range(rows)], "row": list(range(rows)) * len(counts)}
        return pd.DataFrame(places | flat)

    def _means(self) -> pd.DataFrame:
        return self.to_frame().drop(columns="row").groupby("drafts", sort=False).mean()

    def __repr__(self) -> str:
        rows = self._means()
        shown = ", ".join(f"n={n}: {value:.4f}" for n, value in rows.iloc[:, 0].items())
        mean = " on average" if self.problem.p.shape[0] > 1 else ""
        return f"{self._name()}; {self.problem!r}; {shown}{mean})"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self))}</p>{self._means().to_html(border=0, float_format='{:.5f}'.format)}"


@dataclass(frozen=True, repr=False)
class Bound(_Told):
    """A certified interval for the optimal acceptance rate ``alpha* = 1 + min_H (P(H) - Q(H))``.

    Attributes
    ----------
    value : Tensor
        ``[N, B]`` (or ``[B]`` when one number of drafts was asked for, ``[]`` for a single row): best estimate.
    low, high : Tensor
        Same shape: ``low <= alpha* <= high`` whatever the rounding, quadrature and truncation errors were.
    subset_size : Tensor
        Same shape, int64: number of tokens in the minimising subset H*.
    problem : Problem
        The question answered.
    method : str
        Name in :data:`mdsd_bounds.bounds.METHODS`.
    plan, dual : Any
        For the linear programmes only (``method="lp"``): the transport plan and the dual solution of the lossless
        problem, ``plan[i][b]`` and ``dual[i][b]`` for the i-th number of drafts and row b.  A plan moves ``mass[e]``
        from the drafted set ``sets.tokens[source[e]]`` (probability ``sets.mass[source[e]]``) to ``token[e]``.
    tv : float
        Total variation that the output distribution may be from p.  With more than 0 the interval is for
        ``min(1, alpha* + tv)`` (docs/lossy.md).

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance
    >>> bound = optimal_acceptance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "with_replacement")
    >>> round(float(bound.value), 6), bool(bound.high - bound.low < 1e-9)
    (0.76, True)
    """

    value: Tensor
    low: Tensor
    high: Tensor
    subset_size: Tensor
    problem: Problem
    method: str
    plan: Any = None
    dual: Any = None
    make_subset: Callable[[], Tensor] | None = field(default=None, repr=False)
    tv: float = 0.0

    def _name(self) -> str:
        within = f", within a total variation of {self.tv:g}" if self.tv > 0 else ""
        return f"Bound({self.method}, certified to {float((self.high - self.low).max()):.1e}{within}"

    def _columns(self) -> dict[str, Tensor]:
        names = {"value": self.value, "certified_low": self.low, "certified_high": self.high}
        return names | {"subset_size": self.subset_size}

    @property
    def subset(self) -> Tensor:
        """The minimising subset H* as a boolean mask, shape of ``value`` + ``[V]``; built when asked for."""
        if self.make_subset is None:
            raise InputError(f"method {self.method!r} does not record its minimising subset")
        return self.make_subset()


@dataclass(frozen=True, repr=False)
class Acceptance(_Told):
    """The acceptance rate of one verifier: Pr(the output token is one of the drafts).

    Attributes
    ----------
    value : Tensor
        ``[N, B]`` (or ``[B]``, ``[]`` as for :class:`Bound`).
    stderr : Tensor
        Same shape: standard error of ``value``; 0 where ``exact``, elsewhere that of the samples.
    exact : bool
        True where ``value`` is a closed form or a full enumeration, False for Monte Carlo.
    verifier : str
        Name in :data:`mdsd_bounds.verifiers.VERIFIERS`.
    lossless : bool or None
        Whether the verifier's output distribution is p; None for a plain function, of which nobody has said it.
    problem : Problem
        The question answered.

    Examples
    --------
    >>> from mdsd_bounds import acceptance_rate
    >>> acceptance_rate([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "with_replacement", "rrs")
    Acceptance(rrs, lossless, exact; Problem(with_replacement, n=2, 1 position, V=3); n=2: 0.6800)
    >>> found = acceptance_rate([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], (1, 2), "with_replacement", "rrs")
    >>> found.to_frame()[["drafts", "acceptance"]].round(4)
       drafts  acceptance
    0       1        0.60
    1       2        0.68
    """

    value: Tensor
    stderr: Tensor
    exact: bool
    verifier: str
    lossless: bool | None
    problem: Problem

    def _name(self) -> str:
        how = "exact" if self.exact else f"sampled, standard error up to {float(self.stderr.max()):.1e}"
        known = {None: "not audited", True: "lossless", False: "LOSSY"}[self.lossless]
        return f"Acceptance({self.verifier}, {known}, {how}"

    def _columns(self) -> dict[str, Tensor]:
        return {"acceptance": self.value, "mc_stderr": self.stderr}


#: Most drafts that are counted; what uses them has smaller limits of its own.
MOST_DRAFTS = 1_000_000_000


def draft_counts(n_drafts: Counts) -> tuple[tuple[int, ...], bool]:
    """Read ``n_drafts`` (an integer or a sequence) as a tuple; the flag says whether it was a single integer.

    Raises
    ------
    InputError
        If a value is not an integer from 1 to :data:`MOST_DRAFTS`, or the sequence is empty.
    """
    if isinstance(n_drafts, (bytes, bytearray, dict)) or (isinstance(n_drafts, Tensor) and n_drafts.is_meta):
        raise InputError(f"n_drafts={n_drafts!r}: give an integer of at least 1, or a sequence of them")
    if isinstance(n_drafts, Tensor | np.ndarray):
        n_drafts = n_drafts.tolist()
    single = not hasattr(n_drafts, "__iter__")
    values: list[Any] = [n_drafts] if single else list(cast("Iterable[int]", n_drafts))
    if not values:
        raise InputError("n_drafts is empty: give at least one number of drafts, for example n_drafts=(1, 2, 4)")
    counts = []
    for value in values:
        count = whole_number(value)
        if count is None or count < 1:
            raise InputError(f"n_drafts={value!r}: the number of drafts must be an integer of at least 1")
        if count > MOST_DRAFTS:
            raise InputError(f"n_drafts={value!r}: more drafts than {MOST_DRAFTS}; give fewer")
        counts.append(count)
    return tuple(counts), single


def whole_number(value: Any) -> int | None:
    """An integer of any type that holds one as a plain one, and None for anything else: truth values, texts, fractions.

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.problem import whole_number
    >>> whole_number(np.uint8(3)), whole_number(2.0), whole_number(True), whole_number("3")
    (3, 2, None, None)
    """
    if isinstance(value, bool | np.bool_) or (
        isinstance(value, Tensor) and (value.is_meta or value.dtype == torch.bool)
    ):
        return None
    try:
        number = int(value)
        return number if not isinstance(value, str | bytes) and bool(number == value) else None
    except Exception:  # whatever a foreign type raises where it is no number
        return None


def checked_tv(value: Option, name: str = "tv") -> float:
    """A total variation as a float.

    Raises
    ------
    InputError
        If it is no number in [0, 1]; ``name`` says which option it was.
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(cast("float", value))
    except (TypeError, ValueError):
        number = float("nan")
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{name}={value!r}; give a total variation in [0, 1]")
    return number


def squeeze(x: Tensor, single_n: bool, single_row: bool) -> Tensor:
    """Drop the axes of ``[N, B, ...]`` that the caller did not ask for."""
    if single_row:
        x = x[:, 0]
    return x[0] if single_n else x


def rounding_unit(dtype: torch.dtype = torch.float64) -> float:
    """Unit roundoff of a floating dtype (half of its machine epsilon)."""
    return torch.finfo(dtype).eps / 2
