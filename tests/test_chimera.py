"""Draft heads on a tiny random target: a masked pass against a cache, leaks, resumed training, what is an error."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdsd_bounds import InputError

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

from test_models import rows_of
from test_models_cli import call
from test_trees_real import tiny
from tiny_models import ONE, build, tokenizer

from mdsd_bounds.models.chimera import (
    LOSSES,
    Chimera,
    HeadDraft,
    Places,
    Recipe,
    Shape,
    StateStore,
    head_draft,
    load_head,
    read_documents,
    read_facts,
    states_of,
    target_side,
    train_draft,
)
from mdsd_bounds.models.chimera import train as training
from mdsd_bounds.models.chimera.network import rms
from mdsd_bounds.models.chimera.start import least_squares
from mdsd_bounds.models.chimera.states import Sample
from mdsd_bounds.models.drafts import make_draft
from mdsd_bounds.models.forward import read_rows
from mdsd_bounds.models.loading import LoadedModel, load_model
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.chimera import HeadReader
from mdsd_bounds.trees.enumerate import tree_distribution
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.trees.verify import stops

VARIANTS = ["full", "context", "trigram", "medusa"]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chimera")
    words = tokenizer(ONE)
    build(root / "target", 0, words)
    build(root / "other", 5, words)
    build(root / "wider", 0, words, width=len(words) + 3)
    pick = random.Random(1)
    texts = ["".join(pick.choice("abcd ") for _ in range(90)) for _ in range(60)]
    (root / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return root


@pytest.fixture(scope="module")
def target(folder: Path) -> LoadedModel:
    return load_model(str(folder / "target"))


def some_network(target: LoadedModel, variant: str, depths: int = 3) -> Chimera:
    """A head with no weight at its starting value, so that nothing is hidden by a zero."""
    torch.manual_seed(3)
    network = Chimera(Shape(16, 2, depths, variant), target_side(target).gain)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.3)
    return network.eval()


def head(target: LoadedModel, variant: str, depths: int = 3) -> HeadDraft:
    return HeadDraft(some_network(target, variant, depths), target_side(target), target.model, {})


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_masked_pass_is_token_by_token_with_a_cache(target: LoadedModel, variant: str) -> None:
    made, side = head(target, variant), target_side(target)
    text = [int(x) for x in torch.randint(0, 9, (14,), generator=torch.Generator().manual_seed(1))]
    rows = made.network(side.embed(torch.tensor([text])), states_of(target.model, text)[None])
    masked = side.logits(rows[:, 0])
    for start in (1, 2, 3):
        reader = TreeReader(target.model, text[:start], states=True)
        drafting = HeadReader(reader, made, text[:start])
        for end in range(start, len(text) - 3):
            # The path of the text's own next tokens: at depth i the states end i tokens before the last one read.
            paths = [tuple(text[end : end + i]) for i in range(3)]
            own = torch.stack([masked[i, end - 1 + i] for i in range(3)])
            branch = [(text[end], (text[end + 1] + 1) % 9)]
            torch.testing.assert_close(drafting.logits([*paths, *branch])[:3], own, atol=1e-4, rtol=1e-4)
            reader.distributions(paths[:2])
            reader.advance(text[end : end + 1])
            drafting.advance(text[end : end + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_later_tokens_change_nothing_before_them(target: LoadedModel, variant: str) -> None:
    network, side = some_network(target, variant), target_side(target)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 9, (1, 20), generator=generator)
    states = torch.randn(1, 20, 16, generator=generator)
    before = network(side.embed(tokens), states)
    for place in (3, 9, 18):
        other, moved = tokens.clone(), states.clone()
        other[0, place:] = (other[0, place:] + 1) % 9
        moved[0, place:] += 1.0
        after = network(side.embed(other), states)
        assert torch.equal(after[:, :, :place], before[:, :, :place])
        after = network(side.embed(tokens), moved)
        for depth in range(3):
            # The state of the token at ``place`` is first seen where ``depth + 1`` tokens have followed it.
            seen = place + 1 + depth
            assert torch.equal(after[depth, :, :seen], before[depth, :, :seen])
            if network.has_states and seen < 20:
                assert not torch.equal(after[depth, :, seen], before[depth, :, seen])


def bigram_loss(target: LoadedModel, store: StateStore, count: int) -> float:
    """Cross-entropy of the best distribution given the last token alone, fitted on the text itself."""
    side = target_side(target)
    tokens, rows = [], []
    for number in range(count):
        sample = store.sample("text", [number])
        tokens.append(sample.tokens[0])
        rows.append(torch.softmax(side.logits(sample.states[0]), -1).double())
    p, last = torch.cat(rows), torch.cat(tokens)
    means = torch.stack([p[last == t].mean(0) if bool((last == t).any()) else p.mean(0) for t in range(side.width)])
    return float(-(p * means[last].log()).sum(-1).mean())


def recipe(**changes: Any) -> Recipe:
    small = {"depths": 2, "steps": 120, "window": 64, "batch": 4, "learning_rate": 1e-2}
    return Recipe(**{**small, **changes})


def trained(folder: Path, target: LoadedModel, out: Path, report: Any = silent, **changes: Any) -> dict[str, Any]:
    made = recipe(**changes)
    places = Places(out, folder / "states")
    return train_draft(target, str(folder / "text.jsonl"), places, made, LOSSES[made.loss], report)


@pytest.fixture(scope="module")
def made(folder: Path, target: LoadedModel) -> Path:
    trained(folder, target, folder / "head")
    return folder / "head"


def test_training_falls_below_the_bigrams(folder: Path, target: LoadedModel, made: Path) -> None:
    facts = read_facts(made)
    assert facts["steps"] == 120
    assert set(facts["windows"]) == {"text", "own"}
    assert min(facts["held_out"]["acceptance"]) > 0.4
    store = StateStore(folder / "states", target, read_documents(str(folder / "text.jsonl")), 64)
    network, side = load_head(made, target), target_side(target)
    store.prepare("held", 12, silent)
    losses = []
    with torch.no_grad():
        for number in range(12):
            sample = store.sample("held", [number])
            entering = network(side.embed(sample.tokens), sample.states, [0])[0, 0]
            p = torch.softmax(side.logits(sample.states[0]), -1)
            losses.append(LOSSES["ce"](p, side.logits(entering)))
    assert float(torch.cat(losses).mean()) < bigram_loss(target, store, 32) - 0.1


@pytest.mark.parametrize("moment", ["in a step", "in a checkpoint"])
def test_an_interrupted_run_ends_in_the_same_bytes(
    folder: Path, target: LoadedModel, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {**trained(folder, target, tmp_path / "whole", steps=12, depths=1, stretch=16)}
    monkeypatch.setattr(training, "EVERY", 0.0)
    own_step, own_write, calls = training.one_step, training.write_whole, [0]

    def counted(stop: Any, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return stop(*given)

    with monkeypatch.context() as patch:
        name, own = ("one_step", own_step) if moment == "in a step" else ("write_whole", own_write)
        patch.setattr(training, name, lambda *given: counted(own, *given))
        with pytest.raises(KeyboardInterrupt):
            trained(folder, target, tmp_path / "cut", steps=12, depths=1, stretch=16)
    said: list[str] = []
    again = trained(folder, target, tmp_path / "cut", said.append, steps=12, depths=1, stretch=16)
    assert any("goes on after step" in line for line in said)
    assert again == whole
    names = {file.name for file in (tmp_path / "cut").iterdir()}
    assert names == {"head.safetensors", "head.json", "plan.json"}
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED = """
import os, sys
from pathlib import Path
from mdsd_bounds.models.chimera import LOSSES, Places, Recipe, train_draft
from mdsd_bounds.models.chimera import train
from mdsd_bounds._backend import whole_files
from mdsd_bounds.models.loading import load_model
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
target = load_model(str(folder / "target"))
recipe = Recipe(depths=1, steps=12, window=64, batch=4, learning_rate=1e-2, stretch=16)
train.EVERY = 0.0
own_step, own_replace = train.one_step, os.replace
# Killed in a step, then while a checkpoint gets its name, then while the finished head does.
for moment in ("step 5", "checkpoint.safetensors", "head.json"):
    child = os.fork()
    if child == 0:
        def step(run, *given):
            if moment == "step 5" and run.step == 5: os.kill(os.getpid(), 9)
            return own_step(run, *given)
        def replace(old, new):
            if Path(new).name == moment and (moment != "checkpoint.safetensors" or once): os.kill(os.getpid(), 9)
            once.append(new)
            own_replace(old, new)
        once = []
        train.one_step, os.replace = step, replace
        train_draft(target, str(folder / "text.jsonl"), Places(out, folder / "states"), recipe, LOSSES["ce"], print)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9, moment
"""


def test_a_killed_run_ends_in_the_same_bytes(folder: Path, target: LoadedModel, tmp_path: Path) -> None:
    trained(folder, target, tmp_path / "whole", steps=12, depths=1, stretch=16)
    told = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "cut")], check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert "goes on after step" in told.stdout
    trained(folder, target, tmp_path / "cut", steps=12, depths=1, stretch=16)
    for name in ("head.safetensors", "head.json", "plan.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "cut").iterdir())) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_starting_weights_are_least_squares(folder: Path, target: LoadedModel, variant: str) -> None:
    store = StateStore(folder / "states", target, read_documents(str(folder / "text.jsonl")), 64)
    counts = {"text": store.prepare("text", 32, silent)}
    side, network = target_side(target), Chimera(Shape(16, 2, 2, variant), target_side(target).gain)
    least_squares(network, side, store, counts)

    def error() -> list[float]:
        """Summed squares at each depth, from the network's own pass with its last normalisation left out."""
        totals = [0.0, 0.0]
        for number in range(32):
            sample = store.sample("text", [number])
            states, text = sample.states[0], network.trigrams(side.embed(sample.tokens))[0]
            for i in range(2):
                guess = torch.zeros_like(states)
                if network.has_states:
                    before = torch.cat([torch.zeros(1 + i, 16), states[: -1 - i]])
                    guess = guess + rms(before / network.gain) @ network.from_state[i].T
                if network.has_text:
                    guess = guess + rms(text) @ network.from_text[i].T
                totals[i] += float((rms(states / network.gain) - guess).square().sum())
        return totals

    with torch.no_grad():
        best = error()
        weights = [w for name, w in network.named_parameters() if name.startswith("from_")]
        for weight in weights:
            change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.02
            for sign in (1, -1):
                weight += sign * change
                assert all(one > other for one, other in zip(error(), best, strict=True))
                weight -= sign * change


def test_a_step_reads_a_stretch_with_places_that_count() -> None:
    tokens = torch.arange(80).reshape(2, 40)
    counts = torch.zeros(2, 40, dtype=torch.bool)
    counts[0, 25:] = True
    counts[1, :20] = True
    sample = Sample(tokens, tokens[..., None].float(), counts)
    firsts = set()
    for step in range(60):
        part = training.part_of(sample, recipe(stretch=16), step)
        assert torch.equal(part.tokens, part.tokens[:, :1] + torch.arange(16))
        assert torch.equal(part.states[..., 0], part.tokens.float())
        assert torch.equal(part.counts, counts.flatten()[part.tokens])
        assert bool(part.counts.any(-1).all())
        firsts.add(tuple(part.tokens[:, 0].tolist()))
    # 24 is the last place where the first text's stretch can begin; the second's begins at 0 to 4.
    assert firsts == {(24, 40 + k) for k in range(5)}


def test_minutes_fix_the_steps_once(folder: Path, target: LoadedModel, tmp_path: Path) -> None:
    said: list[str] = []
    facts = trained(folder, target, tmp_path / "head", said.append, steps=None, minutes=0.02, depths=1)
    assert any("steps" in line and "s a step" in line for line in said)
    assert facts["steps"] == json.loads((tmp_path / "head" / "plan.json").read_text())["steps"] >= 1
    assert trained(folder, target, tmp_path / "head", said.append, steps=None, minutes=0.02, depths=1) == facts
    assert "already complete" in said[-1]


def test_a_run_begins_with_another_heads_weights(folder: Path, target: LoadedModel, made: Path, tmp_path: Path) -> None:
    places = Places(tmp_path / "more", folder / "states", made)
    more = recipe(steps=1, learning_rate=1e-12, loss="tv")
    facts = train_draft(target, str(folder / "text.jsonl"), places, more, LOSSES["tv"], silent)
    assert facts["start_sha256"] == read_facts(made)["sha256"]
    for one, other in zip(
        load_head(places.out, target).parameters(), load_head(made, target).parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


def test_nan_stops_and_keeps_the_last_checkpoint(
    folder: Path, target: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVERY", 0.0)
    calls = [0]

    def broken(p: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return LOSSES["ce"](p, logits) * (float("nan") if calls[0] == 4 else 1.0)

    places = Places(tmp_path / "head", folder / "states")
    with pytest.raises(InputError, match="step 4: the loss is not finite; the last checkpoint is kept"):
        train_draft(target, str(folder / "text.jsonl"), places, recipe(depths=1, steps=9), broken, silent)
    held = training.read_arrays(places.out / "checkpoint.safetensors")
    assert int(held["step"]) == 3
    assert all(bool(torch.isfinite(value).all()) for value in held.values())
    file = places.out / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match="truncated or corrupt"):
        train_draft(target, str(folder / "text.jsonl"), places, recipe(depths=1, steps=9), LOSSES["ce"], silent)


def test_what_is_no_text_or_another_run_is_one_line(
    folder: Path, target: LoadedModel, made: Path, tmp_path: Path
) -> None:
    def run(text: str, out: Path = tmp_path / "out", **changes: Any) -> None:
        places = Places(out, tmp_path / "states")
        train_draft(target, text, places, recipe(depths=1, steps=2, **changes), LOSSES["ce"], silent)

    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    text = str(folder / "text.jsonl")
    for given, message in (
        ((str(tmp_path / "none.txt"),), "no such file; give the name"),
        ((str(tmp_path / "empty.txt"),), "holds no text; give files with text"),
        ((str(tmp_path / "short.txt"),), "shorter than the shortest window"),
        ((str(tmp_path / "bytes.txt"),), "is UTF-16 text"),
        ((text, tmp_path / "full"), "is not empty and holds no plan.json"),
        ((text, made), "holds the head of another run"),
        ((text, tmp_path / "empty.txt"), "cannot make the head's folder"),
    ):
        with pytest.raises(InputError, match=message) as stop:
            run(*given)
        assert "\n" not in str(stop.value)
    for changes, message in (
        ({"steps": 3, "minutes": 1.0}, "either a number of steps or minutes"),
        ({"steps": 0}, "steps 0: give an integer"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"own_share": 2.0}, "share of own text"),
        ({"depths": 9}, "depths 9: give 1 to 4"),
        ({"variant": "none"}, "variant 'none'"),
    ):
        with pytest.raises(InputError, match=message):
            trained(folder, target, tmp_path / "bad", **changes)


def test_a_head_of_another_target_or_a_damaged_one_is_one_line(
    folder: Path, target: LoadedModel, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="trained on another target"):
        head_draft(str(made), load_model(str(folder / "other")))
    with pytest.raises(InputError, match="but the target has 12; train one for it"):
        head_draft(str(made), load_model(str(folder / "wider")))
    with pytest.raises(InputError, match="holds no finished draft head"):
        head_draft(str(tmp_path), target)
    with pytest.raises(InputError, match="the head has depths 1 to 2"):
        head_draft(f"{made}:3", target)
    shutil.copytree(made, tmp_path / "cut")
    weights = tmp_path / "cut" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated, or not the file"):
        head_draft(str(tmp_path / "cut"), target)
    (tmp_path / "cut" / "head.json").write_text("{}")
    with pytest.raises(InputError, match="no description of a draft head"):
        head_draft(str(tmp_path / "cut"), target)
    facts = json.loads((made / "head.json").read_text())
    facts["shape"]["hidden"] = 32
    (tmp_path / "cut" / "head.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="states of width 32, but the target's have 16"):
        head_draft(str(tmp_path / "cut"), target)
    store = StateStore(tmp_path / "states", target, read_documents(str(folder / "text.jsonl")), 64)
    store.prepare("text", 1, silent)
    (block,) = store.folder.iterdir()
    block.write_bytes(block.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated or corrupt"):
        store.sample("text", [0])


def test_the_commands_take_a_head_as_any_draft(
    folder: Path, target: LoadedModel, made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tree``: acceptances counted over many steps agree with ``1 - TV`` from the masked pass; ``log``: same rows."""
    (tmp_path / "p.txt").write_text("abc dab\ncab cab cab\nbad cad dab a\n" * 12)
    pair = ["--target", str(folder / "target"), "--draft", f"chimera:{made}", "--prompts", str(tmp_path / "p.txt")]
    code, _, _ = call(
        "tree", *pair, "--out", str(tmp_path / "log"), "--builder", "chain", "--shape", "1", "--new-tokens", "12",
        "--quiet", capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    texts = [target.tokenizer(line)["input_ids"] for line in (tmp_path / "p.txt").read_text().splitlines()]
    draft = make_draft(f"chimera:{made}", target, "float32", "cpu")
    exact, counted = [], []
    for line in lines:
        text = texts[line["doc"]]
        # Any token may follow: its distribution is the one wanted.
        p, q = (
            torch.softmax(read([[*text, 0]], [len(text)])[0].double(), -1) for read in (target_rows(target), draft.read)
        )
        assert line["q"][0] == pytest.approx(float(q[line["drafts"][0]]), rel=2e-4)
        exact.append(float(torch.minimum(p, q).sum()))
        counted.append(float(line["accepted"]))
        text += line["tokens"]
    spread = sum(a * (1 - a) for a in exact) ** 0.5
    assert len(lines) > 200
    assert abs(sum(counted) - sum(exact)) < 4 * spread
    for depth in (1, 2):
        pair[3] = f"chimera:{made}:{depth}"
        code, text, _ = call(
            "log", *pair, "--out", str(tmp_path / str(depth)), "--new-tokens", "3", "--store", "hidden",
            "--quiet", capsys=capsys, monkeypatch=monkeypatch,
        )  # fmt: skip
        assert code == 0
        batch = rows_of(tmp_path / str(depth))
        place = 40
        mine = batch.doc == int(batch.doc[place])
        ids = target.tokenizer((tmp_path / "p.txt").read_text().splitlines()[int(batch.doc[place])])["input_ids"]
        ids = [*ids, *batch.token[mine].tolist()]
        at = int(batch.position[place])
        own = make_draft(pair[3], target, "float32", "cpu").read([ids[: at + 1]], [at])[0]
        torch.testing.assert_close(batch.draft_logits[place], own, atol=1e-4, rtol=1e-4)
    dump = str(tmp_path / "1")
    for more in (["compare", dump, "--drafts", "1,2"], ["advise", dump, "--most-drafts", "2", "--draft-cost", "0.3"]):
        more += ["--sampler", "without_replacement", "--verifier", "rrs_without_replacement", "--quiet"]
        code, text, _ = call(*more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0
        assert "rrs_without_replacement" in text


def test_the_command_trains_and_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*more: str) -> tuple[int, str, str]:
        options = ["--target", str(folder / "target"), "--window", "64", "--cache", str(folder / "states")]
        text = ["--text", str(folder / "text.jsonl")]
        return call("train-draft", *options, *text, *more, capsys=capsys, monkeypatch=monkeypatch)

    for loss in (["--loss", "tv"], ["--loss", "alpha", "--drafts", "2"]):
        out = str(tmp_path / loss[1])
        code, text, notes = run("--out", out, "--steps", "2", "--depths", "1", *loss)
        assert code == 0
        assert text.startswith(f"{out}: 2 steps; one draft is accepted with probability 0.")
        assert "step 2 of 2" in notes
        assert "0 s left" in notes
    assert read_facts(tmp_path / "alpha")["recipe"]["loss"] == "alpha 2 without_replacement"
    for more, message in (
        (["--out", str(tmp_path / "tv"), "--steps", "3", "--depths", "1"], "holds the head of another run"),
        (["--out", str(tmp_path / "new")], "give either a number of steps or minutes"),
        (["--out", str(tmp_path / "new"), "--steps", "1", "--start", str(tmp_path)], "holds no finished draft head"),
    ):
        code, text, notes = run(*more)
        assert (code, text) == (2, "")
        assert message in notes.splitlines()[-1]
    pair = ["--target", str(folder / "other"), "--draft", f"chimera:{tmp_path / 'tv'}", "--prompts", "humaneval"]
    for name in ("log", "tree"):
        code, text, notes = call(name, *pair, "--out", str(tmp_path / "x"), capsys=capsys, monkeypatch=monkeypatch)
        assert (code, text) == (2, "")
        assert "trained on another target" in notes.splitlines()[-1]


def test_a_head_drafts_losslessly() -> None:
    """Every tree and every outcome of its verification, added up, is the target's distribution of two tokens."""
    model = tiny(seed=0, vocab_size=4)
    toy = LoadedModel(model, None, {"source": "toy"})
    torch.manual_seed(5)
    side = target_side(toy)
    size = side.weight.shape[1]
    drafting = HeadDraft(Chimera(Shape(size, 1, 2), side.gain).eval(), side, model, {})
    text = [3, 1, 2]
    reader = TreeReader(model, text, states=True)
    below = HeadReader(reader, drafting, text)
    p = reader.distributions([(), (0,), (1,), (2,), (3,)])
    total = torch.zeros(4, 4, dtype=torch.float64)
    trees = tree_distribution(lambda q, draw: rsd_c(q, draw, (2, 1)), below.distributions)
    assert len(trees) > 100
    for tree, weight in trees:
        for stop in stops(tree, reader.distributions(tree.paths), "recursive"):
            assert stop.probs is not None
            path = tree.paths[stop.node]
            for token, chance in enumerate(stop.probs.tolist()):
                tokens, chance = (*path, token), weight * stop.probability * chance
                if len(tokens) > 1:
                    total[tokens[0], tokens[1]] += chance
                else:
                    total[tokens[0]] += chance * p[1 + tokens[0]]
    torch.testing.assert_close(total, p[0][:, None] * p[1:], atol=1e-12, rtol=0)


def target_rows(target: LoadedModel) -> Any:
    return lambda text, starts: read_rows(target.model, text, starts)
