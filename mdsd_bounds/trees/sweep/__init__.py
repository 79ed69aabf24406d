"""The sweep, a tree rule near the joint optimum: the rule, its steps, and the single-step rule of a layer."""

from mdsd_bounds.trees.sweep.rule import sampled_stop, sweep_stops

__all__ = ["sampled_stop", "sweep_stops"]
