"""Draft trees: builders, verification, bounds, speed, and running them on real models.

Functions that are named like their module are imported from there: :func:`mdsd_bounds.trees.advise.advise`,
:func:`mdsd_bounds.trees.decode.decode`, :func:`mdsd_bounds.trees.verify.verify`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.trees.advice_in_words import in_words as in_words
    from mdsd_bounds.trees.advise import Costs as Costs
    from mdsd_bounds.trees.advise import costs_from as costs_from
    from mdsd_bounds.trees.advise import profiles as profiles
    from mdsd_bounds.trees.base import Tree as Tree
    from mdsd_bounds.trees.base import common_randomness as common_randomness
    from mdsd_bounds.trees.base import sampling as sampling
    from mdsd_bounds.trees.beam import rsd_s as rsd_s
    from mdsd_bounds.trees.bounds import full_information as full_information
    from mdsd_bounds.trees.bounds import joint_optimum as joint_optimum
    from mdsd_bounds.trees.bounds import node_optimum as node_optimum
    from mdsd_bounds.trees.builders import chain as chain
    from mdsd_bounds.trees.builders import independent_paths as independent_paths
    from mdsd_bounds.trees.builders import rsd_c as rsd_c
    from mdsd_bounds.trees.certificate import exact_bounds as exact_bounds
    from mdsd_bounds.trees.decode import Step as Step
    from mdsd_bounds.trees.decode import take_step as take_step
    from mdsd_bounds.trees.dynamic import dynamic_top_k as dynamic_top_k
    from mdsd_bounds.trees.enumerate import branching_trees as branching_trees
    from mdsd_bounds.trees.log import read_log as read_log
    from mdsd_bounds.trees.log import record as record
    from mdsd_bounds.trees.log import summarise_log as summarise_log
    from mdsd_bounds.trees.log import summary_table as summary_table
    from mdsd_bounds.trees.marginal import MarginalDraft as MarginalDraft
    from mdsd_bounds.trees.marginal import product_tree as product_tree
    from mdsd_bounds.trees.named import named_tree as named_tree
    from mdsd_bounds.trees.real import TreeReader as TreeReader
    from mdsd_bounds.trees.sequoia import best_shape as best_shape
    from mdsd_bounds.trees.sequoia import shaped as shaped
    from mdsd_bounds.trees.speed_frontier import speed_by_nodes as speed_by_nodes
    from mdsd_bounds.trees.verify import Stop as Stop
    from mdsd_bounds.trees.verify import Verified as Verified
    from mdsd_bounds.trees.verify import expected_accepted as expected_accepted
    from mdsd_bounds.trees.verify import expected_emitted as expected_emitted
    from mdsd_bounds.trees.verify import reach as reach
    from mdsd_bounds.trees.verify import stops as stops

__all__ = [
    "Costs",
    "MarginalDraft",
    "Step",
    "Stop",
    "Tree",
    "TreeReader",
    "Verified",
    "best_shape",
    "branching_trees",
    "chain",
    "common_randomness",
    "costs_from",
    "dynamic_top_k",
    "exact_bounds",
    "expected_accepted",
    "expected_emitted",
    "full_information",
    "in_words",
    "independent_paths",
    "joint_optimum",
    "named_tree",
    "node_optimum",
    "product_tree",
    "profiles",
    "reach",
    "read_log",
    "record",
    "rsd_c",
    "rsd_s",
    "sampling",
    "shaped",
    "speed_by_nodes",
    "stops",
    "summarise_log",
    "summary_table",
    "take_step",
]

_HOMES = {
    "Costs": "mdsd_bounds.trees.advise",
    "MarginalDraft": "mdsd_bounds.trees.marginal",
    "Step": "mdsd_bounds.trees.decode",
    "Stop": "mdsd_bounds.trees.verify",
    "Tree": "mdsd_bounds.trees.base",
    "TreeReader": "mdsd_bounds.trees.real",
    "Verified": "mdsd_bounds.trees.verify",
    "best_shape": "mdsd_bounds.trees.sequoia",
    "branching_trees": "mdsd_bounds.trees.enumerate",
    "chain": "mdsd_bounds.trees.builders",
    "common_randomness": "mdsd_bounds.trees.base",
    "costs_from": "mdsd_bounds.trees.advise",
    "dynamic_top_k": "mdsd_bounds.trees.dynamic",
    "exact_bounds": "mdsd_bounds.trees.certificate",
    "expected_accepted": "mdsd_bounds.trees.verify",
    "expected_emitted": "mdsd_bounds.trees.verify",
    "full_information": "mdsd_bounds.trees.bounds",
    "in_words": "mdsd_bounds.trees.advice_in_words",
    "independent_paths": "mdsd_bounds.trees.builders",
    "joint_optimum": "mdsd_bounds.trees.bounds",
    "named_tree": "mdsd_bounds.trees.named",
    "node_optimum": "mdsd_bounds.trees.bounds",
    "product_tree": "mdsd_bounds.trees.marginal",
    "profiles": "mdsd_bounds.trees.advise",
    "reach": "mdsd_bounds.trees.verify",
    "read_log": "mdsd_bounds.trees.log",
    "record": "mdsd_bounds.trees.log",
    "rsd_c": "mdsd_bounds.trees.builders",
    "rsd_s": "mdsd_bounds.trees.beam",
    "sampling": "mdsd_bounds.trees.base",
    "shaped": "mdsd_bounds.trees.sequoia",
    "speed_by_nodes": "mdsd_bounds.trees.speed_frontier",
    "stops": "mdsd_bounds.trees.verify",
    "summarise_log": "mdsd_bounds.trees.log",
    "summary_table": "mdsd_bounds.trees.log",
    "take_step": "mdsd_bounds.trees.decode",
}
__getattr__ = lazily(__name__, _HOMES)
