"""Lines in which servers report acceptance, and what is read of them."""

from __future__ import annotations

from pathlib import Path

from mdsd_bounds.counts import Counts, read_counts


def read(folder: Path, text: str) -> Counts:
    """What a log counts."""
    (folder / "server.log").write_text(text)
    return read_counts([folder / "server.log"])


def pooled(found: Counts) -> tuple[float, float]:
    """Accepted and drafted tokens over all units."""
    return float(found.accepted.sum()), float(found.drafted.sum())


def statistics(name: str, drafts: int, drafted: int, accepted: int, before: str = "") -> str:
    """A line of llama.cpp's running totals."""
    return (
        f"{before}statistics {name}: #calls = {drafts}, #gen drafts = {drafts}, #acc drafts = {min(drafts, accepted)}, "
        f"#gen tokens = {drafted}, #acc tokens = {accepted}"
    )


def old(drafts: int, accepted: int, before: str = "INFO ") -> str:
    """A line of vLLM before V1: 5 draft tokens a step."""
    return (
        f"{before}Speculative metrics: Draft acceptance rate: {accepted / drafts / 5:.3f}, System efficiency: 0.5, "
        f"Number of speculative tokens: 5, Number of accepted tokens: {accepted}, Number of draft tokens: "
        f"{drafts * 5}, Number of emitted tokens: {accepted + drafts}."
    )


def vllm(accepted: int, drafted: int, before: str = "") -> str:
    """A line of vLLM, without the rates by position."""
    return (
        f"{before}SpecDecoding metrics: Accepted: {accepted} tokens, Drafted: {drafted} tokens, "
        f"Avg Draft acceptance rate: {100 * accepted / drafted:.1f}%"
    )


LLAMA = "draft acceptance rate = 0.50000 (   20 accepted /    40 generated)"
SGLANG = "[2026-01-01 00:00:0{}{}] Decode batch. #running-req: 1, #token: 5, accept len: {}, accept rate: 0.50"
