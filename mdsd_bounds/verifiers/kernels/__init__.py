"""Compiled loops of the verification schemes."""
