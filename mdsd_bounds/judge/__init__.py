"""A judge of draft tokens: labels without hands, the head, its evidence, and the sandbox that programs run in.

Judge Decoding (Bachmann et al. 2025, arXiv 2501.19309) accepts a draft token where a small head on the target's last
layer says that it does no harm.  Labels come from the tests of programming tasks.  The rule itself is the verifier
``judge`` (:mod:`mdsd_bounds.verifiers.schemes.judge`); the theory and the measurements are in docs/judge.md.
"""

from mdsd_bounds.judge.decoding import decode
from mdsd_bounds.judge.evidence import Auc, Fitted, fit, harm_by_share
from mdsd_bounds.judge.head import JudgeHead, fit_head, load_judge, save_judge
from mdsd_bounds.judge.labels import Labels, read_labels
from mdsd_bounds.judge.outcomes import MineSettings, mine
from mdsd_bounds.judge.plane import plane
from mdsd_bounds.judge.sandbox import Limits, Verdict, require_sandbox, run_tests
from mdsd_bounds.judge.scored import log_scored
from mdsd_bounds.judge.steps import curve_of_steps
from mdsd_bounds.judge.substitutions import SubstituteSettings, substitute
from mdsd_bounds.judge.tasks import Task, cut, read_tasks

__all__ = [
    "Auc",
    "Fitted",
    "JudgeHead",
    "Labels",
    "Limits",
    "MineSettings",
    "SubstituteSettings",
    "Task",
    "Verdict",
    "curve_of_steps",
    "cut",
    "decode",
    "fit",
    "fit_head",
    "harm_by_share",
    "load_judge",
    "log_scored",
    "mine",
    "plane",
    "read_labels",
    "read_tasks",
    "require_sandbox",
    "run_tests",
    "save_judge",
    "substitute",
]
