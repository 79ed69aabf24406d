"""Token ids of texts, through a tokenizer that lies on this machine; a text that several tokens have has none.

Servers render tokens in different ways, so that each token counts under every text that it may be given: as the
tokenizer decodes it alone, as it stands in the vocabulary, and with its leading space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import open_file, read_bytes
from mdsd_bounds.dumps.formats.top_logprobs.positions import Text, UnreadableError
from mdsd_bounds.dumps.formats.top_logprobs.rows import Resolve
from mdsd_bounds.dumps.how_to_read import HowToRead
from mdsd_bounds.problem import InputError

#: Bytes of a tokenizer's file.
_LONGEST = 1 << 28
#: Stands for bytes that are no character.
_REPLACED = "\ufffd"


def tokenizer_file(name: str) -> Path:
    """The ``tokenizer.json`` at a path: the file itself, or in that folder.

    Raises
    ------
    InputError
        If it is not there.
    """
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such tokenizer; give a tokenizer.json, or the folder of a model that has one")
    return file


def resolver(how: HowToRead) -> Resolve | None:
    """The chosen tokenizer's way from texts to ids, or None where none was chosen."""
    name = how.tokenizer
    return _resolve(tokenizer_file(name)) if name else None


def _resolve(file: Path) -> Resolve:
    ids: dict[str, dict[str, int | None]] = {}

    def resolve(token: Text) -> int | None:
        if not ids:
            ids["text"], ids["bytes"] = _tables(file)
        if token.raw is not None and (token.text not in ids["text"] or ids["text"][token.text] is None):
            exact = token.raw.decode("latin-1")
            if exact in ids["bytes"]:
                return ids["bytes"][exact]
        if token.text not in ids["text"]:
            if _REPLACED in token.text or token.text.startswith("bytes:"):
                return None
            raise UnreadableError(
                f"{token.text!r} is no token of {file}; give the tokenizer of the model that answered, or ask the "
                "server for token ids"
            )
        return ids["text"][token.text]

    return resolve


def _tables(file: Path) -> tuple[dict[str, int | None], dict[str, int | None]]:
    """Ids by text and by bytes (as Latin-1); None where two tokens share one."""
    from tokenizers import Tokenizer

    with reading(file, "tokenizer", "give the tokenizer.json of the model that answered"):
        source = open_file(file)
        if source.size > _LONGEST:
            raise ValueError(f"{source.size} bytes")
        try:
            held = Tokenizer.from_str(read_bytes(source, 0, source.size).decode())
        except BaseException as error:  # a panic of the library is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ValueError(f"no tokenizer.json ({error})") from error
        texts: dict[str, int | None] = {}
        raws: dict[str, int | None] = {}
        for piece, token in held.get_vocab(with_added_tokens=True).items():
            alone = held.decode([token], skip_special_tokens=False)
            spaced = piece.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
            for text in {piece, alone, spaced}:
                _add(texts, text, token)
            _add(raws, _bytes_of(piece, alone), token)
        return texts, raws


def _add(table: dict[str, int | None], text: str, token: int) -> None:
    # Never one of the two: which it was is not known.
    table[text] = token if table.get(text, token) == token else None


def _bytes_of(piece: str, alone: str) -> str:
    """The bytes of a piece of a byte-level vocabulary or of a byte token, otherwise of its text, as Latin-1."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]).decode("latin-1")
    found = [_BYTES.get(letter) for letter in piece]
    if piece and all(byte is not None for byte in found) and alone == _text_of(found):
        return bytes(found).decode("latin-1")  # type: ignore[arg-type]
    return piece.replace("\u2581", " ").encode().decode("latin-1")


def _text_of(found: list[Any]) -> str:
    return bytes(found).decode("utf-8", errors="replace")


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes (GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES: dict[str, int] = _byte_letters()
