"""What the line of a tree log says of its tree, held against itself: no tree gives a summary that it cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsd_bounds.dumps.step_schema import StepRecord

#: How far rounding may carry a logged probability, and each node its sum: seven significant digits are written.
_ROUNDED = 1e-5


def check_tree(step: StepRecord) -> None:
    """Refuse a step whose accepted path, tokens, probabilities and expectations contradict its tree.

    Raises
    ------
    ValueError
        Saying which two things disagree; readers add the file and the line.
    """
    tree, above = step.tree, (0, *step.tree.path)
    for parent, node in zip(above, tree.path, strict=False):
        if tree.parents[node - 1] != parent:
            raise ValueError(f"path {list(tree.path)}: node {node} is below {tree.parents[node - 1]}, not {parent}")
    accepted = [step.drafts[node - 1] for node in tree.path]
    if any(token != draft for token, draft in zip(tree.tokens, accepted, strict=False)):
        raise ValueError(f"the drafts of the path are {accepted}, but the tokens are {list(tree.tokens)}")
    listed = [position.token for position in step.positions]
    if listed != list(tree.tokens[: len(listed)]):
        raise ValueError(f"the positions hold tokens {listed}, but the tokens are {list(tree.tokens)}")
    for name, held in (("q", tree.q), ("p", tree.p)):
        if held and len(held) != len(step.drafts):
            raise ValueError(f"{name} has {len(held)} numbers for {len(step.drafts)} drafts")
    for node, drafts in tree.slots.items():
        below = {draft for draft, parent in zip(step.drafts, tree.parents, strict=True) if parent == node}
        if not 0 <= node <= len(step.drafts) or below != set(drafts) - {-1}:
            raise ValueError(f"slots hold {list(drafts)} below node {node}, where the tree has {sorted(below)}")
    _check_expectations(step)


def _check_expectations(step: StepRecord) -> None:
    """Probabilities of being accepted: of siblings no more than of their parent; their sum is what is expected."""
    tree, room = step.tree, _ROUNDED * (1 + len(step.drafts))
    if tree.reach is not None:
        left = [1.0, *tree.reach]
        for parent, chance in zip(tree.parents, tree.reach, strict=True):
            left[parent] -= chance
        worst = min(range(len(left)), key=left.__getitem__)
        if left[worst] < -room:
            raise ValueError(f"reach of the drafts below node {worst} is more than its own")
        total = sum(tree.reach)
        if tree.expected is not None and abs(total - tree.expected) > room:
            raise ValueError(f"reach sums to {total:.6g}, but expected is {tree.expected:.6g}")
    if tree.expected is not None and tree.emitted is not None:
        depth = [0]
        for parent in tree.parents:
            depth.append(depth[parent] + 1)
        if tree.expected > max(depth) + room:
            raise ValueError(f"expected is {tree.expected:.6g} in a tree of {max(depth)} levels")
        if not -room <= tree.emitted - tree.expected <= 1 + room:
            raise ValueError(f"expected is {tree.expected:.6g} and emitted {tree.emitted:.6g}: at most one is added")
