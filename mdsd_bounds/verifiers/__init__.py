"""Verification rules: which token is output, given the target's and the draft's distributions and the drafts.

One published scheme per file in :mod:`.schemes`, the optimal rule in :mod:`.optimal`, and one line for each in
:mod:`.registry`, which also says how other packages add theirs.
"""

from mdsd_bounds.verifiers.base import Verifier, require_pair
from mdsd_bounds.verifiers.enumeration import enumerate_verifier
from mdsd_bounds.verifiers.own_rules import from_function
from mdsd_bounds.verifiers.rate import acceptance_rate
from mdsd_bounds.verifiers.registry import GROUP, VERIFIERS, get_verifier, load_third_party, register_verifier
from mdsd_bounds.verifiers.total_variation import output_distance

__all__ = [
    "GROUP",
    "VERIFIERS",
    "Verifier",
    "acceptance_rate",
    "enumerate_verifier",
    "from_function",
    "get_verifier",
    "load_third_party",
    "output_distance",
    "register_verifier",
    "require_pair",
]
