"""Whether a folder holds the whole dump of this very run, found out without loading a model.

Everything that identifies a run is held against the folder: settings, versions, prompts, and of both models what
:func:`mdsd_bounds.models.loading.model_identity` reads from their files.  Of a model from a hub the revision is known
only once it is loaded; its name counts.  Where anything differs or cannot be known, the models are loaded and the
writers decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdsd_bounds._backend.whole_files import remove_leftovers
from mdsd_bounds.dumps.formats.native import MANIFEST, read_manifest
from mdsd_bounds.models.array_writer import rows_of
from mdsd_bounds.models.capture_settings import CaptureSettings
from mdsd_bounds.models.chimera import head_identity
from mdsd_bounds.models.drafts import lookup_identity
from mdsd_bounds.models.loading import model_identity
from mdsd_bounds.problem import InputError


def finished_rows(
    out: Path, settings: CaptureSettings, facts: Mapping[str, Any], target: str, draft: str, token_map: str | None
) -> int | None:
    """Rows of a dump that is complete and of this run; None where it is not, or that cannot be told.

    Parameters
    ----------
    out : Path
        Folder of the dump.
    settings : CaptureSettings
        What is stored, and the dtype of the computation.
    facts : mapping
        What identifies the run, without the models.
    target, draft, token_map :
        As :func:`mdsd_bounds.models.capture.log_pair` takes them.
    """
    if token_map not in (None, "intersection"):
        return None
    try:
        held, rows = _logits(out) if settings.store == "logits" else _arrays(out, settings.store, settings.top_k)
        if held is None or not _says(held, facts):
            return None
        same = _says(held.get("target"), _of_model(target, settings.dtype))
        same = same and _says(held.get("draft"), _of_draft(draft, token_map, settings.dtype))
    except (InputError, OSError, ValueError, TypeError):
        return None
    if not same:
        return None
    # What a run killed after its last rename left behind.
    remove_leftovers(out)
    for part in out.glob("rows-*.part"):
        part.unlink(missing_ok=True)
    return rows


def _logits(out: Path) -> tuple[dict[str, Any] | None, int]:
    if not (out / MANIFEST).exists():
        return None, 0
    manifest = read_manifest(out)
    return (manifest.notes if manifest.complete else None), sum(shard.rows for shard in manifest.shards)


def _arrays(out: Path, kind: str, top_k: int) -> tuple[dict[str, Any] | None, int]:
    file = out / "rows.safetensors"
    if not file.exists():
        return None, 0
    held = json.loads((out / "facts.json").read_text())
    same = isinstance(held, dict) and held.get("store") == kind and held.get("top_k", top_k) == top_k
    return (held if same else None), rows_of(file)


def _says(held: Any, known: Mapping[str, Any]) -> bool:
    plain = json.loads(json.dumps(known))
    return isinstance(held, dict) and all(name in held and held[name] == value for name, value in plain.items())


def _of_model(source: str, dtype: str) -> dict[str, Any]:
    return {**model_identity(source), "dtype": dtype}


def _of_draft(source: str, token_map: str | None, dtype: str) -> dict[str, Any]:
    kind, _, rest = source.partition(":")
    if kind == "early-exit":
        return {"source": f"target, first {rest} layers"}
    if kind == "skip-layers":
        return {"source": f"target without layers {rest}"}
    if kind == "prompt-lookup":
        return lookup_identity(rest)
    if kind == "chimera":
        return head_identity(rest)
    return _of_model(source, dtype) | ({} if token_map is None else {"token_map": token_map})
