"""Arguments of the Python functions in every type that people hold numbers in: the right number, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds import InputError, acceptance_rate, optimal_acceptance, to_probs
from mdsd_bounds.dumps import Dump, Facts
from mdsd_bounds.verifiers.optimal import prepare

P, Q = [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]
DOUBLE = torch.tensor(P, dtype=torch.float64)

GOOD: dict[str, Any] = {
    "list": P,
    "tuple": tuple(P),
    "backwards": np.array(P[::-1])[::-1],
    "other byte order": np.array(P, ">f8"),
    "read only": np.broadcast_to(np.array(P), (3,)),
    "gradient": torch.tensor(P, dtype=torch.float64, requires_grad=True),
    "not contiguous": torch.stack([DOUBLE, DOUBLE], 1)[:, 0],
}
BAD: dict[str, Any] = {
    "sparse": DOUBLE.to_sparse(),
    "meta": torch.empty(3, device="meta"),
    "masked": np.ma.array(P, mask=[0, 0, 1]),
    "gradients in a list": [torch.tensor(P, requires_grad=True)],
    "complex": DOUBLE + 0j,
    "texts": ["0.5", "0.3", "0.2"],
    "long double": np.array(P, np.longdouble),
    "empty": torch.empty(0, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", GOOD)
def test_numbers_in_any_plain_type(kind: str) -> None:
    q = torch.tensor(Q, dtype=torch.float64)
    assert float(optimal_acceptance(GOOD[kind], q, 1, "with_replacement").value.detach()) == pytest.approx(0.7)
    assert float(acceptance_rate(GOOD[kind], q, 1, "with_replacement", "rrs").value.detach()) == pytest.approx(0.7)
    assert float(prepare(GOOD[kind], q, 1, "with_replacement").acceptance) == pytest.approx(0.7)
    assert to_probs(GOOD[kind]).tolist() == pytest.approx((np.exp(P) / np.exp(P).sum()).tolist())


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_plain_array_is_an_input_error(kind: str) -> None:
    for ask in (
        lambda: optimal_acceptance(BAD[kind], Q, 1),
        lambda: acceptance_rate(BAD[kind], Q, 1),
        lambda: prepare(BAD[kind], DOUBLE, 1, "with_replacement"),
        lambda: to_probs(BAD[kind]),
    ):
        with pytest.raises(InputError):
            ask()


@pytest.mark.parametrize("n", [np.int64(2), np.float32(2), torch.tensor(2), np.array(2), 2.0])
def test_numbers_of_drafts_in_any_type(n: Any) -> None:
    assert float(optimal_acceptance(P, Q, n, "with_replacement").value) == pytest.approx(0.9375)
    assert float(prepare(DOUBLE, Q, n, "with_replacement").acceptance) == pytest.approx(0.9375)


@pytest.mark.parametrize(
    "n", [np.True_, torch.tensor(True), b"2", "2", {1: 2}, torch.tensor(2, device="meta"), None, 10**30, [[1]]]
)
def test_what_is_no_number_of_drafts(n: Any) -> None:
    for ask in (
        lambda: optimal_acceptance(P, Q, n, "with_replacement"),
        lambda: acceptance_rate(P, Q, n, "with_replacement", "rrs"),
        lambda: prepare(DOUBLE, Q, n, "with_replacement"),
    ):
        with pytest.raises(InputError):
            ask()


@pytest.mark.parametrize(
    "options",
    [{"temperature": x} for x in ("1", None, 1j, torch.tensor([1.0, 2.0]))]
    + [{"top_k": x} for x in ("2", 2.5, float("nan"), float("inf"), True)]
    + [{"top_p": "0.5"}, {"min_p": "0"}, {"out": 1}],
)
def test_options_that_are_no_number(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        to_probs([2.0, 1.0, 0.0], **options)
    assert to_probs([2.0, 1.0, 0.0], top_k=2.0).tolist() == to_probs([2.0, 1.0, 0.0], top_k=2).tolist()


@pytest.mark.parametrize("given", [4, 4.0, np.int8(4), np.uint8(4), torch.tensor(4), np.array(4)])
def test_rows_asked_for_in_any_type(given: Any) -> None:
    """300 rows: more than integers of eight bits can count to."""
    logits = torch.zeros(300, 2)
    dump = Dump(Facts("x", "native", 300, 2, 2, "float32"), lambda a, b: (logits[a:b], logits[a:b] + 1, {}))
    found = [batch.row.tolist() for batch in dump.batches(given)]
    assert [len(rows) for rows in found] == [4] * 75
    assert [row for rows in found for row in rows] == list(range(300))


@pytest.mark.parametrize("bad", [True, np.True_, "4", 2.5, None, float("nan"), float("inf"), [3], 4j, (0, 3), object()])
def test_what_is_no_number_of_rows(bad: Any) -> None:
    logits = torch.zeros(10, 2)
    dump = Dump(Facts("x", "native", 10, 2, 2, "float32"), lambda a, b: (logits[a:b], logits[a:b] + 1, {}))
    for arguments in ((bad,), (4, bad), (4, 0, bad)):
        if arguments != (4, 0, None):  # to the end
            with pytest.raises(InputError, match="give integers"):
                list(dump.batches(*arguments))
