"""Acceptance of Gaussian steps against high-precision arithmetic, the discrete solvers, and each other."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import ncx2

import mdsd_bounds.diffusion.gaussian
import mdsd_bounds.diffusion.rank_mixture
from mdsd_bounds import InputError, acceptance_rate, optimal_acceptance
from mdsd_bounds.diffusion import gaussian
from mdsd_bounds.diffusion.contour import LogRatio
from mdsd_bounds.diffusion.rank_mixture import best_rank_mixture, rank_mixture_acceptance

mpmath = pytest.importorskip("mpmath", reason="high-precision reference")
mp = mpmath.mp.clone()
mp.dps = 50

#: delta: optimum at n = 1, 2, 4, 8; D-GRS at n = 2, 4, 8.
TABLE = {
    0.5: (0.802587, 0.970496, 0.999178, 0.999995, 0.868211, 0.918188, 0.952143),
    1.0: (0.617075, 0.792022, 0.924197, 0.981710, 0.713605, 0.797811, 0.864336),
    2.0: (0.317311, 0.426188, 0.546374, 0.667341, 0.404372, 0.496821, 0.588381),
    3.0: (0.133614, 0.183877, 0.245280, 0.317112, 0.179960, 0.235382, 0.298711),
    4.0: (0.045500, 0.063407, 0.086470, 0.115396, 0.062948, 0.085247, 0.112941),
}


def upper(x):
    return mp.erfc(x / mp.sqrt(2)) / 2


def exact(delta: float, n: int):
    """``(alpha*, 1 - alpha*)`` by bisection on the derivative, everything in 50 digits (more where tails are tiny)."""
    with mp.workdps(50):
        delta = mp.mpf(delta)
        if n == 1:
            rejected = mp.erf(delta / (2 * mp.sqrt(2)))
            return mp.erfc(delta / (2 * mp.sqrt(2))), rejected
        top = mp.log(n) / delta + delta / 2

        def f(t):
            return delta * t - delta**2 / 2 - mp.log(n) - (n - 1) * mp.log1p(-upper(t))

        low = top
        # The larger root lies right of the minimum of f, where the derivative is positive.
        high, width = top, mp.mpf(1) / 64
        while f(low) > 0:
            high, low = low, low - width
        for _ in range(180):
            middle = (low + high) / 2
            low, high = (middle, high) if f(middle) < 0 else (low, middle)
        t = (low + high) / 2
        tail = upper(t)
        hit = -mp.expm1(n * mp.log1p(-tail))
        return hit + upper(delta - t), upper(t - delta) - hit


def test_table() -> None:
    for delta, numbers in TABLE.items():
        found = [gaussian.optimal_acceptance(delta, n) for n in (1, 2, 4, 8)]
        found += [gaussian.d_grs(delta, n) for n in (2, 4, 8)]
        assert found == pytest.approx(numbers, abs=1.01e-6)
        assert gaussian.reflection(delta) == found[0]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64, 1_000_000])
def test_optimum_to_its_digits(n: int) -> None:
    for delta in (1e-9, 1e-6, 1e-3, 0.02, 0.03, 0.1, 0.25, 0.4999, 0.51, 1.0, 1.7, 3.0, 5.0, 9.0, 14.0, 22.0, 40.0):
        if n > 1 and delta < 0.02:
            # Far below the smallest double; the logarithm is tested on its own.
            assert gaussian.optimal_acceptance(delta, n) == 1.0
            assert gaussian.optimal_rejection(delta, n) == 0.0
            continue
        accepted, rejected = exact(delta, n)
        assert gaussian.optimal_acceptance(delta, n) == pytest.approx(float(accepted), rel=1e-11, abs=0.0)
        if rejected > 1e-300:
            assert gaussian.optimal_rejection(delta, n) == pytest.approx(float(rejected), rel=1e-10, abs=0.0)
        log = gaussian.optimal_rejection(delta, n, log=True)
        expected = mp.log(rejected) if rejected < 0.5 else mp.log1p(-accepted)
        assert log == pytest.approx(float(expected), rel=1e-10, abs=0.0)


def test_logarithm_where_rejection_underflows() -> None:
    with mp.workdps(400):
        delta, n = mp.mpf(0.05), 8
        t = mp.log(n) / delta + delta / 2
        expected = mp.log(mp.erfc((t - delta) / mp.sqrt(2)) / 2 - n * mp.erfc(t / mp.sqrt(2)) / 2)
    assert gaussian.optimal_rejection(0.05, 8, log=True) == pytest.approx(float(expected), rel=1e-12)
    for delta in (1e-9, 1e-12):
        log = gaussian.optimal_rejection(delta, 2, log=True)
        assert math.isfinite(log)
        assert log == pytest.approx(-0.5 * (math.log(2) / delta) ** 2, rel=1e-6)


def test_recursive_rejection_to_its_digits() -> None:
    for delta in (1e-9, 1e-3, 0.3, 1.0, 6.0, 40.0):
        tau = left = mp.mpf(0)
        for n in range(1, 9):
            strike = mp.mpf(1) if n == 1 else tau + left
            tau, x = strike, mp.log(strike) / delta + mp.mpf(delta) / 2
            left = upper(x - delta) - tau * upper(x)
            accepted = upper(delta - x) + tau * upper(x)
            assert gaussian.d_grs(delta, n) == pytest.approx(float(accepted), rel=1e-11, abs=0.0)
    # A million rounds against the same recursion in numpy, and never above the optimum.
    tau, delta = 0.0, 1.0
    for _ in range(2_000):
        x = math.log(tau) / delta + 0.5 if tau > 0 else -math.inf
        tau += ndtr(delta - x) - tau * ndtr(-x)
    x = math.log(tau) / delta + 0.5
    assert gaussian.d_grs(1.0, 2_000) == pytest.approx(1.0 - ndtr(delta - x) + tau * ndtr(-x), abs=1e-12)
    assert gaussian.d_grs(1.0, 2_000) < gaussian.d_grs(1.0, 1_000_000) < gaussian.optimal_acceptance(1.0, 1_000_000)


def discrete(delta: float, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """p and q on bins of the line, half of them of equal mass under either."""
    levels = np.arange(1, bins // 2) / (bins // 2)
    edges = np.unique(np.concatenate([ndtri(levels), delta + ndtri(levels)]))
    return tuple(np.diff(ndtr(edges - m), prepend=0.0, append=1.0) for m in (delta, 0.0))


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_discrete_solver_agrees(delta: float) -> None:
    p, q = discrete(delta, 20_000)
    bound = optimal_acceptance(p[None] / p.sum(), q[None] / q.sum(), n_drafts=(1, 2, 4, 16), sampler="with_replacement")
    for value, n in zip(bound.value[:, 0].tolist(), (1, 2, 4, 16), strict=True):
        assert value == pytest.approx(gaussian.optimal_acceptance(delta, n), abs=1e-6)


def test_recursive_rejection_is_rrs() -> None:
    for delta, n in ((1.0, 2), (1.0, 4), (2.5, 3)):
        p, q = (torch.tensor(x / x.sum())[None] for x in discrete(delta, 2_000))
        rate = acceptance_rate(p, q, n_drafts=n, sampler="with_replacement", verifier="rrs")
        assert float(rate.value) == pytest.approx(gaussian.d_grs(delta, n), abs=1e-4)


def test_order_of_rules() -> None:
    deltas = np.geomspace(0.05, 8.0, 25)
    for n in (2, 3, 8):
        best = gaussian.optimal_acceptance(deltas, n)
        assert best.shape == deltas.shape
        assert (gaussian.reflection(deltas) < gaussian.d_grs(deltas, n)).all()
        assert (gaussian.d_grs(deltas, n) < best).all()
        assert (best <= gaussian.joint_ceiling(deltas, n)).all()
    assert gaussian.joint_ceiling(1.3, 1) == pytest.approx(gaussian.optimal_acceptance(1.3, 1), abs=1e-15)


@pytest.mark.parametrize("delta", [3.0, 5.0, 8.0, 12.0])
def test_rank_mixtures_of_far_shifts_stay_below_the_optimum(delta: float) -> None:
    assert rank_mixture_acceptance(delta, [1.0]) == pytest.approx(gaussian.reflection(delta), rel=3e-6)
    for weights in ([1.0, 0.0], [0.9, 0.1], [1.0] + [0.0] * 6):
        assert rank_mixture_acceptance(delta, weights) <= gaussian.optimal_acceptance(delta, len(weights)) * (1 + 3e-6)


def test_rank_mixtures() -> None:
    for delta, n, value in ((0.5, 2, 0.9406), (0.5, 4, 0.9772), (1, 2, 0.7903), (1, 4, 0.8959), (2, 2, 0.4262)):
        mixture = best_rank_mixture(delta, n)
        assert mixture.acceptance == pytest.approx(value, abs=5e-5)
        assert mixture.acceptance <= mixture.high + 1e-12
        assert mixture.acceptance <= gaussian.optimal_acceptance(delta, n) + 1e-9
    # No weights on a grid beat the programme.
    best = best_rank_mixture(0.7, 2)
    grid = [rank_mixture_acceptance(0.7, [x, 1.0 - x]) for x in np.linspace(0.0, 1.0, 41)]
    assert max(grid) <= best.high
    assert max(grid) == pytest.approx(best.acceptance, abs=1e-3)


def ball_1d(delta: float, s_p: float, s_q: float, n: int):
    """``(alpha*, 1 - alpha*)`` in one dimension: H is where a quadratic is below c; scan and refine in 60 digits."""
    with mp.workdps(60):
        delta, s_p, s_q = (mp.mpf(x) for x in (delta, s_p, s_q))
        beta = 1 / s_p**2 - 1 / s_q**2
        centre = delta / s_p**2 / beta  # m_q = 0, m_p = delta

        def masses(radius):
            def ball(mean, scale):
                return upper((centre - radius - mean) / scale) - upper((centre + radius - mean) / scale)

            inside = ball(delta, s_p), ball(mp.mpf(0), s_q)
            return inside if beta < 0 else (1 - inside[0], 1 - inside[1])

        def loss(radius):
            p, q = masses(radius)
            return q**n - p

        # Radii whose nearer boundary lies on a grid around the means, since the centre may be very far away.
        grid = [mp.mpf(k) / 8 for k in range(-80, 81)]
        places = sorted({abs(centre - x) for x in grid})
        k = max(range(len(places)), key=lambda i: loss(places[i]))
        low, high = places[max(k - 1, 0)], places[min(k + 1, len(places) - 1)]
        golden = (mp.sqrt(5) - 1) / 2
        for _ in range(110):
            a, b = high - golden * (high - low), low + golden * (high - low)
            low, high = (low, b) if loss(a) > loss(b) else (a, high)
        worst = loss((low + high) / 2)
        return 1 - worst, worst


@pytest.mark.parametrize("s_q", [1.3, 0.7, 1.01, 1.0 + 1e-7, 1.0 - 1e-9, 2.5])
def test_unequal_variances_in_one_dimension(s_q: float) -> None:
    for delta, n in ((0.3, 1), (1.0, 2), (4.0, 3), (2.0, 100)):
        accepted, rejected = ball_1d(delta, 1.0, s_q, n)
        if rejected < 1e-25:
            continue
        found = gaussian.optimal_acceptance_ball(1, delta, 1.0, s_q, n)
        assert found == pytest.approx(float(accepted), rel=1e-9, abs=0.0)
        found = gaussian.optimal_rejection_ball(1, delta, 1.0, s_q, n)
        assert found == pytest.approx(float(rejected), rel=1e-9, abs=0.0)


def test_unequal_variances_against_chi_square_tables() -> None:
    for d, delta, s_p, s_q in ((10, 1.0, 1.0, 1.1), (100, 1.0, 1.0, 1.05), (50, 2.0, 1.2, 1.0), (2, 0.5, 2.0, 1.0)):
        beta = 1 / s_p**2 - 1 / s_q**2
        near, far = delta / (s_q**2 * abs(beta)), delta / (s_p**2 * abs(beta))
        radii = np.linspace(0.0, far + 20 * max(s_p, s_q) * math.sqrt(d), 200_001)
        p = ncx2.cdf((radii / s_p) ** 2, d, (near / s_p) ** 2)
        q = ncx2.cdf((radii / s_q) ** 2, d, (far / s_q) ** 2)
        assert np.isfinite(p).all()
        assert np.isfinite(q).all()
        if s_p < s_q:
            p, q = 1 - p, 1 - q
        for n in (1, 2, 4):
            expected = 1.0 + (p - q**n).min()
            assert gaussian.optimal_acceptance_ball(d, delta, s_p, s_q, n) == pytest.approx(expected, abs=1e-7)


def test_known_values_of_unequal_variances() -> None:
    known = {
        (1, 1.0, 1.0, 1.3): (0.65034, 0.88488, 1.0),
        (10, 1.0, 1.0, 1.1): (0.60341, 0.79481, 0.94773),
        (100, 1.0, 1.0, 1.05): (0.55052, 0.72254, 0.87588),
    }
    for setting, values in known.items():
        assert gaussian.optimal_acceptance_ball(*setting, (1, 2, 4)) == pytest.approx(values, abs=1e-5)
    # The ratio's least upper bound decides where the optimum is exactly one.
    bound = 1.3 * math.exp(1.0 / (2 * (1.3**2 - 1.0)))
    assert 2 < bound < 4
    assert gaussian.optimal_rejection_ball(1, 1.0, 1.0, 1.3, math.ceil(bound)) == 0.0


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-9, -1e-13, -1e-9])
def test_nearly_equal_variances_meet_the_equal_case(gap: float) -> None:
    for d in (1, 1_000_000):
        for delta, n in ((1e-9, 1), (0.02, 2), (0.25, 2), (1.0, 4), (5.0, 1_000_000), (40.0, 3)):
            found = gaussian.optimal_rejection_ball(d, delta, 1.0, 1.0 + gap, n)
            # At delta = 0.02 a rejection of 1e-266 answers to changes of 1e-15 in the variance.
            if gap == 0.0 or (delta != 0.02 and d * abs(gap) < 1e-11 * delta):
                assert found == pytest.approx(gaussian.optimal_rejection(delta, n), rel=1e-9, abs=0.0)
            accepted = gaussian.optimal_acceptance_ball(d, delta, 1.0, 1.0 + gap, n)
            assert 0.0 < accepted <= 1.0
            assert 0.0 <= found <= 1.0


def test_log_ratio_tails_sum_to_one() -> None:
    for ratio in (LogRatio(1, 1.0, 0.7), LogRatio(3, 0.2, -0.4), LogRatio(200, 2.0, 0.02), LogRatio(5, 1.0, 0.0)):
        for tau in (-3.0, -0.4, 0.0, 0.1, 1.0):
            below, above = ratio.q_tails(tau)
            within, left = ratio.capped(tau)
            assert below + above == pytest.approx(1.0, abs=1e-14)
            assert within + left == pytest.approx(1.0, abs=1e-14)
            # E min(w, c) = P(w <= c) + c Q(w > c).
            assert within == pytest.approx(ratio.p_tails(tau)[0] + math.exp(tau) * above, abs=1e-12)


def test_bad_input_is_one_line() -> None:
    nan = float("nan")
    for delta, n in ((-1.0, 2), (nan, 2), (math.inf, 1), (1.0, 0), (1.0, -3), (1.0, 1.5), ("x", 1), (None, 1)):
        for call in (gaussian.optimal_acceptance, gaussian.d_grs, gaussian.joint_ceiling, gaussian.optimal_rejection):
            with pytest.raises(InputError) as error:
                call(delta, n)
            assert "\n" not in str(error.value)
    for bad in ((0, 1.0, 1.0, 1.0, 1), (1, -1.0, 1.0, 1.0, 1), (1, 1.0, 0.0, 1.0, 1), (1, 1.0, 1.0, -2.0, 1)):
        with pytest.raises(InputError):
            gaussian.optimal_acceptance_ball(*bad)
    with pytest.raises(InputError, match="sum to one"):
        rank_mixture_acceptance(1.0, [0.5, 0.6])
    with pytest.raises(InputError, match="at most 64"):
        best_rank_mixture(1.0, 65)


def test_limits() -> None:
    assert gaussian.optimal_acceptance(0.0, 5) == gaussian.d_grs(0.0, 5) == gaussian.joint_ceiling(0.0, 2) == 1.0
    for delta in (1e-12, 60.0, 200.0):
        for n in (1, 2, 1_000_000):
            for value in (gaussian.optimal_acceptance(delta, n), gaussian.d_grs(delta, min(n, 1_000))):
                assert 0.0 <= value <= 1.0
    assert isinstance(gaussian.optimal_acceptance(1.0, 2), float)
    assert gaussian.optimal_acceptance(np.ones((2, 1)), np.array([1, 2, 3])).shape == (2, 3)


@pytest.mark.parametrize("module", [mdsd_bounds.diffusion.gaussian, mdsd_bounds.diffusion.rank_mixture])
def test_examples(module) -> None:
    assert doctest.testmod(module).failed == 0
