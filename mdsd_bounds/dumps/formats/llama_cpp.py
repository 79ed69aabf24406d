"""llama.cpp base files (``llama-perplexity --kl-divergence-base FILE``): one model, 16-bit log-probabilities.

Layout, little-endian: ``_logits_``; int32 n_ctx, n_vocab, n_chunk; int32 ids[n_chunk * n_ctx]; then for each chunk
``n_ctx - 1 - n_ctx/2`` rows of float32 scale, float32 min_log_prob, uint16 code[n_vocab], padded to an even number.
``log p = min_log_prob + scale * code``; row r is the distribution of the chunk's token ``n_ctx/2 + 1 + r``.

Code 0 is no value but a floor: "at or below min_log_prob", at least 16 nats under the most probable token unless the
row's whole range is smaller.  Such tokens are read as unknown, their mass as an interval.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.dumps.containers.files import beginning, open_file, read_bytes
from mdsd_bounds.dumps.single_model import Side
from mdsd_bounds.problem import InputError

MAGIC = b"_logits_"
#: Codes are rounded to nearest in float32, so a code is half a step off, and a little more.
_HALF = 0.51
#: Rounding of the float32 arithmetic that made scale and min_log_prob.
_FLOAT = 4e-6


def rows_per_chunk(n_ctx: int) -> int:
    """Rows that llama.cpp stores of a chunk of n_ctx tokens: the second half, less the last."""
    return n_ctx - 1 - n_ctx // 2


def open_llama_cpp(path: Path) -> Side:
    """Open a base file; the size is checked against the header first.

    Raises
    ------
    InputError
        On a wrong magic, an impossible header, or a size that is not the header's.
    """
    file = open_file(path)
    head = beginning(path, 20)
    if len(head) < 20 or not head.startswith(MAGIC):
        raise InputError(f"{path}: no llama.cpp base file (it does not begin with {MAGIC.decode()})")
    n_ctx, n_vocab, n_chunk = struct.unpack("<3i", head[8:])
    if n_ctx < 3 or n_vocab < 1 or n_chunk < 1:
        raise InputError(f"{path}: header n_ctx={n_ctx}, n_vocab={n_vocab}, n_chunk={n_chunk} is impossible")
    words = 2 * ((n_vocab + 1) // 2) + 4
    rows_at = 20 + 4 * n_ctx * n_chunk
    per_chunk = rows_per_chunk(n_ctx)
    expected, found = rows_at + n_chunk * per_chunk * words * 2, file.size
    if found != expected:
        whole = max(0, found - rows_at) // (per_chunk * words * 2)
        raise InputError(
            f"{path}: {found} bytes, but its header asks for {expected} ({whole} of {n_chunk} chunks are whole); "
            "let llama-perplexity finish, or fetch the file again"
        )
    ids = np.frombuffer(read_bytes(file, 20, rows_at - 20), "<i4").reshape(n_chunk, n_ctx)
    first = n_ctx // 2 + 1
    columns = {
        "doc": torch.arange(n_chunk).repeat_interleave(per_chunk),
        "position": torch.arange(first, n_ctx).repeat(n_chunk),
        "token": torch.from_numpy(ids[:, first:].astype(np.int64).reshape(-1)),
    }

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        codes = read_bytes(file, rows_at + start * words * 2, (stop - start) * words * 2)
        return decode(np.frombuffer(codes, "<u2").reshape(stop - start, words), n_vocab, str(path), start)

    return Side(
        str(path),
        "llama.cpp",
        n_chunk * per_chunk,
        n_vocab,
        "uint16",
        read,
        columns,
        kind="logprobs",
        support="floored",
        shift="same",
        bytes=found,
        notes={"chunks": f"{n_chunk} of {n_ctx} tokens"},
    )


def decode(rows: np.ndarray, n_vocab: int, path: str, first_row: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[B, V]`` float64, ``-inf`` at the floor, and the cut columns ``[B, 4]``.

    The floored mass is at most what the stored mass leaves of one, and at most the number of floored tokens times the
    floor; each stored logarithm is within half a step.

    Raises
    ------
    InputError
        If a row's stored mass is impossible.
    """
    head = np.ascontiguousarray(rows[:, :4]).view("<f4").astype(np.float64)
    scale, least = torch.from_numpy(head[:, 0]), torch.from_numpy(head[:, 1])
    code = torch.from_numpy(rows[:, 4 : 4 + n_vocab].astype(np.float64))
    # A constant row has scale 0 and codes 0, and then min_log_prob is every token's value.
    known = (code > 0) | (scale == 0)[:, None]
    logprobs = torch.where(known, least[:, None] + scale[:, None] * code, torch.full_like(code, -float("inf")))
    slack = _HALF * scale + _FLOAT
    cap = least + slack
    floored = (~known).sum(-1)
    total = logprobs.exp().sum(-1)
    low = (1.0 - total * slack.exp()).clamp(min=0.0)
    left = 1.0 - total * (-slack).exp()
    high = torch.minimum(left, floored * cap.exp())
    bad = ~(torch.isfinite(total) & (scale >= 0) & (left >= -1e-3) & (low <= floored * cap.exp() + 1e-3))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InputError(
            f"{path} row {first_row + row}: stored probabilities sum to {float(total[row]):.6g} with "
            f"{int(floored[row])} tokens at the floor, which no distribution does; the file is corrupt"
        )
    high = high.clamp(min=0.0)
    return logprobs, torch.stack([torch.minimum(low, high), high, cap, slack], -1)


def encode(logits: Tensor) -> np.ndarray:
    """Rows of a base file ``[B, 4 + V (even)]`` uint16 from logits ``[B, V]``; float32 arithmetic, nearest code."""
    x = logits.detach().to(torch.float32).numpy()
    peak = x.max(-1, keepdims=True)
    least = np.maximum(x.min(-1, keepdims=True), peak - np.float32(16))
    total = np.log(np.exp((x - peak).astype(np.float32)).astype(np.float64).sum(-1, keepdims=True)).astype(np.float32)
    scale = (peak - least) / np.float32(65535)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    steps = np.where(x > least, np.rint(inverse * (x - least)), 0.0)
    rows = np.zeros((x.shape[0], 4 + 2 * ((x.shape[1] + 1) // 2)), "<u2")
    rows[:, :4] = np.concatenate([scale, least - peak - total], -1).astype("<f4").view("<u2")
    rows[:, 4 : 4 + x.shape[1]] = steps.astype("<u2")
    return rows


def write_header(stream: BinaryIO, ids: np.ndarray, n_vocab: int) -> None:
    """Magic, header and token ids ``[n_chunk, n_ctx]``; the rows follow in order."""
    stream.write(MAGIC + struct.pack("<3i", ids.shape[1], n_vocab, ids.shape[0]))
    stream.write(np.ascontiguousarray(ids, "<i4").tobytes())


def write_llama_cpp(path: Path, logits: Tensor, ids: Tensor) -> None:
    """Write a base file from logits ``[n_chunk, n_ctx - 1 - n_ctx/2, V]`` and token ids ``[n_chunk, n_ctx]``."""
    with path.open("wb") as stream:
        write_header(stream, ids.numpy(), logits.shape[-1])
        for chunk in logits:
            stream.write(encode(chunk).tobytes())
