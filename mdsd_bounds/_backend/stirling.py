"""Stirling numbers of the second kind, as power series of exponentials need them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.special import stirling2


@cache
def surjections(most: int) -> np.ndarray:
    """``m! S(k, m)`` at ``[k, m]``, k and m from 0 to ``most``; each is rounded once.

    ``(e^x - 1)^m = sum_k m! S(k, m) x^k / k!`` (DLMF 26.8.12).
    """
    k = np.arange(most + 1)
    exact = stirling2(k[:, None], k, exact=True)
    table = np.array([[float(math.factorial(m) * int(exact[j, m])) for m in k] for j in k])
    table.setflags(write=False)
    return table
