"""Is a verification rule lossless?  From its code (:func:`audit_rule`) or from what it wrote (:func:`audit_log`)."""

from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.audit.loading import load_rule
from mdsd_bounds.audit.logs import audit_log, from_arrays, read_positions
from mdsd_bounds.audit.report import LogReport, judge
from mdsd_bounds.audit.rule import RuleReport, audit_rule
from mdsd_bounds.audit.self_check import self_check

__all__ = [
    "CONTROLS",
    "LogReport",
    "RuleReport",
    "audit_log",
    "audit_rule",
    "from_arrays",
    "judge",
    "load_rule",
    "read_positions",
    "self_check",
]
