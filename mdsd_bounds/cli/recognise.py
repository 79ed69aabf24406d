"""What ``mdsd inspect`` says of a file: what it is, what is missing for which command, and which command comes next.

A dump is described by its facts (:mod:`mdsd_bounds.dumps.inspect`); here is what else people have in their hands: one
model's half of a dump, what an engine counted, logs of verification steps, finished tables, prompts, token maps,
models.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdsd_bounds.dumps.how_to_read import HowToRead

Facts = dict[str, Any]


def after_dump(label: str, facts: Facts) -> Facts:
    """For the facts of a dump: what other commands would need, and what to run."""
    lacking = []
    if any(f"{role}, first row" in facts for role in ("target", "draft")):
        lacking.append(
            "compare, advise and report need full rows, or a cut inside the stored tokens (--top-k, --top-p): without, "
            "bounds alone are known, as intervals"
        )
    if facts.get("documents") == "not recorded":
        lacking.append("doc of each row, without which neighbours count as independent in every interval")
    if "token" not in str(facts.get("columns")):
        lacking.append("the tokens of the text, without which a shift by a row may go unseen")
    return {
        "missing": "; ".join(lacking) or "nothing",
        "next": f"mdsd bounds {shlex.quote(label)} --sampler with_replacement,without_replacement --drafts 1,2,4",
    }


def recognised(path: Path, how: HowToRead) -> tuple[Facts, Facts] | None:
    """Facts of a file that is no dump, and its own notes, or None where it is of no known kind.

    Raises
    ------
    InputError
        If it is of a known kind and damaged.
    """
    from mdsd_bounds.dumps.inspect import notes_beside

    for known in (_model, partial(_one_model, how=how), _steps, _table, _counts, _token_map, _prompts):
        if (found := known(path)) is not None:
            notes = found.pop("notes", {})
            facts = {"path": str(path), **found}
            return facts, notes_beside(facts, notes)
    return None


def _model(path: Path) -> Facts | None:
    from mdsd_bounds.dumps.containers.files import beginning

    name = shlex.quote(str(path))
    if beginning(path, 4) == b"GGUF" or (path.is_dir() and (path / "config.json").is_file()):
        return {
            "recognised as": "a model" + ("" if path.is_dir() else " in GGUF"),
            "missing": "the other model, and prompts",
            "next": f"mdsd log --target {name} --draft DRAFT --prompts PROMPTS.txt --out pair",
        }
    if path.is_file() and path.name == "tokenizer.json":
        return {
            "recognised as": "a tokenizer",
            "missing": "answers of a server that name tokens by text",
            "next": f"mdsd bounds TARGET.json,DRAFT.json --tokenizer {name}",
        }
    return None


def _one_model(path: Path, how: HowToRead) -> Facts | None:
    from mdsd_bounds.dumps import SIDES, open_side
    from mdsd_bounds.dumps.containers.files import opening
    from mdsd_bounds.problem import InputError

    with opening():
        form = next((name for name, (recognise, _) in SIDES.items() if recognise(path)), "")
        if not form:
            return None
        try:
            side = open_side(path, how=how)
        except InputError:
            if form == "arrays":  # any file of arrays looks like it
                return None
            raise
    width = side.width or f"not stated by the file (largest token in it {side.largest})"
    docs = len(set(side.columns["doc"].tolist())) if "doc" in side.columns else "not recorded"
    return {
        "recognised as": f"rows of one model ({side.format})",
        "positions": side.rows,
        "documents": docs,
        "vocabulary": width,
        "kind": side.kind,
        "support": side.support,
        "stage": side.stage,
        "dtype": side.dtype,
        "columns": ", ".join(side.columns) or "none",
        "notes": side.notes,
        "missing": "the other model's rows over the same tokens (ask it for the log-probabilities of the same text)",
        "next": f"mdsd bounds {shlex.quote(f'{path},DRAFT')} (or TARGET,{path} where this is the draft)",
    }


def _steps(path: Path) -> Facts | None:
    from mdsd_bounds.dumps.containers.files import beginning
    from mdsd_bounds.dumps.containers.parquet import MAGIC, open_parquet
    from mdsd_bounds.dumps.containers.records import first_record

    first = first_record(path) if path.is_file() else None
    names = set(first) if isinstance(first, dict) else set()
    if path.is_file() and beginning(path, 4) == MAGIC:
        names = set(open_parquet(path).schema_arrow.names)
    if "token" not in names or not names & {"p", "row", "p_tokens"}:
        return None
    q = "" if names & {"q", "q_tokens", "row"} else "q, for the tests of acceptance and drafts; "
    by_row = " --dump DUMP" if "row" in names and "p" not in names else ""
    return {
        "recognised as": "a log of verification steps",
        "missing": f"{q}{'the dump whose rows it names' if by_row else ''}".rstrip("; ") or "nothing",
        "next": f"mdsd audit {shlex.quote(str(path))}{by_row}",
    }


def _table(path: Path) -> Facts | None:
    from mdsd_bounds.dumps.containers.files import beginning
    from mdsd_bounds.dumps.containers.parquet import MAGIC, open_parquet

    if not path.is_file() or beginning(path, 4) != MAGIC:
        return None
    file = open_parquet(path)
    if not {"sampler", "drafts", "temperature", "row"} <= set(file.schema_arrow.names):
        return None
    return {
        "recognised as": "per-position results of mdsd bounds or compare",
        "rows": file.metadata.num_rows,
        "missing": "nothing",
        "next": f"mdsd plot {shlex.quote(str(path))} --out figure.png",
    }


def _counts(path: Path) -> Facts | None:
    from mdsd_bounds.counts import READERS, recognise
    from mdsd_bounds.problem import InputError

    if not path.is_file():
        return None
    try:
        form = recognise(path)
        READERS[form](path)
    except InputError:
        return None
    return {
        "recognised as": f"what an engine counted ({form})",
        "missing": "for the bound beside it, a dump of the same pair (--dump)",
        "next": f"mdsd acceptance {shlex.quote(str(path))}",
    }


def _token_map(path: Path) -> Facts | None:
    from mdsd_bounds.dumps.formats.array_files import array_form, open_arrays
    from mdsd_bounds.dumps.token_map import maps_in

    if not path.is_file() or not array_form(path):
        return None
    if not (held := maps_in(open_arrays(path))):
        return None
    return {
        "recognised as": f"a token map ({', '.join(held)})",
        "missing": "the rows of the draft; a map is read in their file, or while a dump is logged",
        "next": f"mdsd log --target TARGET --draft DRAFT --token-map {shlex.quote(str(path))} --prompts PROMPTS",
    }


def _prompts(path: Path) -> Facts | None:
    from mdsd_bounds.dumps.containers.records import first_record
    from mdsd_bounds.models.prompts import FIELDS

    if not path.is_file():
        return None
    first = first_record(path)
    if isinstance(first, dict) and not any(isinstance(first.get(name), str) for name in FIELDS):
        return None
    if not isinstance(first, dict) and (first is not None or not _is_prose(path)):
        return None
    return {
        "recognised as": "text: prompts, one a line",
        "missing": "a model pair to run over them",
        "next": f"mdsd log --target TARGET --draft DRAFT --prompts {shlex.quote(str(path))} --out pair",
    }


def _is_prose(path: Path) -> bool:
    """Whether it begins as plain text that is no JSON, markup or list of numbers."""
    from mdsd_bounds.dumps.containers.compressed import text_beginning

    head = text_beginning(path, 4096)
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    signs = sum(letter.isalpha() or letter.isspace() for letter in text)
    return bool(text.strip()) and "\0" not in text and text.lstrip()[0] not in "{[<#" and signs > 0.7 * len(text)
