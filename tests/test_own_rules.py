"""A rule of one's own works as the shipped ones do: a Verifier, a function, module:NAME or a file, in every command."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from harness import row
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS, InputError, acceptance_rate, open_dump
from mdsd_bounds._backend.progress import stage, watching
from mdsd_bounds.audit import audit_rule, load_rule
from mdsd_bounds.audit.bound_gap import BoundGap, in_words
from mdsd_bounds.cli import options
from mdsd_bounds.pipeline.evaluate_block import Settings, matching_verifiers
from mdsd_bounds.pipeline.run import Execution, run
from mdsd_bounds.samplers import Sampler, register_sampler
from mdsd_bounds.verifiers import Verifier, enumerate_verifier, from_function, get_verifier, register_verifier
from tests.command import call

RULE = '''
"""Two forms of one rule, and one that is lossy."""
import torch
from helper import keep


def probs(p, q, drafts):
    """Speculative sampling of the first draft: [B, V]."""
    x = drafts[:, :1]
    one = torch.zeros_like(p).scatter(1, x, 1.0)
    accept = (p.gather(1, x) / q.gather(1, x)).clamp(max=1.0)
    left = (p - q).clamp(min=0)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, p)
    return keep(accept * one + (1 - accept) * left / left.sum(1, keepdim=True))


def step(p, q, drafts, generator):
    """The same rule as a step: [B]."""
    return torch.multinomial(probs(p, q, drafts), 1, generator=generator)[:, 0]


def first(p, q, drafts, generator):
    """Always the first draft: lossy."""
    return drafts[:, 0]


def broken(p, q, drafts, generator):
    raise IndexError("index -1 is out of bounds")


def one(p):
    return p


def __getattr__(name):
    if name == "RULE":
        from mdsd_bounds.verifiers import from_function

        return from_function(probs, "my_rule")
    raise AttributeError(name)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the rules, a file that they import, and a dump; the process stands in it."""
    (tmp_path / "own_rule_of_a_test.py").write_text(RULE)
    (tmp_path / "helper.py").write_text("def keep(x):\n    return x\n")
    generator = np.random.default_rng(0)
    target = generator.normal(size=(12, 9)).astype(np.float32) * 2
    draft = target + generator.normal(size=target.shape).astype(np.float32)
    np.savez(tmp_path / "pair.npz", target_logits=target, draft_logits=draft, doc=np.arange(12) // 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def registries() -> Iterator[None]:
    before, samplers = dict(VERIFIERS), dict(SAMPLERS)
    yield
    for registry, held in ((VERIFIERS, before), (SAMPLERS, samplers)):
        registry.clear()
        registry.update(held)  # type: ignore[arg-type]


def exact_first(p: Tensor, q: Tensor, n: int) -> float:
    """Pr(output among n drafts with replacement) of speculative sampling of the first one, by hand."""
    accept = torch.minimum(p, q).sum()
    left = (p - q).clamp(min=0)
    # A token of the residual was not the first draft's own; another draft may hold it all the same.
    other = 0.0
    for x in range(len(p)):
        reject = float(q[x] - torch.minimum(p[x], q[x]))
        for y in range(len(p)):
            drafted = 1.0 if y == x else 1.0 - float(1 - q[y]) ** (n - 1)
            other += reject * float(left[y] / left.sum()) * drafted
    return float(accept) + other


def forms(folder: Path) -> dict[str, Any]:
    module = get_verifier("own_rule_of_a_test:RULE")
    return {
        "Verifier": module,
        "probabilities": "own_rule_of_a_test:probs",
        "file": f"{folder}/own_rule_of_a_test.py:probs",
        "file of a Verifier": "own_rule_of_a_test.py:RULE",
        "steps": "own_rule_of_a_test:step",
        "steps of a file": "own_rule_of_a_test.py:step",
    }


def test_every_form_gives_the_same_rate(folder: Path) -> None:
    p, q = row(6, 0), row(6, 1)
    for n in (1, 2, 3):
        exact = exact_first(p, q, n)
        for form, rule in forms(folder).items():
            found = acceptance_rate(p, q, n, "with_replacement", rule, samples=4000)
            assert abs(float(found.value) - exact) <= 5 * float(found.stderr) + 1e-12, form
            assert float(found.stderr) > 0


def test_a_function_of_probabilities_can_be_enumerated(folder: Path) -> None:
    p, q = row(5, 2), row(5, 3)
    found = enumerate_verifier(get_verifier("own_rule_of_a_test:probs"), p, q, 2, sampler="with_replacement")
    assert float((found.probs - p).abs().max()) <= 1e-12
    assert found.acceptance == pytest.approx(exact_first(p, q, 2), abs=1e-12)
    with pytest.raises(InputError, match="gives steps only"):
        enumerate_verifier(get_verifier("own_rule_of_a_test:step"), p, q, 2, sampler="with_replacement")


def test_agreeing_steps_do_not_look_exact() -> None:
    found = acceptance_rate(row(4, 0), row(4, 1), 2, "with_replacement", lambda p, q, drafts, generator: drafts[:, 0])
    assert float(found.value) == 1.0
    assert float(found.stderr) > 0


def test_audit_enumerates_where_it_can_and_measures_the_gap(folder: Path) -> None:
    p, q = (torch.stack([row(7, seed) for seed in range(k, k + 6)]) for k in (0, 10))
    documents = torch.arange(6) // 2
    good = audit_rule(load_rule("own_rule_of_a_test:probs"), ("with_replacement",), (1, 2), rows=(p, q, documents))
    assert not good.lossy
    assert [row.drafts for row in good.enumerated] == [1, 2]
    by_hand = np.mean([exact_first(p[b], q[b], 2) for b in range(6)])
    assert abs(good.gaps[1].acceptance - by_hand) <= 5 * good.gaps[1].mc_stderr
    assert good.gaps[1].bound - good.gaps[1].acceptance == pytest.approx(good.gaps[1].gap)
    assert good.gaps[1].ci_low <= good.gaps[1].gap <= good.gaps[1].ci_high
    lossy = audit_rule(load_rule("own_rule_of_a_test:first"), ("with_replacement",), (2,), rows=(p, q), steps=400)
    assert lossy.lossy
    assert not lossy.enumerated
    assert lossy.gaps[0].gap < 0


def test_audit_says_the_distance_beside_the_verdict(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    arguments = ("--sampler", "with_replacement", "--drafts", "2", "--dump", "pair.npz", "--steps", "80", "--quiet")
    code, out, _ = call("audit", "--verifier", "own_rule_of_a_test.py:probs", *arguments, capsys=capsys,
                        monkeypatch=monkeypatch)  # fmt: skip
    first, second = out.splitlines()[:2]
    assert code == 0
    assert first.startswith("verdict: own_rule_of_a_test.py:probs: lossless on every enumerated row")
    assert second.startswith("bound: on 12 real rows its acceptance is ")
    assert second.endswith("percentage points below the bound")
    code, out, _ = call("audit", "--verifier", "own_rule_of_a_test:first", *arguments, "--format", "json",
                        capsys=capsys, monkeypatch=monkeypatch)  # fmt: skip
    assert code == 1
    assert json.loads(out)["bound"][0]["gap"] < 0


def test_an_estimate_above_the_bound_is_not_called_below_it() -> None:
    above = BoundGap("with_replacement", 1, 32, 0.9013, 0.9, -0.0013, -0.004, 0.001, 0.001)
    under = BoundGap("with_replacement", 2, 32, 0.9268, 0.94, 0.0132, 0.006, 0.021, 0.001)
    text = in_words((above, under))
    assert text == (
        "on 32 real rows its acceptance is within 1.32 percentage points of the bound; bound minus acceptance: -0.13 "
        "(with_replacement, n=1, 95% interval -0.40 to 0.10); 1.32 (with_replacement, n=2, 95% interval 0.60 to 2.10)"
    )
    alone = dataclasses.replace(above, ci_low=float("nan"), ci_high=float("nan"))
    assert in_words((alone,)).endswith("within 0.13 percentage points of the bound; bound minus acceptance: -0.13 "
                                       "(with_replacement, n=1)")  # fmt: skip
    assert in_words((under,)) == "on 32 real rows its acceptance is 1.32 percentage points below the bound"


@pytest.mark.parametrize("form", ["own_rule_of_a_test:step", "own_rule_of_a_test.py:probs", "own_rule_of_a_test:RULE"])
def test_compare_sets_it_beside_the_shipped_ones(form: str, folder: Path, capsys: Any, monkeypatch: Any) -> None:
    code, out, err = call(
        "compare", "pair.npz", "--verifier", f"rrs,{form}", "--sampler", "with_replacement", "--drafts", "1,2",
        "--samples", "200", "--format", "json", "--quiet", capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    lines = found if isinstance(found, list) else found["rows"]
    names = [line["verifier"] for line in lines]
    assert set(names) == {"rrs", "my_rule" if form.endswith("RULE") else form}
    mine = next(line for line in lines if line["verifier"] != "rrs" and line["drafts"] == 1)
    assert abs(mine["acceptance"] - mine["bound"]) <= 5 * mine["mc_stderr"] + 1e-12


@pytest.mark.parametrize("command", ["advise", "report"])
def test_other_commands_take_it(command: str, folder: Path, capsys: Any, monkeypatch: Any) -> None:
    own = ["--sampler", "with_replacement", "--verifier", "own_rule_of_a_test:probs", "--samples", "20", "--quiet"]
    further = ["--draft-cost", "0.1", "--nodes", "4"] if command == "advise" else ["--out", "r.html", "--drafts", "1,2"]
    code, out, err = call(command, "pair.npz", *own, *further, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    shown = out if command == "advise" else Path("r.html").read_text()
    assert "own_rule_of_a_test:probs".replace("_", " ") in shown.replace("_", " ")


def test_the_page_runs_as_it_is_written(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    page = (Path(__file__).parents[1] / "docs/howto/my_verifier.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:3]]
    commands = page.split("```\nmdsd ")[1].split("```")[0]
    (folder / "my_rule.py").write_text("\n".join(blocks))
    lines = [line.removeprefix("mdsd ") for line in commands.strip().splitlines()]
    assert len(lines) == 4
    for line in lines:
        # Over a small vocabulary: the rows of the example have 151,936 tokens.
        words = line.replace(" example ", " pair.npz ").split()
        small = ["--dump", "pair.npz"] if words[0] == "audit" else []
        code_, out, err = call(*words, *small, "--quiet", capsys=capsys, monkeypatch=monkeypatch)
        assert code_ == 0, err
        assert "my_rule.py:in_turn" in out or "report.html" in out
    rule = get_verifier("my_rule.py:in_turn")
    p, q = row(5, 7), row(5, 8)
    found = enumerate_verifier(rule, p, q, 3, sampler="with_replacement")
    assert float((found.probs - p).abs().max()) <= 1e-12
    exact = acceptance_rate(p, q, 3, "with_replacement", "rrs")
    assert found.acceptance == pytest.approx(float(exact.value), abs=1e-12)
    distinct = get_verifier("my_rule.py:in_turn_distinct")
    for few in (q, torch.tensor([0.0, 0.7, 0.3, 0.0, 0.0], dtype=torch.float64)):
        found = enumerate_verifier(distinct, p, few, 3, sampler="without_replacement")
        assert float((found.probs - p).abs().max()) <= 1e-12


def test_nobody_vouches_for_a_plain_function() -> None:
    """A lossy function may stay below the bound: neither the rate nor the sentence may call it lossless."""
    best_first = from_function(lambda p, q, drafts: p.scatter(1, drafts[:, :1], 0.5), "best_first")
    assert not best_first.audited
    rate = acceptance_rate([0.2, 0.8], [0.7, 0.3], 2, "with_replacement", "rrs")
    assert rate.lossless
    own = acceptance_rate(row(4, 1), row(4, 2), 1, "with_replacement", lambda p, q, drafts: p)
    assert own.lossless is None
    assert "not audited" in repr(own)
    assert "lossless" not in repr(own)


def test_a_function_names_its_samplers(folder: Path) -> None:
    def rule(p: Any, q: Any, drafts: Any) -> Any:
        return p

    rule.samplers = "with_replacement"  # type: ignore[attr-defined]
    assert from_function(rule).samplers == ("with_replacement",)
    for wrong in ((), ("independent",), ("nothing",)):
        rule.samplers = wrong  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="name some of with_replacement"):
            from_function(rule)


def test_commands_say_that_a_rule_is_not_audited(folder: Path, capsys: Any, monkeypatch: Any) -> None:
    code, out, err = call("compare", "pair.npz", "--verifier", "rrs,own_rule_of_a_test.py:probs", "--sampler",
                          "with_replacement", "--drafts", "2", capsys=capsys, monkeypatch=monkeypatch)  # fmt: skip
    assert code == 0, err
    assert "own_rule_of_a_test.py:probs (not audited) on with_replacement" in out
    assert "mdsd audit --verifier own_rule_of_a_test.py:probs" in err
    assert "rrs (not audited)" not in out


def test_results_of_other_code_are_not_taken_for_its_own(folder: Path) -> None:
    own, dump = folder / "own_rule_of_a_test.py", open_dump(str(folder / "pair.npz"))

    def key() -> str:
        chosen = matching_verifiers([f"{own}:first"], ("with_replacement",), (1,))
        return Settings(("with_replacement",), (1,), verifiers=chosen).key(dump)

    before = key()
    assert key() == before
    own.write_text(RULE.replace("return drafts[:, 0]", "return drafts[:, -1]"))
    assert key() != before
    # Functions without a file are told apart by their code.
    ways = [from_function(eval(f"lambda p, q, drafts, generator: drafts[:, {k}]")) for k in (0, 0, 1)]
    keys = [Settings(("with_replacement",), (1,), verifiers=(way,)).key(dump) for way in ways]
    assert keys[0] == keys[1] != keys[2]


def test_installed_rules_are_in_all(monkeypatch: pytest.MonkeyPatch, registries: None) -> None:
    from mdsd_bounds.verifiers import registry

    rule = dataclasses.replace(VERIFIERS["nss"], name="elsewhere")

    class Point:
        name, value = "theirs", "theirs:RULE"

        def load(self) -> Any:
            return rule

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    chosen = matching_verifiers(None, ("with_replacement",), (1,))
    # Under the name that its package gives it.
    assert chosen[-1] == "theirs"
    assert get_verifier("theirs").name == "theirs"


@pytest.mark.usefixtures("registries")
def test_registered_rules_and_samplers_are_found_by_name() -> None:
    rule = register_verifier(lambda p, q, drafts: p, "ignores")
    assert get_verifier("ignores") is rule
    assert register_verifier(rule) is rule
    assert "ignores" in matching_verifiers(["all"], ("with_replacement",), (1,))
    with pytest.raises(InputError, match="'rrs' is registered already"):
        register_verifier(rule, "rrs")
    sampler = register_sampler(Sampler("again", lambda q, drawn, k, n: q, replacement=True))
    assert register_sampler(sampler) is sampler
    assert "again" in from_function(lambda p, q, drafts: p).samplers
    found = acceptance_rate(row(4, 0), row(4, 1), 2, "again", lambda p, q, drafts: p, samples=4000)
    same = acceptance_rate(row(4, 0), row(4, 1), 2, "with_replacement", lambda p, q, drafts: p, samples=4000)
    assert float((found.value - same.value).abs()) <= 5 * float(found.stderr + same.stderr)
    with pytest.raises(InputError, match="'greedy' is registered already"):
        register_sampler(dataclasses.replace(sampler, name="greedy"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("own_rule_of_a_test:nothing", r"does not load \(AttributeError.*path/to/file.py:NAME"),
        ("no_file.py:step", r"does not load \(FileNotFoundError.*check the path"),
        ("own_rule_of_a_test:one", "takes 1 arguments; give a Verifier, a function step"),
        ("own_rule_of_a_test:torch", "module, neither a mdsd Verifier nor a function"),
        (3, "int is neither a name, a Verifier nor a function"),
        ("nothing", "choose one of .*optimal.*, or give your own as module:NAME"),
    ],
)
def test_what_is_no_rule_is_said(rule: Any, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        get_verifier(rule)


def test_what_it_raises_names_it(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'own_rule_of_a_test:broken' raised IndexError.*sampler with_repl.*n=2.*fix"):
        acceptance_rate(row(4, 0), row(4, 1), 2, "with_replacement", "own_rule_of_a_test:broken")
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="empty draft slots hold -1"):
        acceptance_rate(row(4, 0), q, 3, "without_replacement", "own_rule_of_a_test:broken")

    # What is passed as an object raises as it is, with its own traceback.
    def ill(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        acceptance_rate(row(4, 0), row(4, 1), 2, "with_replacement", ill)


def test_two_rules_of_one_name_are_never_mixed(folder: Path) -> None:
    own = dataclasses.replace(get_verifier("own_rule_of_a_test:probs"), name="rrs")
    with pytest.raises(InputError, match="two verifiers are called 'rrs'"):
        matching_verifiers([own], ("with_replacement",), (1,))
    shipped = matching_verifiers(["mdsd_bounds.verifiers.schemes.rrs:VERIFIER", "rrs"], ("with_replacement",), (1,))
    assert shipped == ("rrs",)


def test_progress_nests_and_is_never_taken_back(folder: Path) -> None:
    seen: list[float] = []
    with watching(seen.append), stage(0, 2), stage(1, 4):
        pass
    assert seen == [0.25, 0.5]
    said: list[tuple[float, int]] = []
    chosen = matching_verifiers(["nss", "own_rule_of_a_test:step"], ("with_replacement",), (1, 2))
    settings = Settings(("with_replacement",), (1, 2), verifiers=chosen, samples=10)
    run(open_dump("pair.npz"), settings, progress=lambda done, total: said.append((done, total)))
    shares = [done for done, _ in said]
    assert shares == sorted(set(shares))
    assert shares[0] == 0
    assert said[-1] == (12, 12)
    # One block of rows, and yet many reports.
    assert len([x for x in shares if 0 < x < 12]) >= 24


def test_a_slow_comparison_names_samples(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 30.0, 60.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with options.progress_bar("dump", False, options.sampling_hint(500)) as report:
        assert report is not None
        report(0, 10)
        report(0.5, 10)
        report(1.5, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "dump: 0.5 of 10, 570 s left"
    assert "fewer --samples (now 500)" in lines[1]
    assert len(lines) == 3


def test_workers_find_it(folder: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    again = register_sampler(Sampler("again", lambda q, drawn, k, n: q, replacement=True))
    given: list[str | Verifier] = [
        "own_rule_of_a_test:probs", "own_rule_of_a_test.py:step", from_function(lambda p, q, drafts: p, "a lambda"),
        register_verifier(lambda p, q, drafts: p, "registered here"),
    ]  # fmt: skip
    try:
        chosen = matching_verifiers(given, ("again",), (1, 2))
        settings = Settings(("again",), (1, 2), verifiers=chosen, samples=10)
        dump = open_dump(str(folder / "pair.npz"))
        local = run(dump, settings)
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
        far = run(dump, settings, execution=Execution("ray"))
    finally:
        ray.shutdown()
        SAMPLERS.pop(again.name)
        VERIFIERS.pop("registered here")
    assert local is not None
    assert far is not None
    pd.testing.assert_frame_equal(local, far)
