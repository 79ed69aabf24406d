"""Names under which files record documents, places and tokens; one thing said twice must be the same both times."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mdsd_bounds.problem import InputError

#: Name in a file -> column of a dump.
COLUMNS = {"tokens": "token", "token": "token", "doc": "doc", "position": "position"}


def with_columns(path: str, held: Mapping[str, Tensor], more: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The columns of ``held`` and of ``more`` together, both int64 ``[rows]`` by their names in a dump.

    Raises
    ------
    InputError
        Naming the first row for which ``source``, where ``more`` is from, says something else; a token of -1 says
        nothing.
    """
    found = dict(held)
    for column, values in more.items():
        if column not in found:
            found[column] = values
            continue
        differ = found[column] != values
        if column == "token":
            differ &= (found[column] >= 0) & (values >= 0)
        if bool(differ.any()):
            row = int(differ.nonzero()[0])
            raise InputError(
                f"{path} row {row}: {source} gives the {column} {int(values[row])}, but the file also gives "
                f"{int(found[column][row])}; keep the one that is right"
            )
    return found
