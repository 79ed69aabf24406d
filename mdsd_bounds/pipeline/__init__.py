"""Everything between a dump and a table: the loop, what it computes, its engines, part files, tables.

:func:`mdsd_bounds.pipeline.run.run` runs :class:`Settings` over a dump; the tables of its results are summarised by
:func:`summarise` and :func:`summarise_comparison`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsd_bounds._backend.lazy import lazily

if TYPE_CHECKING:
    from mdsd_bounds.pipeline.conclusions import bounds_in_words as bounds_in_words
    from mdsd_bounds.pipeline.conclusions import comparison_in_words as comparison_in_words
    from mdsd_bounds.pipeline.evaluate_block import Settings as Settings
    from mdsd_bounds.pipeline.evaluate_block import matching_verifiers as matching_verifiers
    from mdsd_bounds.pipeline.run import Execution as Execution
    from mdsd_bounds.pipeline.tables import COMPARED as COMPARED
    from mdsd_bounds.pipeline.tables import bootstrap_interval as bootstrap_interval
    from mdsd_bounds.pipeline.tables import document_means as document_means
    from mdsd_bounds.pipeline.tables import read_table as read_table
    from mdsd_bounds.pipeline.tables import summarise as summarise
    from mdsd_bounds.pipeline.tables import summarise_comparison as summarise_comparison

__all__ = [
    "COMPARED",
    "Execution",
    "Settings",
    "bootstrap_interval",
    "bounds_in_words",
    "comparison_in_words",
    "document_means",
    "matching_verifiers",
    "read_table",
    "summarise",
    "summarise_comparison",
]

_HOMES = {
    "COMPARED": "mdsd_bounds.pipeline.tables",
    "Execution": "mdsd_bounds.pipeline.run",
    "Settings": "mdsd_bounds.pipeline.evaluate_block",
    "bounds_in_words": "mdsd_bounds.pipeline.conclusions",
    "comparison_in_words": "mdsd_bounds.pipeline.conclusions",
    "bootstrap_interval": "mdsd_bounds.pipeline.tables",
    "document_means": "mdsd_bounds.pipeline.tables",
    "matching_verifiers": "mdsd_bounds.pipeline.evaluate_block",
    "read_table": "mdsd_bounds.pipeline.tables",
    "summarise": "mdsd_bounds.pipeline.tables",
    "summarise_comparison": "mdsd_bounds.pipeline.tables",
}
__getattr__ = lazily(__name__, _HOMES)
