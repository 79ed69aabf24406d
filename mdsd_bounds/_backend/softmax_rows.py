"""Softmax of rows of logits, from any float dtype straight to float64: two passes over the logits, in strips.

The exponential is ``2^k`` times a polynomial: with ``t = x log2(e)`` and k its nearest integer,
``r = x - k ln 2`` lies in ``[-0.3466, 0.3466]``, where the Taylor sum up to ``r^13 / 13!`` is off by less than 5e-18.
All steps are arithmetic on whole strips, so they run in vector registers.  Given the exponent, rounded as
``(x - max) / T``, every exponential is within a few units in the last place, and every entry of a distribution within
twenty, since its sum rounds as well; the rounding of the exponent itself is magnified by its size, as in every softmax.
 Below the smallest normal number an entry rounds once more.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, STRIP, SUMS
from mdsd_bounds._backend.row_sums import BLOCK

#: What rows are given as: numbers, or the bits of float16 or bfloat16.
NUMBERS, HALF, BFLOAT = 0, 1, 2

#: Rows of bits: the exponents of infinity and NaN.
_HALF_INF, _BFLOAT_INF = np.int16(0x7C00), np.int16(0x7F80)
_MAGNITUDE = np.int16(0x7FFF)

_LOG2_E = 1.4426950408889634
#: ln 2 in two parts: the first with its last 21 bits empty, so that its multiples by k are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: Adding it rounds to an integer, which then stands in the last bits.
ROUND = 6755399441055744.0
#: exp of anything less may be less than the smallest normal number.
SMALL = -708.0
#: exp of anything less is zero in float64.
NOTHING = -760.0
#: 2^k of the smallest k that the exponent's bits can hold; what is left over is a second factor.
LEAST = -1022.0
_BIAS = np.int64(1023)
_FRACTION = np.int64(52)


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_rows(numbers, bits, kind, temperature, probs, mass, sound):  # type: ignore[no-untyped-def]
    """Rows of logits into ``probs`` ``[B, V]`` float64.

    The logits are ``numbers`` ``[B, V]``, float32 or float64, where ``kind`` is :data:`NUMBERS`; else ``bits``
    ``[B, V]`` int16, those of float16 (:data:`HALF`) or bfloat16 (:data:`BFLOAT`).  The other one is not looked at.
    ``sound[b]`` is False where a row has NaN or +inf, or nothing but -inf; the row is then left as it is.  ``mass[b]``
    is the sum of what was written, by blocks as in :mod:`mdsd_bounds._backend.row_sums`.
    """
    best, power, rest = np.empty(STRIP), np.empty(STRIP), np.empty(STRIP)
    for b in range(probs.shape[0]):
        peak, bad = _largest_number(numbers[b], best) if kind == NUMBERS else _largest_bits(bits[b], kind)
        sound[b] = bad == 0 and np.isfinite(peak)
        if not sound[b]:
            continue
        total = 0.0
        for start in range(0, probs.shape[1], STRIP):
            out = probs[b, start : start + STRIP]
            if kind == NUMBERS:
                out[:] = numbers[b, start : start + STRIP]
            else:
                _load(bits[b, start : start + STRIP], kind, out)
            if _exponents(out, peak, temperature):
                _small_exponentials(out, power, rest)
            else:
                _exponentials(out)
            total += _sum(out)
        mass[b] = 0.0
        for start in range(0, probs.shape[1], BLOCK):
            mass[b] += _scale(probs[b, start : start + BLOCK], 1.0 / total)


@njit(**STEP)
def _largest_number(x, best):  # type: ignore[no-untyped-def]
    """The largest of a row of numbers, and how many are NaN."""
    best[:] = -np.inf
    count = 0
    for start in range(0, x.shape[0], STRIP):
        part = x[start : start + STRIP]
        # Entry by entry, and the strip in the end: a maximum over all in turn does not run in vector registers.
        for i in range(part.shape[0]):
            best[i] = part[i] if part[i] > best[i] else best[i]
        for i in range(part.shape[0]):
            count += part[i] != part[i]
    return best.max(), count


@njit(**STEP)
def _largest_bits(x, kind):  # type: ignore[no-untyped-def]
    """The same of a row of float16 or bfloat16 numbers given by their bits."""
    top, worst = np.int16(-32768), np.int16(0)
    for i in range(x.shape[0]):
        # Bits of positive numbers are in their order, those of negative ones in the reverse.
        negative = np.int16(x[i] >> np.int16(15))
        top = max(top, np.int16(x[i] ^ np.int16(negative & _MAGNITUDE)))
        worst = max(worst, np.int16(x[i] & _MAGNITUDE))
    negative = np.int16(top >> np.int16(15))
    largest = np.int16(top ^ np.int16(negative & _MAGNITUDE))
    return _number(largest, kind), int(worst > (_HALF_INF if kind == HALF else _BFLOAT_INF))


@njit(**STEP)
def _load(x, kind, out):  # type: ignore[no-untyped-def]
    """A strip of bits as float64."""
    if kind == BFLOAT:
        for i in range(out.shape[0]):
            out[i] = _number(x[i], BFLOAT)
    else:
        for i in range(out.shape[0]):
            out[i] = _number(x[i], HALF)


@njit(**STEP)
def _number(bits, kind):  # type: ignore[no-untyped-def]
    """What 16 bits stand for, as float64."""
    value = np.uint32(np.uint16(bits))
    if kind == BFLOAT:
        return np.float64(np.uint32(value << np.uint32(16)).view(np.float32))
    # Exponent and fraction at float32's places, then 2^112 for the difference of the biases: subnormals come out right
    # too.  Infinities and NaN have all bits of the exponent set and get all of float32's.
    special = np.uint32(0x70000000) if (value & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
    sign = np.uint32((value & np.uint32(0x8000)) << np.uint32(16))
    word = np.uint32(sign | np.uint32((value & np.uint32(0x7FFF)) << np.uint32(13)) | special)
    return np.float64(word.view(np.float32)) * 5.192296858534828e33


@njit(**STEP)
def _exponents(x, peak, temperature):  # type: ignore[no-untyped-def]
    """``x <- (x - peak) / temperature``; how many are below :data:`SMALL`."""
    if temperature == 1.0:
        for i in range(x.shape[0]):
            x[i] -= peak
    else:
        # Divide the difference, not the logits: at T = 1e-6 the quotient of the logits themselves would lose digits.
        for i in range(x.shape[0]):
            x[i] = (x[i] - peak) / temperature
    count = 0
    for i in range(x.shape[0]):
        count += x[i] < SMALL
    return count


# Adding and taking away ``ROUND`` must not be reordered; products and sums may be contracted.
@njit(**STEP, fastmath={"contract", "nsz"})
def _reduced(x):  # type: ignore[no-untyped-def]
    """k with ``ROUND`` added, and ``exp(x - k ln 2)``."""
    shifted = x * _LOG2_E + ROUND
    k = shifted - ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
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
    return shifted, value * r + 1.0


@njit(**STEP)
def _exponentials(x):  # type: ignore[no-untyped-def]
    """``x <- exp(x)`` for entries of at least :data:`SMALL`: k is added to the exponent's bits."""
    for i in range(x.shape[0]):
        shifted, value = _reduced(x[i])
        bits = np.float64(value).view(np.int64) + (np.float64(shifted).view(np.int64) << _FRACTION)
        x[i] = np.int64(bits).view(np.float64)


@njit(**STEP)
def _small_exponentials(x, power, rest):  # type: ignore[no-untyped-def]
    """``x <- exp(x)`` where the result may be subnormal or zero: two factors, of which the second rounds."""
    for i in range(x.shape[0]):
        shifted, value = _reduced(max(x[i], NOTHING))
        k = shifted - ROUND
        whole = max(k, LEAST)
        power[i], rest[i], x[i] = whole + ROUND, (k - whole) + ROUND, value
    bits, more = power.view(np.int64), rest.view(np.int64)
    for i in range(x.shape[0]):
        bits[i] = (bits[i] + _BIAS) << _FRACTION
        more[i] = (more[i] + _BIAS) << _FRACTION
    for i in range(x.shape[0]):
        x[i] = (x[i] * power[i]) * rest[i]


@njit(**STEP, fastmath=SUMS)
def _sum(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i]
    return total


@njit(**STEP, fastmath=SUMS)
def _scale(x, factor):  # type: ignore[no-untyped-def]
    """``x <- x factor``, and the sum of that."""
    total = 0.0
    for i in range(x.shape[0]):
        value = x[i] * factor
        x[i] = value
        total += value
    return total
