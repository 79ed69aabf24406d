r"""The optimal acceptance rate as a differentiable function, so that a draft can be trained on it.

``alpha*_n = 1 + min_H (P(H) - Q_n(H))`` is a minimum of smooth functions.  Where the minimising subset H* is unique, it
stays the same near by, and (Danskin's theorem) the gradient is that of its own term; elsewhere the gradient of any
minimiser's term is taken, which is one of the directional derivatives' slopes.

.. math::

    \frac{\partial \alpha^*_n}{\partial p_i} = 1\{i \in H^*\}, \qquad
    \frac{\partial \alpha^*_n}{\partial q_i} = -\frac{\partial Q_n(H^*)}{\partial q_i}.

With replacement ``Q = q(H)^n``.  Draws without replacement are the first n of independent exponential arrival
times of rates q, and with N(t) the arrivals in H up to time t and c the rate of all others

.. math::

    Q = \int_0^\infty c\, e^{-ct} \Pr(N(t) \ge n)\, dt
      = \Big(\frac{r}{r + c}\Big)^n + \int_{-\infty}^{\infty} c\, t\, e^{-ct}
        \big[\Pr(\mathrm{Poisson}(rt) < n) - \Pr(N(t) < n)\big]\, dy, \qquad t = e^y,

for any rate r, here the mass outside the n - 1 most probable tokens; the trapezoid rule is that of
:mod:`mdsd_bounds.bounds.search.exponential_race`.  ``Pr(N(t) < n)`` is a recursion over the heavy tokens and a power
series in the moments of the light ones, and torch differentiates both.

The value comes from the exact search; the losses ``1 - alpha*_n`` for n > 1 are new, that for n = 1 is the total
variation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import factorial, gammainccinv
from torch import Tensor

from mdsd_bounds._backend.stirling import surjections
from mdsd_bounds.bounds import make_problem, solve
from mdsd_bounds.bounds.search.exponential_race import outside_top, trapezoid_step
from mdsd_bounds.problem import InputError

#: Draft samplers that can be differentiated.
SAMPLERS = ("with_replacement", "without_replacement")
#: A token is heavy above this part of the mass outside the n - 1 most probable tokens.
HEAVY = 0.04
#: Moments of the light tokens: their rates times the last time are below 2, and ``2^21 / 21!`` is 4e-14.
MOMENTS = 20
#: Error allowed to each cut of the integral.
CUT = 1e-12
#: Numbers in the working arrays of a slice of rows.
_SLICE = 1 << 17


def differentiable_acceptance(p: Tensor, q: Tensor, n_drafts: int, sampler: str = "with_replacement") -> Tensor:
    """``alpha*_n`` of every row, with gradients for p and q.

    Parameters
    ----------
    p, q : Tensor
        ``[B, V]`` probabilities of any float dtype; each row sums to one within the tolerance of its dtype.
    n_drafts : int
        n.
    sampler : str
        ``with_replacement`` or ``without_replacement``.

    Returns
    -------
    Tensor
        ``[B]`` float64.  Cost: the exact search, and backwards a sum over H* (with replacement) or the quadrature
        of Q(H*) and its derivative (without).

    Raises
    ------
    InputError
        On rows that are no distributions, another sampler, n < 1, or fewer than n tokens in the support of q without
        replacement.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.bounds import differentiable_acceptance
    >>> q = torch.tensor([[0.75, 0.25]], dtype=torch.float64, requires_grad=True)
    >>> value = differentiable_acceptance(torch.tensor([[0.5, 0.5]], dtype=torch.float64), q, 2)
    >>> float(value.detach())
    0.9375
    >>> value.sum().backward()
    >>> q.grad
    tensor([[-1.5000, -0.0000]], dtype=torch.float64)
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler {sampler!r}: gradients are known for {', '.join(SAMPLERS)}")
    if sampler == "without_replacement" and bool(((q > 0).sum(-1) < n_drafts).any()):
        raise InputError(f"a row of q has fewer than {n_drafts} tokens; its gradient without replacement is undefined")
    value: Tensor = _OptimalAcceptance.apply(p, q, n_drafts, sampler)  # type: ignore[no-untyped-call]
    return value


def acceptance_loss(n_drafts: int, sampler: str = "without_replacement") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss ``1 - alpha*_n`` of target probabilities ``[R, V]`` and draft logits ``[R, V]``, ``[R]`` each row.

    Raises
    ------
    InputError
        As :func:`differentiable_acceptance`, when the loss is evaluated.

    Examples
    --------
    >>> import math
    >>> import torch
    >>> from mdsd_bounds.bounds import acceptance_loss
    >>> loss = acceptance_loss(2, "with_replacement")
    >>> logits = torch.tensor([[math.log(0.75), math.log(0.25)]], dtype=torch.float64)
    >>> [round(x, 4) for x in loss(torch.tensor([[0.5, 0.5]], dtype=torch.float64), logits).tolist()]
    [0.0625]
    """

    def loss(p: Tensor, logits: Tensor) -> Tensor:
        # float32 rows sum to one within 1e-6 or so; the bound's interval would be widened by that.
        p = p.double()
        q = torch.softmax(logits.double(), -1)
        return 1.0 - differentiable_acceptance(p / p.sum(-1, keepdim=True), q, n_drafts, sampler)

    return loss


class _OptimalAcceptance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, n: int, sampler: str) -> Tensor:
        """The value by the exact search, and the subset that attains it."""
        problem, _, _ = make_problem(p.detach(), q.detach(), n, sampler)
        bound = solve(problem)
        ctx.save_for_backward(q, bound.subset[0])
        ctx.n, ctx.sampler, ctx.dtypes = n, sampler, (p.dtype, q.dtype)
        return bound.value[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """One row of weights times the indicator of H*, and minus the derivative of Q(H*)."""
        (gradient,) = gradients
        q, subset = ctx.saved_tensors
        for_p = (subset * gradient[:, None]).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        for_q = None
        if ctx.needs_input_grad[1]:
            slope = mass_gradient(q.double(), subset, ctx.n, ctx.sampler)
            for_q = (-slope * gradient[:, None]).to(ctx.dtypes[1])
        return for_p, for_q, None, None


def mass_gradient(q: Tensor, subset: Tensor, n: int, sampler: str) -> Tensor:
    """``dQ_n(H) / dq`` ``[B, V]`` for the subset ``[B, V]`` of each row.

    Without replacement Q is taken as a function of unnormalised rates, of which it does not depend on the sum.
    """
    if sampler == "with_replacement":
        return n * (q * subset).sum(-1, keepdim=True).pow(n - 1) * subset
    result = torch.zeros_like(q)
    # Rows that need a long range of times together.
    order = _least_rate(q.detach(), n).argsort()
    for rows in torch.split(order, max(1, _SLICE // q.shape[1])):
        part = q[rows].detach().requires_grad_(True)
        with torch.enable_grad():
            total = mass_without_replacement(part, subset[rows], n).sum()
        (result[rows],) = torch.autograd.grad(total, part)
    return result


def mass_without_replacement(q: Tensor, subset: Tensor, n: int) -> Tensor:
    """``Q_n(H)`` ``[B]``: that n sequential draws from rates q ``[B, V]`` all lie in the subset; differentiable."""
    inside, outside = q * subset, (q * ~subset).sum(-1)
    with torch.no_grad():
        rate = _least_rate(q, n)
        log_t = _nodes(n, float(rate.min().log()), float(q.sum(-1).max().log()))
        step = log_t[1] - log_t[0]
    # Times beyond what a row needs would overflow the moments: they add nothing there.
    t = torch.minimum(log_t.exp()[None, :], _reach(n) / rate[:, None])
    live = log_t.exp()[None, :] <= _reach(n) / rate[:, None]
    fewer = _fewer_than(n, inside, rate, t)
    poisson = torch.special.gammaincc(torch.full_like(t, float(n)), rate[:, None] * t)
    wait = outside[:, None] * t
    integrand = torch.where(live, wait * torch.exp(-wait) * (poisson - fewer), torch.zeros_like(t))
    return (rate / (rate + outside)).pow(n) + step * integrand.sum(-1)


def _least_rate(q: Tensor, n: int) -> Tensor:
    """Mass ``[B]`` outside the n - 1 largest tokens."""
    return outside_top(q, q.topk(n - 1).values, n)[:, -1]


def _reach(n: int) -> float:
    return float(gammainccinv(n, CUT))


def _nodes(n: int, log_rate: float, log_total: float) -> Tensor:
    """Logarithms of the times: before the first and after the last the integrand adds less than :data:`CUT`."""
    step, _ = trapezoid_step(n)
    first = math.log(CUT) / (n + 1) - log_total
    last = math.log(_reach(n)) - log_rate
    return first + step * torch.arange(math.ceil((last - first) / step) + 2, dtype=torch.float64)


def _fewer_than(n: int, inside: Tensor, rate: Tensor, t: Tensor) -> Tensor:
    """``Pr(N(t) < n)`` ``[B, G]``: fewer than n arrivals at the rates ``inside`` ``[B, V]`` up to each time."""
    is_heavy = inside > HEAVY * rate[:, None]
    most = int(is_heavy.sum(-1).max())
    light = _light(n, inside.masked_fill(is_heavy, 0.0) / rate[:, None], t * rate[:, None])
    # The heavy ones of each row, padded with rate zero, which never arrives.
    index = inside.detach().masked_fill(~is_heavy, -1.0).topk(most).indices
    heavy = inside.gather(-1, index).masked_fill(~is_heavy.gather(-1, index), 0.0)
    counts = [torch.ones_like(t), *(torch.zeros_like(t) for _ in range(n - 1))]
    for s in range(most):
        survive = torch.exp(-heavy[:, s, None] * t)
        arrive = -torch.expm1(-heavy[:, s, None] * t)
        counts = [counts[0] * survive, *(counts[k] * survive + counts[k - 1] * arrive for k in range(1, n))]
    total = torch.zeros_like(t)
    for j in range(n):
        for k in range(n - j):
            total = total + light[j] * counts[k]
    return total


def _light(n: int, share: Tensor, time: Tensor) -> list[Tensor]:
    """``Pr(j arrivals)`` ``[B, G]``, j < n, at small rates: elementary symmetric functions of their odds.

    The odds ``e^x - 1`` have power sums that are series in the moments of the rates (Stirling numbers), and Newton's
    identities give the elementary symmetric functions.
    """
    powers = [share]
    for _ in range(MOMENTS - 1):
        powers.append(powers[-1] * share)
    moments = [power.sum(-1, keepdim=True) for power in powers]
    # Coefficients of x .. x^MOMENTS in (e^x - 1)^k.
    table = surjections(MOMENTS)[1:] / factorial(np.arange(1, MOMENTS + 1))[:, None]
    series = table.T[1:n].tolist()
    times = [time]
    for _ in range(MOMENTS - 1):
        times.append(times[-1] * time)
    sums = [
        sum((c * moment * power for c, moment, power in zip(row, moments, times, strict=True) if c), torch.zeros(()))
        for row in series
    ]
    symmetric = [torch.ones_like(time)]
    for k in range(1, n):
        terms = [(-1.0) ** (j - 1) * symmetric[k - j] * sums[j - 1] for j in range(1, k + 1)]
        symmetric.append(torch.stack(terms).sum(0) / k)
    none = torch.exp(-moments[0] * time)
    return [none * e for e in symmetric]
