"""What an engine already counted: acceptance from metrics pages, server logs, answers and arrays.

Each form is a reader that knows it by its structure, one line in :data:`READERS`; counts are pooled and set out in
every definition in use by :func:`acceptance`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mdsd_bounds.counts.answers import holds_answers, read_answers
from mdsd_bounds.counts.arrays import read_npy, read_npz
from mdsd_bounds.counts.beside_bound import BesideBound, beside_bound
from mdsd_bounds.counts.log_lines import is_log, read_log
from mdsd_bounds.counts.log_text import LONGEST, looks_like_json
from mdsd_bounds.counts.prometheus import is_page, read_pages
from mdsd_bounds.counts.rates import AcceptanceSummary, acceptance
from mdsd_bounds.counts.records import Counts, Unit, counts, joined, with_draft_tokens
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.compressed import compression, open_text, text_beginning
from mdsd_bounds.dumps.containers.files import open_file, opening
from mdsd_bounds.dumps.containers.text import BOM, lines
from mdsd_bounds.problem import InputError

__all__ = [
    "READERS",
    "AcceptanceSummary",
    "BesideBound",
    "Counts",
    "Unit",
    "acceptance",
    "beside_bound",
    "counts",
    "joined",
    "read_counts",
    "recognise",
    "with_draft_tokens",
]

#: Form -> how one file of it is read; metrics pages are read together, as snapshots.
READERS: dict[str, Callable[[Path], Counts]] = {
    "npy": read_npy,
    "npz": read_npz,
    "json": read_answers,
    "log": read_log,
    "metrics": lambda path: read_pages([path]),
}
_GIVE = (
    "give a page of /metrics (vLLM, SGLang), a server log with acceptance lines (vLLM, SGLang, llama.cpp), answers "
    "in JSON (SGLang meta_info, llama.cpp timings), or accept counts (.json, .npy, .npz)"
)


def recognise(path: str | Path) -> str:
    r"""The form of a file, by its content: a name in :data:`READERS`.

    Raises
    ------
    InputError
        If it is none, with what to give.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.counts import recognise
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "metrics.txt"
    ...     _ = path.write_text("vllm:spec_decode_num_drafts_total 1000\n")
    ...     recognise(path)
    'metrics'
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: no such file; {_GIVE}")
    head = text_beginning(file, 64).removeprefix(BOM)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    json_like = head.lstrip()[:1] in (b"{", b"[")
    page, structured = False, False
    with reading(path, "text", _GIVE):
        for number, text in lines(file, LONGEST):
            structured = structured or (number == 1 and looks_like_json(text))
            if is_log(text):
                if structured and holds_answers(file):
                    raise InputError(
                        f"{path}: answers with counts and lines of a log, which may be of the same traffic; give "
                        "them in two files, and read one"
                    )
                return "log"
            page = page or (not structured and is_page(text))
    if structured or (json_like and re.match(rb"\s*\[\s*-?[0-9.]+\s*[],]", head)):
        return "json"
    if page:
        return "metrics"
    raise InputError(f"{path}: holds no counts of speculative decoding that are known; {_GIVE}")


def read_counts(
    paths: Sequence[str | Path], *, model: str | None = None, each: bool = False, draft_tokens: int | None = None
) -> Counts:
    r"""The counts of one file, or of several of one kind.

    Parameters
    ----------
    paths : sequence of path
        Metrics pages are snapshots of one server in the order taken, and what lies between them is counted; files of
        other forms are pooled.
    model : str or None
        The model of a metrics page that counts several.
    each : bool
        Metrics pages are of different servers, and are summed.
    draft_tokens : int or None
        Draft tokens a step, where the files do not say.

    Returns
    -------
    Counts

    Raises
    ------
    InputError
        If a file is of no known form, damaged, of another kind than the first, or one that is pooled is there twice.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.counts import read_counts
    >>> page = "vllm:spec_decode_num_drafts_total 1000\nvllm:spec_decode_num_draft_tokens_total 4000\n"
    >>> page += "vllm:spec_decode_num_accepted_tokens_total 1900\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "metrics.txt"
    ...     _ = path.write_text(page)
    ...     found = read_counts([path])
    >>> found.engine, found.drafts, found.accepted
    ('vLLM', array([1000.]), array([1900.]))
    """
    if not paths:
        raise InputError(f"no file; {_GIVE}")
    with opening():
        files = [Path(path) for path in paths]
        forms = [recognise(file) for file in files]
        if each or set(forms) != {"metrics"}:
            _refuse_twice(files)
        if set(forms) == {"metrics"}:
            found = read_pages(files, model, each=each)
        elif "metrics" in forms:
            raise InputError(
                f"{files[forms.index('metrics')]}: a metrics page beside files of another form, which may count the "
                "same traffic; give one kind"
            )
        else:
            found = joined([READERS[form](file) for form, file in zip(forms, files, strict=True)])
    return found if draft_tokens is None else with_draft_tokens(found, draft_tokens)


def _refuse_twice(files: Sequence[Path]) -> None:
    """Refuse files with one content, compressed or not: the same traffic would count twice."""
    seen: dict[bytes, Path] = {}
    for file in files if len(files) > 1 else ():
        with reading(file, "counts", "write the file again"):
            stream = open_text(file) if compression(file) else open_file(file).stream()
            content = hashlib.file_digest(stream, "sha256").digest()
        if (first := seen.setdefault(content, file)) is not file:
            raise InputError(
                f"{file}: holds what {first} holds, and the same traffic would count twice; give it once, or, where "
                "two runs did count the same, the sum of both"
            )
