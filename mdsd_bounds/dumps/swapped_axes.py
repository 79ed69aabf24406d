"""As many texts as steps: whether a file holds its rows ``[steps, texts, V]`` instead of ``[texts, steps, V]``.

``torch.stack`` of what ``generate`` gives at each step makes either, by its axis, and where both lengths are the same
the shape does not say which.  The rows do: a token is more probable under its own row than under the one at the
mirrored place, and a draft's row is more like the target's beside it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdsd_bounds.dumps.single_model import Side
from mdsd_bounds.problem import InputError

#: The note of a dump in which nothing decides; a warning in every command.
AXES_DOUBT = "texts and steps"
#: Pairs of mirrored places that are looked at.
_PAIRS = 16
#: From how many standard errors, and how many of these pairs, on a difference counts.
_ERRORS, _FEWEST = 3.0, 3
_REMEDY = "stack the logits of each step along axis 1 (torch.stack(out.logits, 1)) in both files"


def refuse_swapped_axes(label: str, target: Side, draft: Side, widths: tuple[int, int]) -> dict[str, str]:
    """Raise an error where texts and steps of one side have changed places; a note where that cannot be told.

    Raises
    ------
    InputError
        Naming the side that the recorded tokens do not fit, or both.
    """
    size = max(target.square, draft.square)
    if not size or target.rows != size * size:
        return {}
    first, second = _mirrored(size)
    logp = [
        torch.log_softmax(
            torch.cat([side.read(row, row + 1, width)[0] for row in torch.cat([first, second]).tolist()]).double(), -1
        )
        for side, width in zip((target, draft), widths, strict=True)
    ]
    half = len(first)
    sure = []
    if (token := target.columns.get("token", draft.columns.get("token"))) is not None:
        mine, other = token[first], token[second]
        known = (mine >= 0) & (other >= 0) & (mine < min(widths)) & (other < min(widths))
        for side, rows in zip((target, draft), logp, strict=True):
            scores = rows.clamp(min=-50.0)
            own = _at(scores[:half], mine) + _at(scores[half:], other)
            gain = (own - _at(scores[:half], other) - _at(scores[half:], mine))[known]
            if side.square and _clear(-gain):
                raise InputError(
                    f"{side.path}: {size} texts of {size} steps, and its recorded tokens are more probable under "
                    f"the rows of the mirrored places (by {-float(gain.mean()) / 2:.2f} nats a token): texts and steps "
                    f"have changed places; {_REMEDY}"
                )
            sure.append(not side.square or _clear(gain))
    p, q = logp[0].exp(), logp[1].exp()
    if p.shape == q.shape and target.square and draft.square:
        own = torch.minimum(p, q).sum(-1)
        crossed = torch.minimum(p, q.roll(half, 0)).sum(-1)
        gain = (own - crossed)[:half] + (own - crossed)[half:]
        if _clear(-gain):
            raise InputError(
                f"{label}: {size} texts of {size} steps, and the draft's rows fit the target's at the mirrored places "
                f"better ({float(crossed.mean()):.3f} of the mass shared, against {float(own.mean()):.3f}): in one of "
                f"the two texts and steps have changed places; {_REMEDY}"
            )
        sure = sure or [_clear(gain)]
    if sure and all(sure):
        return {}
    return {
        AXES_DOUBT: f"{size} texts of {size} steps: nothing in the rows tells whether they are stored [texts, steps] "
        f"in both files, as they are read; {_REMEDY}"
    }


def _mirrored(size: int) -> tuple[Tensor, Tensor]:
    """Rows of some places ``(text, step)`` and of the places ``(step, text)``, all over the texts."""
    places = torch.triu_indices(size, size, 1)
    some = torch.linspace(0, places.shape[1] - 1, min(_PAIRS, places.shape[1])).round().long()
    a, b = places[:, some]
    return a * size + b, b * size + a


def _at(scores: Tensor, token: Tensor) -> Tensor:
    return scores.gather(-1, token.clamp(0, scores.shape[-1] - 1)[:, None])[:, 0]


def _clear(gain: Tensor) -> bool:
    if len(gain) < _FEWEST:
        return False
    return float(gain.mean()) > _ERRORS * float(gain.std()) / math.sqrt(len(gain))
