"""Logits from real model pairs.  Needs the extra ``models`` (transformers, gguf); nothing heavy is imported here.

``mdsd_bounds.models.capture.log_pair`` is the way in; see ``drafts`` for what can stand on the draft side.
"""
