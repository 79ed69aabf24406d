"""Files that can be read in two ways: the rows decide, or a warning says that they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.evidence import evidence
from mdsd_bounds.models.vocabulary import read_map


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generated(folder: Path, size: int, swapped: str, tokens: bool, alike: float = 0.5) -> str:
    """``size`` texts of ``size`` new tokens after two of a prompt; one model's logits with steps before texts."""
    target = rows(size, size, 30)
    draft = target + alike * rows(size, size, 30, seed=1)
    flat = torch.softmax(target.reshape(-1, 30), -1)
    new = torch.multinomial(flat, 1, generator=torch.Generator().manual_seed(2)).reshape(size, size)
    sequences = torch.cat([torch.zeros(size, 2, dtype=torch.int64), new], 1)
    for role, logits in (("target", target), ("draft", draft)):
        held = logits.transpose(0, 1) if role in swapped else logits
        arrays = {"output_logits": held.contiguous()} | ({"sequences": sequences} if tokens else {})
        save_file(arrays, folder / f"{role}.safetensors")
    return f"{folder}/target.safetensors,{folder}/draft.safetensors"


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("swapped", ["target", "draft"])
def test_texts_and_steps_that_changed_places_are_an_error(
    size: int, tokens: bool, swapped: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="changed places; stack the logits"):
        open_dump(generated(tmp_path, size, swapped, tokens))


@pytest.mark.parametrize("tokens", [True, False])
def test_as_many_texts_as_steps_are_read(tokens: bool, tmp_path: Path) -> None:
    dump = open_dump(generated(tmp_path, 6, "", tokens))
    assert len(dump) == 36
    assert not any("texts" in warning for warning in evidence(dump).warnings)


def test_a_warning_where_nothing_tells_texts_from_steps(tmp_path: Path) -> None:
    # Two texts of two tokens have one pair of mirrored places, and models that are nothing alike tell nothing.
    for size, alike in ((2, 0.5), (5, 100.0)):
        dump = open_dump(generated(tmp_path, size, "", False, alike))
        assert any(f"{size} texts of {size} steps" in warning for warning in evidence(dump).warnings)


def mapped(folder: Path, width: int, ids: torch.Tensor, alike: float = 0.5) -> str:
    target = rows(40, width)
    draft = target[:, ids] + alike * rows(40, len(ids), seed=1)
    save_file({"target_logits": target, "draft_logits": draft, "d2t": ids}, folder / "pair.safetensors")
    return str(folder / "pair.safetensors")


def test_ids_in_place_of_offsets_never_repeat(tmp_path: Path) -> None:
    # Every sum of an id and its column is in the vocabulary, and the models differ so much that the rows tell nothing.
    ids = torch.arange(0, 400, 2)
    with pytest.raises(InputError, match="offsets of so many columns repeat"):
        open_dump(mapped(tmp_path, 900, ids, 100.0))
    save_file({"d2t": ids}, tmp_path / "map.safetensors")
    with pytest.raises(InputError, match="offsets of so many columns repeat"):
        read_map(tmp_path / "map.safetensors", 900)
    # A map of every other token: its offsets do not repeat either, and here the rows say that they are offsets.
    target = rows(40, 900)
    draft = target[:, ids] + 0.5 * rows(40, 200, seed=1)
    arrays = {"target_logits": target, "draft_logits": draft, "d2t": ids - torch.arange(200)}
    save_file(arrays, tmp_path / "strided.safetensors")
    assert len(open_dump(tmp_path / "strided.safetensors")) == 40


def test_a_warning_where_nothing_tells_ids_from_offsets(tmp_path: Path) -> None:
    ids = torch.tensor([1, 2, 4, 7, 8, 10, 11, 13, 15, 18, 21, 22])
    with pytest.raises(InputError, match="may hold target ids"):
        open_dump(mapped(tmp_path, 40, ids))
    warnings = evidence(open_dump(mapped(tmp_path, 40, ids, 100.0))).warnings
    assert any("d2t is read as offsets" in warning for warning in warnings)
    target = rows(40, 40)
    sums = ids + torch.arange(12)
    draft = target[:, sums] + 0.5 * rows(40, 12, seed=1)
    save_file({"target_logits": target, "draft_logits": draft, "d2t": ids}, tmp_path / "right.safetensors")
    assert not any("d2t" in warning for warning in evidence(open_dump(tmp_path / "right.safetensors")).warnings)
