"""The audit of logs as users meet it: formats, dumps, damaged lines, figures of speech, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mdsd_bounds import VERIFIERS, optimal_acceptance, to_probs
from mdsd_bounds.audit import CONTROLS, LogReport, audit_log, read_positions
from mdsd_bounds.audit.bound_test import bound_test
from mdsd_bounds.audit.definitions import acceptance_figures, marginal_gains
from mdsd_bounds.audit.draft_check import draft_check
from mdsd_bounds.audit.logs import distribution_of, rounding
from mdsd_bounds.audit.martingale import wager
from mdsd_bounds.audit.self_check import drawn_rows
from mdsd_bounds.distributions import Warp
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.trees.base import grow
from mdsd_bounds.trees.verify import verify
from mdsd_bounds.verifiers import Verifier
from tests.command import call

EXAMPLE = str(Path(__file__).parent / "data" / "audit-example.jsonl")
Entry = dict[str, Any]


def entries(rule: Verifier, sampler: str, n: int, count: int, seed: int = 0, size: int = 6) -> list[Entry]:
    p, q = drawn_rows(count, seed, size)
    generator = torch.Generator().manual_seed(seed + 1)
    drafts = get_sampler(sampler).sample(q, n, generator)
    token, accepted = rule.step(p, q, drafts, generator, sampler=sampler)
    return [
        {
            "doc": 0,
            "position": i,
            "step": i,
            "p": p[i].tolist(),
            "q": q[i].tolist(),
            "drafts": drafts[i].tolist(),
            "token": int(token[i]),
            "accepted": bool(accepted[i]),
            "sampler": sampler,
        }
        for i in range(count)
    ]


def written(path: Path, lines: list[Entry]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def same_verdict(first: LogReport, second: LogReport) -> bool:
    return first.lossy == second.lossy and first.chi.statistic == pytest.approx(second.chi.statistic, rel=1e-9)


# --- formats ---------------------------------------------------------------------------------------------------------


def test_jsonl_parquet_and_rows_of_a_dump_say_the_same(tmp_path: Path) -> None:
    lines = entries(CONTROLS["residual_skipped"], "with_replacement", 2, 400)
    text = audit_log(written(tmp_path / "log.jsonl", lines))
    assert text.lossy
    pd.DataFrame(lines).to_parquet(tmp_path / "log.parquet")
    assert same_verdict(text, audit_log(str(tmp_path / "log.parquet")))
    logits = {name: np.log(np.array([line[key] for line in lines])) for name, key in
              (("target_logits", "p"), ("draft_logits", "q"))}  # fmt: skip
    np.savez(tmp_path / "pair.npz", **logits)
    by_row = [{k: v for k, v in line.items() if k not in "pq"} | {"row": i} for i, line in enumerate(lines)]
    # The order of lines is the log's, not the dump's.
    held = audit_log(written(tmp_path / "rows.jsonl", by_row), dump=str(tmp_path / "pair.npz"))
    assert same_verdict(text, held)
    # Another temperature is another distribution.
    other = audit_log(str(tmp_path / "rows.jsonl"), dump=str(tmp_path / "pair.npz"), warps=(Warp(0.5), Warp(0.5)))
    assert other.chi.statistic > text.chi.statistic


def cut(line: Entry, side: str, keep: int) -> dict[str, float]:
    order = np.argsort(line[side])[::-1][:keep]
    return {str(token): line[side][token] for token in order}


@pytest.mark.parametrize("known", ["p", "pq", "pq with tails"])
def test_cut_rows(known: str, tmp_path: Path) -> None:
    verdicts = []
    for rule in (VERIFIERS["rrs"], CONTROLS["residual_skipped"]):
        lines = entries(rule, "with_replacement", 2, 700, size=8)
        for line in lines:
            sides = {side: cut(line, side, 4) for side in "pq"}
            line.update({"p": sides["p"]})
            if "q" in known:
                line["q"] = sides["q"]
            if "tails" in known:
                line.update({f"{side}_tail": 1 - sum(sides[side].values()) for side in "pq"})
        report = audit_log(written(tmp_path / "cut.jsonl", lines))
        verdicts.append(report.lossy)
        assert report.bound is not None
        # The bound stays one: it is not below that of the full rows.
        p, q = drawn_rows(700, 0, 8)
        full = optimal_acceptance(p, q, 2, "with_replacement").value.mean()
        assert report.bound.bound >= float(full) - 1e-9
    assert verdicts == [False, True]


def test_rows_cut_nowhere_equal_full_ones(tmp_path: Path) -> None:
    lines = entries(VERIFIERS["rrs"], "with_replacement", 2, 200)
    full = read_positions(written(tmp_path / "full.jsonl", lines))
    for line in lines:
        line.update({side: cut(line, side, 6) for side in "pq"})
    whole = read_positions(written(tmp_path / "cut.jsonl", lines))
    assert np.allclose(full.p_mass, whole.p_mass, atol=1e-12)
    assert np.allclose(full.q_mass, whole.q_mass, atol=1e-12)
    assert np.array_equal(full.cell, whole.cell)
    assert np.allclose(full.bound, whole.bound, atol=1e-9)


def test_without_q_the_output_is_tested_all_the_same(tmp_path: Path) -> None:
    """A temperature that is too low shows without the draft's distribution."""
    generator = np.random.default_rng(0)
    p = drawn_rows(800, 2)[0].numpy()
    cold = p**1.6 / (p**1.6).sum(1, keepdims=True)
    for probs, lossy in ((p, False), (cold, True)):
        token = [int(generator.choice(6, p=row)) for row in probs]
        lines = [{"p": row.tolist(), "token": y} for row, y in zip(p, token, strict=True)]
        report = audit_log(written(tmp_path / "bare.jsonl", lines))
        assert report.lossy == lossy
        assert [found.direction for found in report.power] == ["towards the probable"]
        assert any("no bound test" in note for note in report.notes)
        assert any("logged twice" in note for note in report.notes)


def test_step_logs_are_read(tmp_path: Path) -> None:
    step = {
        "step": 0,
        "drafts": [5, 9],
        "accepted": 1,
        "positions": [
            {"token": 5, "candidates": [[5, 0.55], [7, 0.2]], "target_candidates": [[5, 0.62], [7, 0.1]]},
            {
                "token": 3,
                "candidates": [[9, 0.5]],
                "target_candidates": [{"token": 3, "p": 0.4}, {"token": 9, "p": 0.4}],
            },
        ],
    }
    positions = read_positions(written(tmp_path / "steps.jsonl", [step]), sampler="with_replacement")
    assert positions.rank.tolist() == [0, -1]
    assert positions.flag.tolist() == [1, 0]
    assert positions.p_token.tolist() == pytest.approx([0.62, 0.4])
    assert np.isfinite(positions.bound).all()
    del step["positions"][0]["target_candidates"]  # type: ignore[index]
    with pytest.raises(InputError, match="no target_candidates"):
        read_positions(written(tmp_path / "steps.jsonl", [step]))


def test_rounding_of_stored_logits_is_allowed_for() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = 12 * torch.randn(20, 300, generator=generator, dtype=torch.float64)
    for dtype in (torch.float16, torch.bfloat16):
        stored = exact.to(dtype)
        for row in range(20):
            probs = to_probs(stored[row : row + 1])[0]
            moved = 0.5 * float((probs - to_probs(exact[row : row + 1])[0]).abs().sum())
            assert moved <= rounding(stored[row], probs, 1.0)
            assert distribution_of(stored[row : row + 1], None, "x", row, None, Warp()).defect >= moved
            assert distribution_of(stored[row : row + 1], None, "x", row, 1e-4, Warp()).defect == 0.0


# --- block verification ----------------------------------------------------------------------------------------------


def test_block_verification_is_not_called_lossy(tmp_path: Path) -> None:
    """Its drafts beyond the first do not follow q once reached, and its acceptance exceeds alpha* there."""
    generator = torch.Generator().manual_seed(3)
    p = torch.softmax(1.5 * torch.randn(6, 6, generator=generator, dtype=torch.float64), -1)
    q = torch.softmax(p.log() + 1.2 * torch.randn(6, 6, generator=generator, dtype=torch.float64), -1)
    lines: list[Entry] = []
    last, step = 0, 0
    while len(lines) < 1200:
        tree = grow(
            lambda paths, last=last: torch.stack([q[path[-1] if path else last] for path in paths]),
            3,
            lambda path: 1,
            lambda paths, probs: [(int(torch.multinomial(x, 1, generator=generator)),) for x in probs],
            "with_replacement",
        )
        target = torch.stack([p[path[-1] if path else last] for path in tree.paths])
        for i, token in enumerate(verify(tree, target, "block", generator).tokens):
            lines.append(
                {"doc": 0, "position": len(lines), "step": step, "p": p[last].tolist(), "q": q[last].tolist(),
                 "drafts": list(tree.paths[-1][i : i + 1]), "token": token, "sampler": "with_replacement"}
            )  # fmt: skip
            last = token
        step += 1
    path = written(tmp_path / "block.jsonl", lines)
    plain, block = audit_log(path), audit_log(path, blockwise=True)
    assert not plain.lossy
    assert any("withdrawn" in note for note in plain.notes)
    assert plain.bound is not None
    assert plain.bound.acceptance > plain.bound.bound + 0.02
    assert not block.lossy
    assert block.bound is not None
    assert block.bound.acceptance < block.bound.bound + 0.02
    assert not any("withdrawn" in note for note in block.notes)
    with pytest.raises(InputError, match="--blockwise needs the step"):
        audit_log(written(tmp_path / "bare.jsonl", [{"p": [1.0], "token": 0}]), blockwise=True)


# --- definitions -----------------------------------------------------------------------------------------------------


def test_definitions_by_hand(tmp_path: Path) -> None:
    probs = {"p": [0.4, 0.3, 0.2, 0.1], "q": [0.25, 0.25, 0.25, 0.25], "sampler": "with_replacement", "doc": 0}
    told = [(0, [0, 1], 0), (0, [1, 2], 2), (0, [], 3), (1, [3, 3], 1), (2, [2, 0], 0), (2, [1, 1], 3)]
    lines = [
        {**probs, "position": i, "step": step, "drafts": drafts, "token": token, "accepted": i != 1}
        for i, (step, drafts, token) in enumerate(told)
    ]
    positions = read_positions(written(tmp_path / "hand.jsonl", lines))
    values = {figure.name: figure.value for figure in acceptance_figures(positions)}
    assert values == {
        "acceptance per position": pytest.approx(3 / 5),
        "accepted per drafted token": pytest.approx(3 / 10),
        "rank 1 given none before": pytest.approx(1 / 5),
        "rank 2 given none before": pytest.approx(2 / 4),
        "mean accepted length, no bonus": pytest.approx(3 / 3),
        "mean accepted length, with bonus": pytest.approx(2.0),
        "block efficiency": pytest.approx(6 / 3),
    }
    bought = marginal_gains(positions)
    p, q = torch.tensor(probs["p"]), torch.tensor(probs["q"])
    bounds = [float(optimal_acceptance(p, q, n, "with_replacement").value) for n in (1, 2, 3, 4)]
    assert [x.bound for x in bought] == pytest.approx(bounds, abs=1e-6)
    assert [x.observed for x in bought] == [pytest.approx(1 / 5), pytest.approx(3 / 5), None, None]
    assert bought[1].gain == pytest.approx(bounds[1] - bounds[0], abs=1e-6)
    notes = audit_log(str(tmp_path / "hand.jsonl")).notes
    assert any("differs" in note and "4 of 6" in note for note in notes)


# --- the command -----------------------------------------------------------------------------------------------------


def test_exit_codes_and_json(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    code, short, _ = call("audit", EXAMPLE, capsys=capsys, monkeypatch=monkeypatch)
    code, text, _ = call("audit", EXAMPLE, "--verbose", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert short.startswith("verdict: not refuted")
    assert text.startswith("\n".join(short.splitlines()[:-2]))
    assert "block efficiency" not in short
    assert "block efficiency" in text
    bad = written(tmp_path / "bad.jsonl", entries(CONTROLS["last_draft_accepted"], "with_replacement", 2, 300))
    figure = tmp_path / "evidence.png"
    code, text, _ = call(
        "audit", bad, "--format", "json", "--figure", str(figure), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 1
    report = json.loads(text)
    assert report["lossy"] is True
    assert {test["name"]: test["refutes"] for test in report["tests"]}["acceptance <= alpha*"] is True
    assert {"verdict", "alpha", "positions", "evidence", "power", "acceptance", "n_drafts", "notes"} <= set(report)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_rules_on_the_command_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    common = ("--sampler", "with_replacement", "--steps", "20", "--quiet")
    code, text, _ = call("audit", "--verifier", "nss", "--drafts", "2", *common, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert "lossless on every enumerated row" in text
    code, text, _ = call(
        "audit", "--verifier", "duplicates_skipped", "--drafts", "2", "--format", "json", *common,
        capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 1
    assert json.loads(text)["enumeration"][0]["defect"] > 0.01
    (tmp_path / "their_rules.py").write_text(
        "def target(p, q, drafts, generator):\n"
        "    import torch\n"
        "    return torch.multinomial(p, 1, generator=generator)[:, 0]\n"
        "def outside(p, q, drafts, generator):\n"
        "    return drafts[:, 0] + 1000\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, text, _ = call(
        "audit", "--verifier", "their_rules:target", "--drafts", "2", *common, capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 0
    assert "steps only" in text
    code, text, note = call(
        "audit", "--verifier", "their_rules:outside", "--drafts", "2", *common, capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, text) == (2, "")
    assert "verifier 'their_rules:outside' row 0: token 10" in note
    assert "no index of a vocabulary of 5" in note


def test_a_rule_on_rows_of_a_dump(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 40)) * 2
    np.savez(tmp_path / "pair.npz", target_logits=logits, draft_logits=logits + generator.normal(size=(3, 40)))
    code, text, _ = call(
        "audit", "--verifier", "greedy", "--drafts", "2", "--dump", str(tmp_path / "pair.npz"), "--quiet",
        capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 0
    assert "rows of the dump" in text
    assert "not refuted: 150 positions" in text


GOOD: Entry = {"p": [0.5, 0.5], "q": [0.5, 0.5], "token": 0, "drafts": [1], "sampler": "with_replacement"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json}", "line 2: no JSON"),
        ("[1, 2]", "line 2: list, not an object"),
        ({"p": [1.0]}, "line 2: 'token' is missing"),
        ({"token": 0}, "line 2: neither p nor row is given"),
        ({**GOOD, "token": 2}, "line 2: token 2 lies outside the vocabulary of 2 tokens"),
        ({**GOOD, "drafts": [7]}, "line 2: draft 7 lies outside the vocabulary"),
        ({**GOOD, "token": 0.5}, "token is 0.5; give an integer"),
        ({**GOOD, "token": True}, "token is True"),
        ({**GOOD, "drafts": [-2]}, "drafts is -2"),
        ({**GOOD, "p": [0.5, 0.4]}, "p sums to 0.9"),
        ({**GOOD, "p": [1.5, -0.5]}, "p holds -0.5"),
        ({**GOOD, "q": [0.5, float("nan")]}, "q holds nan"),
        ({**GOOD, "p": []}, "p has shape (0,)"),
        ({**GOOD, "p": "much"}, "p is str"),
        ({**GOOD, "p": [0.2, 0.3, 0.5]}, "p has 3 tokens and q 2"),
        ({**GOOD, "p_tail": 0.1}, "p_tail beside a full p"),
        ({**GOOD, "p": {"0": 0.5}, "p_tail": 0.1}, "p sums to 0.6"),
        ({**GOOD, "p": {"zero": 0.5}}, "'zero' is no integer"),
        ({**GOOD, "accepted": "yes"}, "accepted is 'yes'"),
        ({**GOOD, "sampler": "magic"}, "unknown sampler 'magic'"),
        ({**GOOD, "sampler": "independent"}, "several draft distributions"),
        ({"row": 3, "token": 0}, "line 2: row 3 of a dump; name the dump with --dump"),
        ({**GOOD, "doc": 0, "position": 4}, "doc 0 position 4 was logged before, at line 1"),
    ],
)
def test_damaged_lines(line: Any, message: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    first = json.dumps({**GOOD, "doc": 0, "position": 4})
    path = tmp_path / "log.jsonl"
    path.write_text(first + "\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n")
    code, text, note = call("audit", str(path), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    assert message in note
    assert "log.jsonl" in note or "sampler" in message
    assert len([part for part in note.splitlines() if part.startswith("mdsd:")]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit"], "give a LOG, or --verifier NAME, or --controls"),
        (["audit", EXAMPLE, "--controls"], "give a LOG, or"),
        (["audit", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["audit", __file__], "neither JSON"),
        (["audit", EXAMPLE, "--alpha", "2"], "--alpha 2.0"),
        (["audit", EXAMPLE, "--tolerance", "-1"], "--tolerance -1.0"),
        (["audit", EXAMPLE, "--figure", "no/such/folder/x.png"], "could not be written"),
        (["audit", "--verifier", "rrs", "--sampler", "greedy"], "not made for the sampler 'greedy'"),
        (["audit", "--verifier", "spechub", "--drafts", "3"], "exactly 2 drafts"),
        (["audit", "--verifier", "rrs", "--figure", "x.png"], "--figure goes with"),
        (["audit", "--verifier", "magic"], "unknown verifier"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, capsys: Any, monkeypatch: Any) -> None:
    code, _, note = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert message in note


def test_damaged_parquet_and_rows_beyond_the_dump(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="read as parquet file"):
        audit_log(str(tmp_path / "log.parquet"))
    frame = pd.DataFrame({"token": [0], "p_tokens": [[0, 1]], "p_probs": [[0.5]]})
    frame.to_parquet(tmp_path / "short.parquet")
    with pytest.raises(InputError, match="row 0: 2 p_tokens but 1 p_probs"):
        audit_log(str(tmp_path / "short.parquet"))
    np.savez(tmp_path / "pair.npz", target_logits=np.zeros((2, 3)), draft_logits=np.zeros((2, 3)))
    log = written(tmp_path / "log.jsonl", [{"row": 2, "token": 0}])
    with pytest.raises(InputError, match=r"line 1: row 2, but .* has 2 rows"):
        audit_log(log, dump=str(tmp_path / "pair.npz"))


def test_a_log_larger_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSD_MEMORY_GB", "0.0001")
    with pytest.raises(InputError, match=r"a log of 60 positions would need .* GB"):
        audit_log(EXAMPLE)


def test_wealth_does_not_depend_on_what_comes_later(tmp_path: Path) -> None:
    """Shares are fixed beforehand: a log that goes on with more drafts has had the same wealth until then."""
    rule = VERIFIERS["rrs"]
    first, later = (entries(rule, "with_replacement", n, 15, seed=n) for n in (1, 3))
    later = [line | {"position": 15 + i, "step": 15 + i} for i, line in enumerate(later)]
    for line in first:
        del line["q"]
    first[3:9] = entries(rule, "with_replacement", 1, 15, seed=1)[3:9]
    short, long = (read_positions(written(tmp_path / f"{len(log)}.jsonl", log)) for log in (first, first + later))
    for one in (bound_test, lambda positions, level: draft_check(positions)):
        before, after = one(short, 0.01), one(long, 0.01)
        wagers = [getattr(found, "wager", found) for found in (before, after)]
        count = len(wagers[0].running)
        assert 0 < count < len(wagers[1].running)
        assert np.allclose(wagers[0].running, wagers[1].running[:count], rtol=0, atol=1e-12)
    # Fresh drafts steer the bets on faults: the same ones in both.
    drifts = long.drifts
    assert not drifts[0].any()
    assert drifts[20:].any()
    held = [wager(x.p_mass, x.cell, x.tolerance, drifts[: len(x)]) for x in (short, long)]
    assert np.allclose(held[0].running, held[1].running[:15], rtol=0, atol=1e-12)


@pytest.mark.parametrize("drafts", [[-1], [-1, 2], [2, -1, 1]])
def test_empty_slots_come_last(drafts: list[int], tmp_path: Path) -> None:
    line = entries(VERIFIERS["rrs"], "with_replacement", 1, 1)[0]
    with pytest.raises(InputError, match=r"an empty slot \(-1\) before the first or another draft"):
        read_positions(written(tmp_path / "x.jsonl", [line | {"drafts": drafts}]))
    if max(drafts) >= 0:
        read_positions(written(tmp_path / "x.jsonl", [line | {"drafts": sorted(drafts, reverse=True)}]))
