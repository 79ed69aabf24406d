"""Logits from real model pairs.  Needs the extra ``models`` (transformers)."""
