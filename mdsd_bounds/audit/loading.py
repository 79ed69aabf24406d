"""Find the rule to audit: whatever :func:`mdsd_bounds.verifiers.get_verifier` finds, or one of the known faults."""

from __future__ import annotations

from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.verifiers import get_verifier
from mdsd_bounds.verifiers.base import Verifier


def load_rule(spec: str) -> Verifier:
    r"""The rule that ``spec`` names: registered, installed, ``module:NAME``, ``path/to/file.py:NAME``, or a control.

    Raises
    ------
    InputError
        If the name is unknown, the module does not load, or what it holds is no rule.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.audit import load_rule
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.py"
    ...     _ = path.write_text("def rule(p, q, drafts):\n    return p\n")
    ...     load_rule(f"{path}:rule").name
    'mine.py:rule'
    """
    return CONTROLS[spec] if spec in CONTROLS else get_verifier(spec)
