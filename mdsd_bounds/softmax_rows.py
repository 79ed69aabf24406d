"""Softmax of rows of logits, from any float dtype straight to float64: two passes over the logits, in strips.

The exponential is ``2^k`` times a polynomial: with ``t = x log2(e)`` and k its nearest whole number,
``r = x - k ln 2`` lies in ``[-0.3466, 0.3466]``, where the Taylor sum up to ``r^13 / 13!`` is off by less than 5e-18.
All steps are arithmetic on whole strips, so they run in vector registers.  Given the exponent, rounded as
``(x - max) / T``, every entry is within a few units in the last place; that rounding itself is magnified by the size of
the exponent, as in every softmax.  Below the smallest normal number an entry rounds once more.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds.compiled import STEP, STRIP, SUMS

#: What rows are given as: numbers, or the bits of float16 or bfloat16.
NUMBERS, HALF, BFLOAT = 0, 1, 2

LOG2_E = 1.4426950408889634
#: ln 2 in two parts: the first with its last 21 bits empty, so that its multiples by k are exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: Adding it rounds to a whole number, which then stands in the last bits.
ROUND = 6755399441055744.0
#: 2^k of the smallest k that the exponent's bits can hold; what is left over is a second factor.
LEAST = -1022.0
#: exp of anything less is zero in float64.
NOTHING = -760.0
_BIAS = np.int64(1023)


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_rows(x, kind, temperature, first, last, law, sound):  # type: ignore[no-untyped-def]
    """Rows ``first`` to ``last`` of logits ``x`` ``[B, V]`` into ``law`` ``[B, V]`` float64.

    ``x`` is float32 or float64 (:data:`NUMBERS`), or uint16, the bits of float16 (:data:`HALF`) or bfloat16
    (:data:`BFLOAT`).  ``sound[b]`` is False where a row has NaN or +inf, or nothing but -inf; the row is then left as
    it is.
    """
    strip, word = np.empty(STRIP), np.empty(STRIP, np.uint32)
    power, rest = np.empty(STRIP), np.empty(STRIP)
    for b in range(first, last):
        peak, bad = -np.inf, 0
        for start in range(0, x.shape[1], STRIP):
            part = strip[: min(STRIP, x.shape[1] - start)]
            _load(x[b, start : start + STRIP], kind, word, part)
            peak, bad = max(peak, _largest(part)), bad + _count_nan(part)
        sound[b] = bad == 0 and np.isfinite(peak)
        if not sound[b]:
            continue
        total = 0.0
        for start in range(0, x.shape[1], STRIP):
            out = law[b, start : start + STRIP]
            _load(x[b, start : start + STRIP], kind, word, out)
            _exponentials(out, peak, temperature, power, rest)
            total += _sum(out)
        _scale(law[b], 1.0 / total)


@njit(**STEP)
def _load(x, kind, word, out):  # type: ignore[no-untyped-def]
    """A strip of logits as float64."""
    if kind == NUMBERS:
        for i in range(out.shape[0]):
            out[i] = x[i]
        return
    number = word.view(np.float32)
    if kind == BFLOAT:
        for i in range(out.shape[0]):
            word[i] = np.uint32(x[i]) << np.uint32(16)
        for i in range(out.shape[0]):
            out[i] = number[i]
        return
    # Exponent and fraction at float32's places, then 2^112 for the difference of the biases: subnormals come out right
    # too.  Infinities and NaN have all bits of the exponent set and get all of float32's.
    for i in range(out.shape[0]):
        value = np.uint32(x[i])
        special = np.uint32(0x70000000) if (value & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
        sign = (value & np.uint32(0x8000)) << np.uint32(16)
        word[i] = sign | ((value & np.uint32(0x7FFF)) << np.uint32(13)) | special
    for i in range(out.shape[0]):
        out[i] = np.float64(number[i]) * 5.192296858534828e33


# The answer for a strip with NaN is not used: reordering needs the promise that there is none.
@njit(**STEP, fastmath=SUMS | {"nnan"})
def _largest(x):  # type: ignore[no-untyped-def]
    peak = x[0]
    for i in range(x.shape[0]):
        peak = x[i] if x[i] > peak else peak
    return peak


@njit(**STEP)
def _count_nan(x):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(x.shape[0]):
        count += x[i] != x[i]
    return count


# Adding and taking away ``ROUND`` must not be reordered; products and sums may be contracted.
@njit(**STEP, fastmath={"contract", "nsz"})
def _exponentials(x, peak, temperature, power, rest):  # type: ignore[no-untyped-def]
    """``x <- exp((x - peak) / temperature)``."""
    size = x.shape[0]
    if temperature == 1.0:
        for i in range(size):
            x[i] = max(x[i] - peak, NOTHING)
    else:
        # Divide the difference, not the logits: at T = 1e-6 the quotient of the logits themselves would lose digits.
        for i in range(size):
            x[i] = max((x[i] - peak) / temperature, NOTHING)
    for i in range(size):
        k = x[i] * LOG2_E + ROUND
        k -= ROUND
        r = (x[i] - k * LN2_HIGH) - k * LN2_LOW
        whole = max(k, LEAST)
        power[i] = whole + ROUND
        rest[i] = (k - whole) + ROUND
        value = 1.0 / 6227020800.0
        value = value * r + 1.0 / 479001600.0
        value = value * r + 1.0 / 39916800.0
        value = value * r + 1.0 / 3628800.0
        value = value * r + 1.0 / 362880.0
        value = value * r + 1.0 / 40320.0
        value = value * r + 1.0 / 5040.0
        value = value * r + 1.0 / 720.0
        value = value * r + 1.0 / 120.0
        value = value * r + 1.0 / 24.0
        value = value * r + 1.0 / 6.0
        value = value * r + 0.5
        value = value * r + 1.0
        x[i] = value * r + 1.0
    bits, more = power.view(np.int64), rest.view(np.int64)
    for i in range(size):
        bits[i] = (bits[i] + _BIAS) << 52
        more[i] = (more[i] + _BIAS) << 52
    for i in range(size):
        x[i] = (x[i] * power[i]) * rest[i]


@njit(**STEP, fastmath=SUMS)
def _sum(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i]
    return total


@njit(**STEP)
def _scale(x, factor):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        x[i] *= factor
