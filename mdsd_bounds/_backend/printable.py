"""Text that others wrote, as a terminal may show it."""

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


def _escaped(character: str) -> str:
    # A lone surrogate, of a file name that is no UTF-8, has no encoding but this one.
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
