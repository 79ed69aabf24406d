"""Options of servers: min-p, logit bias, penalties and cuts of one side, on full and on truncated rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from mdsd_bounds import InputError, open_dump, to_probs
from mdsd_bounds.bounds.truncated.distributions import TruncatedDistribution, shifted, truncated_distribution
from mdsd_bounds.bounds.truncated.intervals import solve_cut
from mdsd_bounds.cli import app
from mdsd_bounds.cli.sampling import read_bias
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import Execution, run
from mdsd_bounds.sampling import SamplingOptions, adjusted

DATA = Path(__file__).parent / "data" / "options"


def bound(path: Path | str, **options: object) -> pd.DataFrame:
    """Per-position bounds of one draft with replacement."""
    table = run(open_dump(str(path)), Settings(("with_replacement",), (1,), **options))  # type: ignore[arg-type]
    assert table is not None
    return table


def overlap(p: torch.Tensor, q: torch.Tensor) -> np.ndarray:
    """Alpha* of one draft, by hand."""
    found: np.ndarray = torch.minimum(p, q).sum(-1).numpy()
    return found


@pytest.mark.parametrize(
    ("file", "arguments", "right"),
    [
        ("min_p", [], 0.668363),
        ("min_p", ["--target-min-p", "0.1"], 0.627890),
        ("min_p", ["--min-p", "0.1"], 0.640830),
        ("top_k", ["--target-top-k", "3"], 0.452827),
        ("top_k", ["--top-k", "3"], 0.501883),
        ("top_k", ["--top-k", "40", "--target-top-k", "3"], 0.452827),
    ],
)
def test_cuts_by_command(file: str, arguments: list[str], right: float) -> None:
    command = ["bounds", str(DATA / f"{file}.npz"), "--sampler", "with_replacement", "--drafts", "1", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--format", "json", *arguments])
    assert json.loads(result.stdout)[0]["mean"] == pytest.approx(right, abs=5e-7)
    assert ("note: target:" in result.stderr) == bool(arguments)


@pytest.mark.parametrize("width", [30, 10_000])
def test_min_p_against_numpy(width: int) -> None:
    logits = 3 * torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    for temperature, top_k, top_p, min_p in [(0.7, None, None, 0.1), (1.3, 7, None, 0.05), (1.0, None, 0.8, 0.02)]:
        scaled = logits.double().numpy() / temperature
        p = np.exp(scaled - scaled.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p = np.where(p >= min_p * p.max(1, keepdims=True), p, 0)
        if top_k is not None:
            p = np.where(p >= np.sort(p, 1)[:, -top_k][:, None], p, 0)
        p /= p.sum(1, keepdims=True)
        if top_p is not None:
            order = np.argsort(-p, 1, kind="stable")
            ranked = np.take_along_axis(p, order, 1)
            ranked = np.where(ranked.cumsum(1) - ranked < top_p, ranked, 0)
            np.put_along_axis(p, order, ranked / ranked.sum(1, keepdims=True), 1)
        found = to_probs(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        assert np.abs(found.numpy() - p).max() < 1e-12
    assert torch.equal(to_probs(logits, min_p=0.0), to_probs(logits))
    assert to_probs(logits, min_p=1.0).amax(-1).tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_p": 1.5}, "min_p=1.5: give a number in"),
        ({"top_k": 0}, "top_k=0"),
        ({"repetition_penalty": 0.0}, "repetition penalty 0.0"),
        ({"presence_penalty": float("nan")}, "presence penalty nan"),
        ({"logit_bias": ((-1, 0.5),)}, "logit bias 0.5 of token -1"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingOptions(**options)  # type: ignore[arg-type]


def cut(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most probable tokens of each row, and what that leaves open."""
    logprobs = torch.log_softmax(logits, -1)
    value, index = logprobs.topk(k, -1)
    kept = torch.full_like(logprobs, -float("inf")).scatter_(-1, index, value)
    missing = 1 - value.exp().sum(-1)
    return kept, torch.stack([missing, missing, value[:, -1], torch.zeros_like(missing)], -1)


def holds(p: TruncatedDistribution, q: TruncatedDistribution, full: np.ndarray) -> float:
    """Whether the interval of one draft holds the answer of the full rows; its mean width."""
    found = solve_cut(p, q, (1, 3), "with_replacement")
    low, high = found.low[0].numpy(), found.high[0].numpy()
    assert (low <= full + 1e-10).all()
    assert (full <= high + 1e-10).all()
    return float((high - low).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("extra", [{}, {"top_k": 6}, {"top_p": 0.5}])
@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.3])
def test_min_p_on_truncated_rows(temperature: float, extra: dict[str, float], min_p: float) -> None:
    generator = torch.Generator().manual_seed(int(1000 * min_p))
    target = 2.5 * torch.randn(40, 30, generator=generator, dtype=torch.float64)
    draft = target + torch.randn(40, 30, generator=generator, dtype=torch.float64)
    warp = {"temperature": temperature, "min_p": min_p, **extra}
    full = [to_probs(logits, **warp) for logits in (target, draft)]  # type: ignore[arg-type]
    read, widths, refused = 0, [], []
    for row in range(40):
        part = slice(row, row + 1)
        try:
            held = [truncated_distribution(*cut(x[part], 12), **warp) for x in (target, draft)]  # type: ignore[arg-type]
        except InputError as error:
            refused.append(str(error))
            continue
        read += 1
        widths.append(holds(held[0], held[1], overlap(full[0][part], full[1][part])))
    assert read >= (5 if "top_p" in extra else 40)
    assert all("top_p" in text and "depends on tokens the truncated row does not hold" in text for text in refused)
    if min_p == 0.3 and temperature == 0.5:
        # The cut lies inside the stored tokens: the rows are exact again.
        assert max(widths) < 1e-9


def test_min_p_refuses_what_a_row_cannot_say() -> None:
    kept = torch.tensor([[0.2, 0.1, 0.0, 0.0]], dtype=torch.float64).log()
    facts = torch.tensor([[0.7, 0.7, np.log(0.5), 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="x row 4: the largest probability of min_p"):
        truncated_distribution(kept, facts, min_p=0.1, name="x", first_row=4)
    rounded = torch.tensor([[0.6, 0.0600001, 0.2, 0.0]], dtype=torch.float64).log()
    facts = torch.tensor([[0.13, 0.15, np.log(0.06), 1e-3]], dtype=torch.float64)
    with pytest.raises(InputError, match="the edge of min_p"):
        truncated_distribution(rounded, facts, min_p=0.1)


def test_real_rows_cut_and_full() -> None:
    """On rows of a real pair, stored whole and as their 64 most probable tokens."""
    dump = open_dump(str(Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval"))
    batch = next(iter(dump.batches(6)))
    if batch.target_cut is not None:
        pytest.skip("the dump is truncated itself")
    rows = [x.double() for x in (batch.target_logits, batch.draft_logits)]
    bias = ((int(rows[0][0].argmax()), -2.0), (11, -100.0))
    for options in (SamplingOptions(min_p=0.05), SamplingOptions(min_p=0.02, logit_bias=bias)):
        changed = [adjusted(x, options, None) for x in rows]
        full = [to_probs(x, temperature=0.8, **options.cuts) for x in changed]
        held = []
        for x in rows:
            kept, facts = cut(x, 64)
            shift = adjusted(torch.zeros_like(x), options, None)
            held.append(truncated_distribution(*shifted(kept, facts, shift, "x"), temperature=0.8, **options.cuts))
        assert holds(held[0], held[1], overlap(*full)) < 0.02


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_bias_on_truncated_rows(temperature: float) -> None:
    generator = torch.Generator().manual_seed(5)
    target = 2 * torch.randn(50, 25, generator=generator, dtype=torch.float64)
    draft = target + torch.randn(50, 25, generator=generator, dtype=torch.float64)
    shift = torch.zeros_like(target)
    for row in range(50):
        places = torch.randperm(25, generator=generator)[:4]
        shift[row, places] = -torch.tensor([0.5, 3.0, 100.0, float("inf")], dtype=torch.float64)
        # What is raised must be stored: the most probable token of both models.
    both = (cut(target, 10)[0] > -torch.inf) & (cut(draft, 10)[0] > -torch.inf)
    for row in range(50):
        if both[row].any():
            shift[row, int(both[row].nonzero()[0])] = 2.0
    full = [to_probs(x + shift, temperature=temperature) for x in (target, draft)]
    held = [truncated_distribution(*shifted(*cut(x, 10), shift, "x"), temperature=temperature) for x in (target, draft)]
    holds(held[0], held[1], overlap(*full))


def test_a_raised_token_that_is_not_stored_is_an_error() -> None:
    rows = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    shift = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="x row 9: a token whose logit is raised depends on tokens the truncated row"):
        shifted(*cut(rows, 2), shift, "x", 9)
    # Where nothing is missing all is known.
    shifted(*cut(rows, 4), shift, "x")


def texts(folder: Path, *, docs: bool = True) -> tuple[Path, dict[str, np.ndarray]]:
    """Three documents of 100, 5 and 60 rows, which begin and end inside blocks."""
    random = np.random.default_rng(7)
    held = {name: 2 * random.normal(size=(165, 12)) for name in ("target_logits", "draft_logits")}
    columns = {"doc": np.repeat([0, 1, 2], [100, 5, 60]), "token": random.integers(0, 12, 165)}
    with DumpWriter(folder / "dump", shard_rows=50) as writer:
        rows = [torch.from_numpy(held[name]) for name in ("target_logits", "draft_logits")]
        writer.append(*rows, **{name: torch.from_numpy(c) for name, c in columns.items() if docs or name != "doc"})
    return folder / "dump", held | columns


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(repetition_penalty=1.3),
        SamplingOptions(presence_penalty=0.7, frequency_penalty=0.2),
        SamplingOptions(repetition_penalty=0.8, frequency_penalty=-0.1, logit_bias=((3, 1.5), (4, -100.0)), min_p=0.02),
    ],
)
def test_penalties_count_the_text_before(options: SamplingOptions, tmp_path: Path) -> None:
    path, held = texts(tmp_path)
    for target, draft in ((options, options), (options, SamplingOptions())):
        found = bound(path, target=target, draft=draft)["value"].to_numpy()
        for row in range(165):
            before = [held["token"][r] for r in range(row) if held["doc"][r] == held["doc"][row]]
            pair = []
            for name, asked in (("target_logits", target), ("draft_logits", draft)):
                x = held[name][row].copy()
                for token, bias in asked.logit_bias:
                    x[token] += bias
                for token in set(before):
                    x[token] = (
                        x[token] / asked.repetition_penalty if x[token] > 0 else x[token] * asked.repetition_penalty
                    )
                    x[token] -= asked.presence_penalty + asked.frequency_penalty * before.count(token)
                pair.append(to_probs(x, min_p=asked.min_p))
            assert found[row] == pytest.approx(float(torch.minimum(*pair).sum()), abs=1e-12)


def test_penalties_do_not_depend_on_reads_and_shards(tmp_path: Path) -> None:
    path, _ = texts(tmp_path)
    asked = SamplingOptions(repetition_penalty=1.3)
    settings = Settings(("with_replacement",), (1,), target=asked, draft=asked)
    whole = run(open_dump(str(path)), settings)
    assert whole is not None
    for batch_rows in (64, 128, 1000):
        again = run(open_dump(str(path)), settings, execution=Execution(batch_rows=batch_rows, max_parts=2))
        pd.testing.assert_frame_equal(whole, again)
    out = str(tmp_path / "x.parquet")
    assert run(open_dump(str(path)), settings, out=out, shard=(1, 2)) is None
    pd.testing.assert_frame_equal(whole, run(open_dump(str(path)), settings, out=out, shard=(0, 2)))


def test_penalties_without_a_text_are_an_error(tmp_path: Path) -> None:
    path, _ = texts(tmp_path, docs=False)
    with pytest.raises(InputError, match="penalties need the text"):
        bound(path, target=SamplingOptions(presence_penalty=1.0))


def test_a_repetition_penalty_of_log_probabilities_is_an_error(tmp_path: Path) -> None:
    path, _ = texts(tmp_path)
    dump = open_dump(str(path))
    dump = replace(dump, facts=replace(dump.facts, kind="logprobs"))
    asked = Settings(("greedy",), (1,), target=SamplingOptions(repetition_penalty=1.1))
    with pytest.raises(InputError, match="a repetition penalty divides logits, but the dump holds logprobs"):
        run(dump, asked)


def test_bias_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(InputError, match="names token 99, but the vocabulary has 20 tokens"):
        bound(DATA / "min_p.npz", target=SamplingOptions(logit_bias=((99, 1.0),)))


@pytest.mark.parametrize(
    "text", ["[1]", '{"a": 1}', '{"1": true}', '{"1": "x"}', '{"-1": 1}', '{"1": 1, "01": 2}', "{"]
)
def test_bias_files_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "bias.json").write_text(text)
    with pytest.raises(InputError, match=r"bias\.json"):
        read_bias(str(tmp_path / "bias.json"))


def test_bias_by_command(tmp_path: Path) -> None:
    (tmp_path / "bias.json").write_text('{"3": -100, "5": 2.5}')
    rows = np.load(DATA / "min_p.npz")
    p, q = (rows[name].astype(float) for name in ("target_logits", "draft_logits"))
    p[:, 3] -= 100
    p[:, 5] += 2.5
    right = overlap(to_probs(p), to_probs(q)).mean()
    command = ["bounds", str(DATA / "min_p.npz"), "--sampler", "with_replacement", "--drafts", "1", "--quiet"]
    more = ["--logit-bias", str(tmp_path / "bias.json"), "--bias-on", "target", "--format", "json"]
    result = CliRunner().invoke(app, [*command, *more])
    assert json.loads(result.stdout)[0]["mean"] == pytest.approx(right, abs=1e-9)
    assert "logit bias on 2 tokens; draft: as it is" in result.stderr


def test_options_are_part_of_the_run() -> None:
    dump = open_dump(str(DATA / "min_p.npz"))
    plain = Settings(("greedy",), (1,))
    keys = {
        plain.key(dump),
        replace(plain, target=SamplingOptions(min_p=0.1)).key(dump),
        replace(plain, draft=SamplingOptions(min_p=0.1)).key(dump),
        replace(plain, target=SamplingOptions(logit_bias=((1, 0.5),))).key(dump),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("doc", [[0, 1] * 3, [0] * 100 + [1] * 10 + [0] * 30, [1, 0] * 100])
def test_penalties_on_texts_in_several_places_are_an_error(doc: list[int], tmp_path: Path) -> None:
    """The text before a row would be a part of it: what stands before the other text in between was not counted."""
    logits = np.random.default_rng(0).normal(size=(2, len(doc), 5)).astype(np.float32)
    np.savez(tmp_path / "x.npz", target_logits=logits[0], draft_logits=logits[1], doc=doc, token=np.zeros_like(doc))
    with pytest.raises(InputError, match=r"the rows of document [01] are not together; sort"):
        bound(tmp_path / "x.npz", target=SamplingOptions(presence_penalty=1.0))
    assert len(bound(tmp_path / "x.npz")) == len(doc)


def test_penalties_on_a_later_head_are_an_error(tmp_path: Path) -> None:
    """Its rows begin after the first tokens of each text, which the text before a row then lacked."""
    generator = np.random.default_rng(0)
    columns = {"doc": [0, 0, 0, 1, 1], "token": [0, 1, 2, 3, 4]}
    target, draft = generator.normal(size=(5, 5)), generator.normal(size=(5, 2, 5))
    np.savez(tmp_path / "x.npz", target_logits=target, draft_logits=draft, **columns)
    asked = SamplingOptions(frequency_penalty=1.0)
    with pytest.raises(InputError, match="of whose beginning the rows of head 1 leave out 1 token; use head 0"):
        bound(f"{tmp_path / 'x.npz'}#head=1", draft=asked)
    assert len(bound(f"{tmp_path / 'x.npz'}#head=0", draft=asked)) == 5
    assert len(bound(f"{tmp_path / 'x.npz'}#head=1", draft=SamplingOptions(top_k=2))) == 3
