"""The statements of docs/optimal_verifier.md, each checked by enumeration on small problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from harness import row
from problems import FAMILY, set_distribution
from scipy.optimize import linprog

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.verifiers.optimal.majorant import majorant

SIZE, N = 5, 3


class Sets:
    """Drafted sets of one small problem: masks ``[S, V]``, their mass, and Q of every subset."""

    def __init__(self, seed: int, sampler: str, size: int = SIZE, n: int = N) -> None:
        self.p, self.q, self.n, self.sampler = row(size, seed).numpy(), row(size, seed + 70).numpy(), n, sampler
        probs = set_distribution(torch.from_numpy(self.q)[None], n, sampler, size)
        self.member = np.array([[i in tokens for i in range(size)] for tokens in probs])
        self.mass = np.array(list(probs.values()))
        self.subsets = np.array(list(itertools.product([False, True], repeat=size)))
        self.held = np.array([self.mass[~(self.member & ~subset).any(1)].sum() for subset in self.subsets])

    def in_core(self, r: np.ndarray, slack: float = 1e-12) -> bool:
        return bool(abs(r.sum() - 1) <= 1e-9 and (self.subsets @ r - self.held).min() >= -slack)

    def is_pick_distribution(self, r: np.ndarray) -> bool:
        """Whether some rule picks by r: a transport from drafted sets to tokens, by a linear programme."""
        edges = np.argwhere(self.member)
        leaves = np.zeros((len(self.mass), len(edges)))
        enters = np.zeros((len(r), len(edges)))
        leaves[edges[:, 0], np.arange(len(edges))] = 1
        enters[edges[:, 1], np.arange(len(edges))] = 1
        # At most what is there, as much as possible: equality is asked of the total.
        found = linprog(
            -np.ones(len(edges)), np.vstack([leaves, enters]), np.concatenate([self.mass, r]), method="highs"
        )
        return -found.fun >= 1 - 1e-7

    def cut(self) -> np.ndarray:
        """The smallest minimiser H* of P - Q."""
        values = self.subsets @ self.p - self.held
        best = np.flatnonzero(values <= values.min() + 1e-12)
        return self.subsets[best[self.subsets[best].sum(1).argmin()]]

    def race(self, theta: np.ndarray, left: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Phi of both sides, its gradient and its Hessian."""
        active = np.where((self.member & ~left).any(1)[:, None], self.member & ~left, self.member)
        weight = np.where(active, np.exp(theta), 0.0)
        total = weight.sum(1, keepdims=True)
        chance = weight / total
        probs = self.mass @ chance
        second = np.diag(probs) - (chance * self.mass[:, None]).T @ chance
        return float(self.mass @ np.log(total[:, 0])), probs, second


@pytest.mark.parametrize("sampler", FAMILY)
def test_pick_distributions_are_the_core(sampler: str) -> None:
    # Section 1: r is the distribution of a pick if and only if r(H) >= Q(H) for all H.
    generator = np.random.default_rng(5)
    verdicts = set()
    for seed in range(4):
        sets = Sets(seed, sampler)
        inside = sets.mass @ (sets.member * generator.dirichlet(np.ones(SIZE)))
        for r in (inside / inside.sum(), sets.p, sets.q, generator.dirichlet(np.ones(SIZE))):
            # Distributions at the edge of the core are left to the tolerance of neither test.
            if abs((sets.subsets @ r - sets.held)[1:-1].min()) > 1e-5:
                assert sets.in_core(r) == sets.is_pick_distribution(r)
                verdicts.add(sets.in_core(r))
    assert sampler == "top_k" or verdicts == {True, False}


@pytest.mark.parametrize("sampler", FAMILY)
def test_majorant_distribution_and_what_every_optimal_distribution_shares(sampler: str) -> None:
    # Section 2: r* is in the core and optimal; r is optimal if and only if r(H*) = Q(H*), r >= p on H*, r <= p off it.
    for seed in range(6):
        sets = Sets(seed, sampler)
        p, q = torch.from_numpy(sets.p), torch.from_numpy(sets.q)
        alpha = float(optimal_acceptance(p, q, N, sampler, method="subsets").value)
        r = majorant(p, q, N, sampler).r
        assert sets.in_core(r, 1e-9)
        assert np.minimum(sets.p, r).sum() == pytest.approx(alpha, abs=1e-9)
        left = sets.cut()
        assert r[left].sum() == pytest.approx(sets.held[(sets.subsets == left).all(1)][0], abs=1e-9)
        assert (r >= sets.p - 1e-9)[left].all()
        assert (r <= sets.p + 1e-9)[~left].all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_core_distributions_with_replacement_are_key_distributions(n: int) -> None:
    # Section 3: r(H) >= q(H)^n for all H is the convex order between r/q under q and n S^(n-1), S uniform.
    generator = np.random.default_rng(n)
    for seed in range(8):
        q = row(SIZE, seed).numpy()
        orders = [generator.permutation(SIZE) for _ in range(3)]
        distributions = []
        for order in orders:
            edge = np.cumsum(q[order]) ** n
            probs = np.empty(SIZE)
            probs[order] = np.diff(edge, prepend=0.0)
            distributions.append(probs)
        r = generator.dirichlet(np.ones(3)) @ np.array(distributions)
        order = np.argsort(r / q)
        share, mass = np.cumsum(q[order]), np.cumsum(r[order])
        t = np.linspace(0, 1, 400)
        assert (np.interp(t, np.append(0, share), np.append(0, mass)) >= t**n - 1e-12).all()


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "top_m_plus"])
def test_phi_is_convex_with_gradient_r(sampler: str) -> None:
    # Section 5: grad Phi = r, Hessian between 0 and 1/2, r(L) = Q(L) whatever the weights.
    generator = np.random.default_rng(1)
    for seed in range(4):
        sets = Sets(seed, sampler)
        left = sets.cut()
        theta = 2 * generator.standard_normal(SIZE)
        _, probs, second = sets.race(theta, left)
        step = 1e-5
        slope = [
            (sets.race(theta + step * e, left)[0] - sets.race(theta - step * e, left)[0]) / (2 * step)
            for e in np.eye(SIZE)
        ]
        np.testing.assert_allclose(slope, probs, atol=1e-8)
        values = np.linalg.eigvalsh(second)
        assert values.min() >= -1e-12
        assert values.max() <= 0.5
        assert probs[left].sum() == pytest.approx(sets.held[(sets.subsets == left).all(1)][0], abs=1e-14)


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "top_m_plus"])
def test_projected_gradient_closes_the_gap_and_certifies_it(sampler: str) -> None:
    # Section 5: acceptance = alpha* - sum_L (p - r)_+ - sum_R (r - p)_+ at every iterate, and both sums go to zero.
    for seed in range(2):
        sets = Sets(seed, sampler)
        p, q = torch.from_numpy(sets.p), torch.from_numpy(sets.q)
        alpha = float(optimal_acceptance(p, q, N, sampler, method="subsets").value)
        left = sets.cut()
        base = np.clip(np.log(sets.p / sets.q), -2, 2)
        shift, gaps, values = np.zeros(SIZE), [], []
        for _ in range(500):
            value, probs, _ = sets.race(base + shift, left)
            lost = np.maximum(sets.p - probs, 0)[left].sum() + np.maximum(probs - sets.p, 0)[~left].sum()
            assert np.minimum(sets.p, probs).sum() == pytest.approx(alpha - lost, abs=1e-12)
            gaps.append(lost)
            values.append(value - sets.p @ shift)
            moved = shift + 2.0 * (sets.p - probs)
            shift = np.where(left, np.maximum(moved, 0.0), np.minimum(moved, 0.0))
        assert (np.diff(values) <= 1e-14).all()
        assert gaps[-1] <= 0.2 * gaps[0] + 1e-9
        # The lower bound of the objective: r* . b.
        assert min(values) >= majorant(p, q, N, sampler).r @ base - 1e-12
