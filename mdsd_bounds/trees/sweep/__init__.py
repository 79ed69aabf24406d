"""The sweep, a tree rule near the joint optimum: the rule, its steps, and the single-step rule of a layer."""

from mdsd_bounds.trees.sweep.rule import sweep_stops

__all__ = ["sweep_stops"]
