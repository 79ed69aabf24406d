"""Published verification schemes, one a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.verifiers.schemes.tv_budget import prepare_within as prepare_within

__all__ = ["prepare_within"]

_HOMES = {"prepare_within": "mdsd_bounds.verifiers.schemes.tv_budget"}
__getattr__ = lazily(__name__, _HOMES)
