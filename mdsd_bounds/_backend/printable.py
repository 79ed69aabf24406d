"""Text for a terminal: what others wrote, made visible, and numbers with what they count."""

from __future__ import annotations

import unicodedata

#: Control, format (bidirectional and invisible ones among them), surrogate, line and paragraph separators.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, keep: str = "") -> str:
    r"""Control, bidirectional and other invisible characters as escapes, everything else as it is.

    A name in a dump could otherwise move the cursor, set the title of a window, open a link, add a line that looks like
    one of this program, or turn the order of what follows around.

    Parameters
    ----------
    text : object
        Its ``str`` is taken.
    keep : str
        Characters that stay, for text of several lines.

    Examples
    --------
    >>> printable("caf\u00e9\x1b[2J \u202egpj.exe\n")
    'café\\x1b[2J \\u202egpj.exe\\n'
    >>> printable("two\nlines", keep="\n")
    'two\nlines'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(
        _escaped(character) if unicodedata.category(character) in _UNSEEN and character not in keep else character
        for character in whole
    )


def counted(number: int, noun: str) -> str:
    """A number and what it counts, in the plural where it is not one; nouns take an s.

    Examples
    --------
    >>> counted(1, "document"), counted(1200, "document")
    ('1 document', '1,200 documents')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _escaped(character: str) -> str:
    # A lone surrogate, of a file name that is no UTF-8, has no encoding but this one.
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
