"""Names under which files record documents, places and tokens; one thing said twice must be the same both times."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError

#: Name in a file -> column of a dump.
COLUMNS = {"tokens": "token", "token": "token", "doc": "doc", "position": "position"}
#: Arrays that say which texts the rows belong to (:mod:`mdsd_bounds.dumps.formats.text_rows`).
TEXTS = ("input_ids", "sequences", "attention_mask", "beam_indices", "sequences_scores")
#: What may be said of rows, in their file or in others beside it.
SAID = (*COLUMNS, *TEXTS, "vocabulary")
#: The note of a dump in which places are there twice; a warning in every command.
TWICE_DOUBT = "places"


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


def places_twice(columns: Mapping[str, Tensor]) -> dict[str, str]:
    """A note where two rows are of one position of one document, as in dumps that were joined to themselves.

    They may be two generations of one prompt as well, so that it is no error.  O(N log N); empty where each place is
    there once, or documents and positions are not known.

    Examples
    --------
    >>> import torch
    >>> columns = {"doc": torch.tensor([0, 0, 1, 0]), "position": torch.tensor([1, 2, 1, 2])}
    >>> print(places_twice(columns)["places"].split(":")[0])
    rows 1 and 3 are both position 2 of document 0, the first of 1 such pair
    """
    if not {"doc", "position"} <= set(columns):
        return {}
    doc, position = columns["doc"], columns["position"]
    order = position.argsort(stable=True)
    order = order[doc[order].argsort(stable=True)]
    before, after = order[:-1], order[1:]
    pairs = torch.nonzero((doc[before] == doc[after]) & (position[before] == position[after]))[:, 0]
    if not len(pairs):
        return {}
    first, second = int(before[pairs[0]]), int(after[pairs[0]])
    return {
        TWICE_DOUBT: f"rows {first} and {second} are both position {int(position[first])} of document "
        f"{int(doc[first])}, the first of {len(pairs)} such pair{'s' * (len(pairs) > 1)}: rows that are there twice "
        "count twice; leave the copies out, or, if they are different generations of one prompt, give each generation "
        "a document number of its own"
    }
