"""Chimera draft heads: trained on the states of one target, drafting for it.

A head reads the target's states and its own short-range encoding of the drafted tokens (:mod:`.network`); ``mdsd
train-draft`` makes one (:func:`train_draft`), and ``chimera:FOLDER`` names it wherever a draft is named.
"""

from mdsd_bounds.models.chimera.draft import HeadDraft, head_draft, head_identity
from mdsd_bounds.models.chimera.folder import load_head, read_facts, save_head
from mdsd_bounds.models.chimera.losses import LOSSES, Loss, cross_entropy, total_variation
from mdsd_bounds.models.chimera.network import VARIANTS, Chimera, Shape
from mdsd_bounds.models.chimera.recipe import Recipe
from mdsd_bounds.models.chimera.states import StateStore, continue_text, states_of
from mdsd_bounds.models.chimera.target import TargetSide, target_side
from mdsd_bounds.models.chimera.text import Document, read_documents
from mdsd_bounds.models.chimera.train import Places, train_draft

__all__ = [
    "LOSSES",
    "VARIANTS",
    "Chimera",
    "Document",
    "HeadDraft",
    "Loss",
    "Places",
    "Recipe",
    "Shape",
    "StateStore",
    "TargetSide",
    "continue_text",
    "cross_entropy",
    "head_draft",
    "head_identity",
    "load_head",
    "read_documents",
    "read_facts",
    "save_head",
    "states_of",
    "target_side",
    "total_variation",
    "train_draft",
]
