"""Certified intervals where only part of a distribution is known."""
