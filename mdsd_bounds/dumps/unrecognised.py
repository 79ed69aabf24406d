"""What a file is that no reader knows, in words, with what to do about it."""

from __future__ import annotations

from pathlib import Path

from mdsd_bounds.dumps.containers.compressed import compression, other_text, text_beginning
from mdsd_bounds.dumps.containers.files import beginning
from mdsd_bounds.dumps.containers.records import first_record, records
from mdsd_bounds.problem import InputError

_PICKLE = (
    "a pickle (torch.save before torch 1.6, or pickle.dump), which is never loaded, as it may run code; write it again "
    "where you trust it: torch.save(torch.load(FILE, weights_only=True), NEW) with torch 1.6 or later"
)
_STREAM = 'a stream of events; ask the server again with "stream": false'
#: First bytes -> what they begin, and the remedy.
_KNOWN = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; save its arrays as .safetensors or .npz"),
    (b"GGUF", "a GGUF model; log a dump with mdsd log --target MODEL.gguf"),
    (b"ARROW1", "an Arrow file; save it as parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream; save it as parquet"),
    (b"PAR1", "a parquet file whose columns no reader knows; see the table of formats in docs/dumps.md"),
    (b"PK\x05\x06", "an empty zip archive; write it again"),
    (b"\x93NUMPY", "a NumPy array; give target and draft: TARGET.npy,DRAFT.npy"),
    (b"\x80", _PICKLE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it (git lfs pull)"),
    (b"data:", _STREAM),
    (b"event:", _STREAM),
    (b"HTTP/", "an answer with its HTTP headers; ask again without -i of curl"),
    (b"<", "HTML or XML, perhaps the page of an error; fetch the file again"),
)


def described(path: Path) -> str:
    """The second half of an error message about ``path``.

    Cost: one read of 64 bytes; of JSON, of its first record.
    """
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        inside = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "nothing"
        return f"it is a folder that holds {inside}; a native dump has manifest.json, a capture rows.safetensors"
    if not path.is_file():
        return "it is no regular file; save its content to a file first"
    head = beginning(path, 64)
    if not head:
        return "it is empty; write it again"
    if packed := compression(path):
        head = text_beginning(path, 64)
        if not head:
            return f"it is damaged, or empty, and compressed with {packed}; fetch it again"
    if other := other_text(path):
        return f"it is {other}"
    plain = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, words in _KNOWN:
        if head.startswith(magic) or (magic.isascii() and plain.startswith(magic)):
            return f"it is {words}"
    if plain[:1] in (b"{", b"["):
        return f"it is {_json(path)}"
    if packed:
        return f"it is compressed with {packed}, and what is in it is no JSON; unpack it first"
    if not head.strip(b"\0"):
        return "it begins with zeros, as an unfinished copy does; fetch it again"
    if path.stat().st_size >= 262 and beginning(path, 262)[257:] == b"ustar":
        return "it is a tar archive; unpack it first (tar xf)"
    if path.suffix in (".txt", ".md", ".log", ".csv", ".tsv") and b"\0" not in head:
        return (
            "it is text that no reader knows; metrics pages and server logs are for mdsd acceptance, prompts for mdsd "
            "log, and for bounds a server has to give log-probabilities (docs/howto/my_server_answers.md)"
        )
    return "wrong magic bytes or an incomplete file"


def _json(path: Path) -> str:
    """A JSON text by the fields of its first record, and what to ask for instead."""
    first = first_record(path)
    if first is None:
        return f"JSON (or text that begins so) that is damaged or ends early; {_reason(path) or 'fetch it again'}"
    if isinstance(first, dict):
        names = [str(name) for name in first]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        fields = f"JSON with the fields {', '.join(names[:8])}{more}" if names else "an empty JSON object"
    else:
        fields = f"a JSON array of {'lists' if isinstance(first, list) else type(first).__name__}"
    return (
        f"{fields}, which no reader knows; for bounds ask the server for the log-probabilities of the k most probable "
        "tokens with their ids, of one text by both models (docs/howto/my_server_answers.md)"
    )


def _reason(path: Path) -> str:
    """What the first record is refused for; empty where a library stopped without words of ours."""
    try:
        next(records(path), None)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
    except (ValueError, EOFError, OSError, RecursionError):
        pass
    return ""
