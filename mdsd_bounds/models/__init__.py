"""Logits from real model pairs.  Needs the extra ``models`` (transformers, gguf); nothing heavy is imported here.

:func:`log_pair` is the way in; see :mod:`.drafts` for what can stand on the draft side.  :func:`tiny_model` makes a
random model to try it with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.models.capture import log_pair as log_pair
    from mdsd_bounds.models.capture_settings import CaptureSettings as CaptureSettings
    from mdsd_bounds.models.drafts import make_draft as make_draft
    from mdsd_bounds.models.loading import LoadedModel as LoadedModel
    from mdsd_bounds.models.loading import load_model as load_model
    from mdsd_bounds.models.prompts import read_prompts as read_prompts
    from mdsd_bounds.models.server_capture import log_servers as log_servers
    from mdsd_bounds.models.servers import Server as Server
    from mdsd_bounds.models.tiny import tiny_model as tiny_model

__all__ = [
    "CaptureSettings",
    "LoadedModel",
    "Server",
    "load_model",
    "log_pair",
    "log_servers",
    "make_draft",
    "read_prompts",
    "tiny_model",
]

_HOMES = {
    "CaptureSettings": "mdsd_bounds.models.capture_settings",
    "LoadedModel": "mdsd_bounds.models.loading",
    "Server": "mdsd_bounds.models.servers",
    "load_model": "mdsd_bounds.models.loading",
    "log_pair": "mdsd_bounds.models.capture",
    "log_servers": "mdsd_bounds.models.server_capture",
    "make_draft": "mdsd_bounds.models.drafts",
    "read_prompts": "mdsd_bounds.models.prompts",
    "tiny_model": "mdsd_bounds.models.tiny",
}
__getattr__ = lazily(__name__, _HOMES)
