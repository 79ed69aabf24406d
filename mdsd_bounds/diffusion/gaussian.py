"""Acceptance of a Gaussian step with n drafts: the optimum, published rules, and a ceiling over joint distributions.

The target's step is ``p = N(m_p, s^2 I_d)``, the drafts are independent draws of ``q = N(m_q, s^2 I_d)``, and all
depends on ``delta = |m_p - m_q| / s``.  Phi is the standard normal distribution function, ``w = p/q``.

- optimum: ``alpha*_n = 1 - max over t of (Phi(t)^n - Phi(t - delta))``;
- reflection coupling, one draft: ``2 Phi(-delta/2)``, the optimum for n = 1;
- recursive rejection (D-GRS): ``E_q min(w, tau_n)`` with ``tau_1 = 1``, ``tau_{k+1} = tau_k + E_q (w - tau_k)_+``;
- rank mixtures: see :mod:`.rank_mixture`;
- any joint distribution of n drafts with margins q: at most ``E_q min(w, n)``.

Proofs are in ``docs/diffusion.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from mdsd_bounds.diffusion.contour import LogRatio
from mdsd_bounds.diffusion.roots import capped, optimum, recursive_cap
from mdsd_bounds.diffusion.unequal import optimum as unequal_optimum
from mdsd_bounds.problem import InputError

#: A float for numbers, an array for arrays.
Numbers = Any


def optimal_acceptance(delta: Numbers, n: Numbers) -> Numbers:
    """The best acceptance of any lossless rule for n independent drafts, equal variances.

    Parameters
    ----------
    delta : float or array
        ``|m_p - m_q| / s``, at least 0.
    n : int or array
        Number of drafts, at least 1; broadcast with delta.

    Returns
    -------
    float or array
        alpha*_n in (0, 1].  Where it is close to one, :func:`optimal_rejection` has the digits of ``1 - alpha*``.

    Raises
    ------
    InputError
        If delta is negative or no finite number, or n no integer of at least 1.

    Notes
    -----
    Relative error below 1e-12 of both alpha* and (in :func:`optimal_rejection`) ``1 - alpha*``.  A microsecond each.

    Examples
    --------
    >>> round(optimal_acceptance(1.0, 4), 6)
    0.924197
    """
    return _each(_accepted, delta, n, "optimal_acceptance")


def optimal_rejection(delta: Numbers, n: Numbers, *, log: bool = False) -> Numbers:
    """``1 - alpha*_n`` to its own relative precision, or its logarithm, which does not underflow.

    Parameters and errors are those of :func:`optimal_acceptance`.

    Examples
    --------
    >>> f"{optimal_rejection(0.25, 8):.4e}", round(optimal_rejection(0.001, 8, log=True))
    ('3.6791e-18', -2162061)
    """
    return _each(_log_rejected if log else _rejected, delta, n, "optimal_rejection")


def d_grs(delta: Numbers, n: Numbers) -> Numbers:
    """Acceptance of recursive rejection over n drafts (D-GRS, Bullo et al., arXiv 2609.17691), equal variances.

    Round k accepts a draft with probability ``min(1, p_k / q)``, and ``p_{k+1} = norm((p_k - q)_+)``, so that ``p_k =
    norm((w - tau_k)_+ q)`` with ``tau_0 = 0``, ``tau_{k+1} = tau_k + E_q (w - tau_k)_+``.  The chances of rejection
    telescope: all n drafts are rejected with probability ``E_q (w - tau_n)_+``, the price of a call in Black and
    Scholes' model with strike tau_n.

    Parameters and errors are those of :func:`optimal_acceptance`.  Cost O(n), 0.1 microseconds a round.

    Examples
    --------
    >>> round(d_grs(1.0, 4), 6)
    0.797811
    """
    return _each(_recursive, delta, n, "d_grs")


def reflection(delta: Numbers) -> Numbers:
    """Acceptance of the reflection coupling, one draft: ``2 Phi(-delta/2)`` (De Bortoli et al., arXiv 2501.05370).

    Examples
    --------
    >>> round(reflection(1.0), 6)
    0.617075
    """
    return _each(_accepted, delta, 1, "reflection")


def joint_ceiling(delta: Numbers, n: Numbers) -> Numbers:
    """Upper bound over every joint distribution of n drafts, each with distribution q: ``E_q min(p/q, n)``.

    ``Phi(x - delta) + n Phi(-x)`` with ``x = log(n)/delta + delta/2``.  An output that is one of the drafts has density
    at most ``min(p, n q)``.  Drafts that attain it are placed along ``m_p - m_q``, which a draft model does not know.

    Examples
    --------
    >>> round(joint_ceiling(1.0, 4), 6)
    0.930781
    """
    return _each(_ceiling, delta, n, "joint_ceiling")


def optimal_acceptance_ball(d: Numbers, delta: Numbers, s_p: Numbers, s_q: Numbers, n: Numbers) -> Numbers:
    """The best acceptance for n independent drafts where the variances differ.

    ``p = N(m_p, s_p^2 I_d)``, ``q = N(m_q, s_q^2 I_d)``.  The optimal subset is the outside of a ball for ``s_p < s_q``
    and a ball for ``s_p > s_q``; its masses are noncentral chi-square probabilities, evaluated by
    :class:`.contour.LogRatio`, which stays exact where the variances nearly or fully agree.

    Parameters
    ----------
    d : int or array
        Dimension, at least 1.
    delta : float or array
        ``|m_p - m_q|``, *not* divided by a standard deviation; at least 0.
    s_p, s_q : float or array
        Standard deviations of target and draft, positive.
    n : int or array
        Number of drafts, at least 1.  All arguments are broadcast.

    Returns
    -------
    float or array
        alpha*_n.  It can be exactly 1, for ``n >= (s_q/s_p)^d exp(delta^2 / (2 (s_q^2 - s_p^2)))`` only.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    Relative error below 1e-10 of alpha* and, in :func:`optimal_rejection_ball`, of ``1 - alpha*``.  Tens of
    milliseconds each, independent of d and n.

    Examples
    --------
    >>> round(optimal_acceptance_ball(1, 1.0, 1.0, 1.3, 2), 5)
    0.88488
    """
    return _each_ball(0, d, delta, s_p, s_q, n)


def optimal_rejection_ball(d: Numbers, delta: Numbers, s_p: Numbers, s_q: Numbers, n: Numbers) -> Numbers:
    """``1 - alpha*_n`` of :func:`optimal_acceptance_ball` to its own relative precision.

    Examples
    --------
    >>> optimal_rejection_ball(1, 1.0, 1.0, 1.3, 4)
    0.0
    """
    return _each_ball(1, d, delta, s_p, s_q, n)


def checked(value: Numbers, name: str, where: str, *, integer: bool = False, least: float = 0.0) -> np.ndarray:
    """A float64 array of finite numbers of at least ``least``, or one line of error."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name}={value!r} is no number") from None
    kind = "an integer" if integer else "a finite number"
    bad = ~np.isfinite(array) | (array < least)
    if integer:
        bad |= array != np.floor(array)
    if bad.any():
        wrong = array[bad].flat[0]
        raise InputError(f"{where}: {name}={wrong:g}; give {kind} of at least {least:g}")
    return array


def _each(kernel: Any, delta: Numbers, n: Numbers, where: str) -> Numbers:
    deltas, counts = np.broadcast_arrays(
        checked(delta, "delta", where), checked(n, "n", where, integer=True, least=1.0)
    )
    found = np.empty(deltas.shape)
    _loop(kernel, deltas.ravel(), counts.ravel(), found.reshape(-1))
    return float(found) if found.ndim == 0 else found


def _loop(kernel: Any, deltas: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    for i, (delta, n) in enumerate(zip(deltas, counts, strict=True)):
        out[i] = kernel(delta, n)


def _each_ball(which: int, d: Numbers, delta: Numbers, s_p: Numbers, s_q: Numbers, n: Numbers) -> Numbers:
    where = "optimal_acceptance_ball"
    dims = checked(d, "d", where, integer=True, least=1.0)
    counts = checked(n, "n", where, integer=True, least=1.0)
    shifts = checked(delta, "delta", where)
    scales = []
    for scale, name in ((s_p, "s_p"), (s_q, "s_q")):
        scales.append(checked(scale, name, where))
        if (scales[-1] == 0.0).any():
            raise InputError(f"{where}: {name}=0; a standard deviation is positive (nothing random can be accepted)")
    together = np.broadcast_arrays(dims, shifts, *scales, counts)
    found = np.empty(together[0].shape)
    flat = found.reshape(-1)
    for i, (dimension, shift, target, draft, count) in enumerate(zip(*(x.ravel() for x in together), strict=True)):
        # Products of differences: the difference of squares would lose digits where the scales nearly agree.
        r = (draft - target) * (draft + target) / target**2
        flat[i] = unequal_optimum(LogRatio(int(dimension), shift / target, r), int(count))[which]
    return float(found) if found.ndim == 0 else found


@njit(cache=True, nogil=True)
def _accepted(delta: float, n: float) -> float:
    return optimum(delta, n)[0]


@njit(cache=True, nogil=True)
def _rejected(delta: float, n: float) -> float:
    return optimum(delta, n)[1]


@njit(cache=True, nogil=True)
def _log_rejected(delta: float, n: float) -> float:
    return optimum(delta, n)[2]


@njit(cache=True, nogil=True)
def _recursive(delta: float, n: float) -> float:
    return 1.0 if delta == 0.0 else capped(recursive_cap(delta, int(n)), delta)[0]


@njit(cache=True, nogil=True)
def _ceiling(delta: float, n: float) -> float:
    return 1.0 if delta == 0.0 else capped(n - 1.0, delta)[0]
