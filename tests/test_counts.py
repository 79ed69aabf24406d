"""What engines counted: every form with its right value, pooled from counts, with intervals that cover."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mdsd_bounds import InputError
from mdsd_bounds.cli import app
from mdsd_bounds.counts import Counts, Unit, acceptance, beside_bound, counts, read_counts, recognise
from mdsd_bounds.counts.log_steps import steps_of
from mdsd_bounds.counts.tables import as_text

DATA = Path(__file__).parent / "data" / "counts"
POSITIONS, CONDITIONAL = [0.8, 0.56, 0.34, 0.2], [0.8, 0.7, 340 / 560, 200 / 340]


def rates(*names: str, **options: object) -> dict[tuple[str, int], float]:
    """Values by (quantity, position)."""
    found = acceptance(read_counts([DATA / name for name in names], **options))  # type: ignore[arg-type]
    return {(name, int(at)): float(v) for name, at, v in zip(found.quantity, found.position, found.value, strict=True)}


@pytest.mark.parametrize("name", ["vllm_metrics.txt", "mlc.json"])
def test_totals_by_position(name: str) -> None:
    found = rates(name)
    assert found["accepted/drafted", 0] == pytest.approx(0.475)
    assert found["length without bonus", 0] == pytest.approx(1.9)
    assert found["length with bonus", 0] == pytest.approx(2.9)
    assert [found["position", at] for at in (1, 2, 3, 4)] == pytest.approx(POSITIONS)
    assert [found["conditional", at] for at in (1, 2, 3, 4)] == pytest.approx(CONDITIONAL)


def test_log_of_vllm_pools_counts_and_no_ratios() -> None:
    found = rates("vllm.log")
    assert found["accepted/drafted", 0] == pytest.approx(195 / 440)
    assert found["length with bonus", 0] == pytest.approx(2.7727, abs=5e-5)
    assert [found["position", at] for at in (1, 2, 3, 4)] == pytest.approx([0.7545, 0.5182, 0.3182, 0.1818], abs=5e-5)


def test_log_of_llama_cpp_pools_counts_and_no_ratios() -> None:
    found = rates("llama_server.log")
    assert found == {("accepted/drafted", 0): pytest.approx(219 / 460)}
    # With the draft tokens of a step the lengths follow.
    assert rates("llama_server.log", draft_tokens=10)["length with bonus", 0] > 1


def test_log_of_sglang_as_printed() -> None:
    found = rates("sglang.log")
    assert found["length with bonus", 0] == pytest.approx(2.5)
    assert found["accepted/drafted", 0] == pytest.approx(0.5)


def test_counts_of_requests_are_clustered() -> None:
    summary = acceptance(read_counts([DATA / "sglang_requests.jsonl"]))
    assert summary.counts.unit == "request"
    row = summary.row("accepted/drafted")
    assert summary.value[row] == pytest.approx(120 / 246)
    assert summary.value[summary.row("length with bonus")] == pytest.approx(202 / 82)
    # By hand: residuals 60 - 120 r, 60 - 90 r, - 36 r with r = 120/246; Student's t with 2 degrees of freedom.
    r = 120 / 246
    error = np.sqrt(1.5 * ((60 - 120 * r) ** 2 + (60 - 90 * r) ** 2 + (36 * r) ** 2)) / 246
    assert summary.high[row] == pytest.approx(r + 4.302653 * error, abs=1e-6)
    assert "3 requests" in summary.basis


def page(scale: float, *, engines: int = 1, started: float | None = None, model: str = "m", offset: int = 0) -> str:
    """A page of vLLM whose counters are those of the example, times ``scale``."""
    lines = [] if started is None else [f"process_start_time_seconds {started}"]
    for engine in range(offset, offset + engines):
        labels = f'model_name="{model}",engine="{engine}"'
        for name, value in (("num_drafts", 1000), ("num_draft_tokens", 4000), ("num_accepted_tokens", 1900)):
            lines.append(f"vllm:spec_decode_{name}_total{{{labels}}} {value * scale} 1700000000")
            lines.append(f"vllm:spec_decode_{name}_created{{{labels}}} 1.7e9")
        for at, value in enumerate((800, 560, 340, 200)):
            lines.append(
                f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{at}",{labels}}} {value * scale}'
            )
    return "\n".join(lines) + "\n"


def written(folder: Path, **texts: str) -> list[Path]:
    """Pages in files."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return [folder / f"{name}.txt" for name in texts]


def steps(found: Counts) -> float:
    """All verification steps."""
    return float(found.drafts.sum())


def test_snapshots_are_subtracted_and_engines_summed(tmp_path: Path) -> None:
    files = written(tmp_path, a=page(1, engines=2), b=page(3, engines=2))
    assert steps(read_counts(files[:1])) == 2000
    assert steps(read_counts(files)) == 4000
    assert steps(read_counts(files, each=True)) == 8000


def test_a_reset_is_seen(tmp_path: Path) -> None:
    files = written(tmp_path, a=page(5, started=1.0), b=page(2, started=9.0))
    found = read_counts(files)
    assert steps(found) == 2000
    assert "reset" in found.notes[0]


def test_one_engine_of_two_restarts(tmp_path: Path) -> None:
    before = page(5) + page(1, offset=1)
    after = page(2) + page(4, offset=1)
    # 2000 since the restart, and 3000 added.
    assert steps(read_counts(written(tmp_path, a=before, b=after))) == 5000


def test_snapshots_in_the_wrong_order_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the earlier snapshot first"):
        read_counts(written(tmp_path, a=page(5, started=1.0), b=page(2, started=1.0)))


def test_several_snapshots_give_clustered_intervals(tmp_path: Path) -> None:
    found = acceptance(read_counts(written(tmp_path, a=page(1), b=page(2), c=page(4))))
    assert found.basis.startswith("2 snapshot periods")


def test_models_are_not_pooled(tmp_path: Path) -> None:
    files = written(tmp_path, a=page(1) + page(2, model="other"))
    with pytest.raises(InputError, match=r"several models \(m, other\); choose one with --model"):
        read_counts(files)
    assert steps(read_counts(files, model="other")) == 2000
    with pytest.raises(InputError, match="--model x: not in"):
        read_counts(files, model="x")


def test_pages_without_counters_say_what_to_do(tmp_path: Path) -> None:
    files = written(tmp_path, a='sglang:spec_accept_length{model_name="m"} 2.5\n', b="go_goroutines 5\n")
    with pytest.raises(InputError, match="of the last batch, and count nothing"):
        read_counts(files[:1])
    with pytest.raises(InputError, match="without counters of speculative decoding"):
        read_counts(files[1:])
    with pytest.raises(InputError, match="nothing was drafted"):
        read_counts(written(tmp_path, c=page(0)))


def test_page_of_sglang(tmp_path: Path) -> None:
    text = 'sglang:spec_verify_calls_total{m="x"} 40.0\nsglang:generation_tokens_total{m="x",tp_rank="0"} 100.0\n'
    found = acceptance(read_counts(written(tmp_path, a=text)))
    assert found.value[found.row("length with bonus")] == pytest.approx(2.5)


def test_old_vllm_and_llama_cpp_totals_become_periods(tmp_path: Path) -> None:
    line = (
        "Speculative metrics: Draft acceptance rate: 0.800, System efficiency: 0.640, Number of speculative tokens: 5, "
        "Number of accepted tokens: {}, Number of draft tokens: {}, Number of emitted tokens: {}."
    )
    log = tmp_path / "x.log"
    log.write_text(line.format(800, 1000, 768) + "\n" + line.format(1600, 2000, 1500) + "\n")
    found = read_counts([log])
    # Emitted less steps: the engine's own number holds tokens after the first rejection.
    assert found.accepted.tolist() == [568, 532]
    assert found.drafts.tolist() == [200, 200]
    log.write_text(
        "#gen drafts =    134, #acc drafts =   109, #gen tokens =    536, #acc tokens =   354, #mean acc len = 3.64, "
        "#acc rate/pos = (0.813, 0.716, 0.619, 0.493)\n"
    )
    total = read_counts([log])
    assert total.accepted_at.tolist() == [[109, 96, 83, 66]]
    assert total.accepted.tolist() == [354]


@pytest.mark.parametrize(
    ("accepted", "drafted", "listed", "length", "right"),
    [
        (257, 388, [0.804, 0.701, 0.629, 0.515], 3.65, 97),
        (92, 259, [0.757, 0.622, 0.432, 0.324, 0.189, 0.108, 0.054], 3.49, 37),
        (626, 1062, [0.802, 0.551, 0.415], 2.77, 354),
    ],
)
def test_steps_are_recovered_from_printed_figures(
    accepted: int, drafted: int, listed: list[float], length: float, right: int
) -> None:
    """Lines that servers printed: 97 steps are in the log beside the first, and the others draft K tokens a step."""
    assert steps_of(accepted, drafted, listed, length) == right


def test_steps_are_recovered_where_drafts_are_of_unequal_length() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        number = int(random.integers(5, 90))
        given = random.integers(1, 6, number)
        taken = np.minimum(random.integers(0, 6, number), given)
        if taken.sum() == 0:
            continue
        listed = [round(float((taken >= at).mean()), 3) for at in range(1, 6)]
        length = round(1 + float(taken.mean()), 2)
        assert steps_of(float(taken.sum()), float(given.sum()), listed, length) == number


def test_answers_in_other_forms(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps([{"timings": {"draft_n": 10, "draft_n_accepted": 4}, "content": "a"}] * 2))
    found = acceptance(read_counts([file]))
    assert (found.counts.engine, found.value.tolist()) == ("llama.cpp", [0.4])
    usage = {"completion_tokens_details": {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1}}
    file.write_text(json.dumps({"usage": usage}))
    assert acceptance(read_counts([file])).value.tolist() == [0.75]
    bench = {"spec_decode_num_drafts": 5, "spec_decode_draft_tokens": 15, "spec_decode_accepted_tokens": 9}
    file.write_text(json.dumps(bench | {"spec_decode_per_position_acceptance_rates": [1.0, 0.6, 0.2]}))
    assert read_counts([file]).accepted_at.tolist() == [[5, 3, 1]]
    file.write_text(json.dumps({"meta_info": {"spec_verify_ct": 6, "spec_accept_histogram": [1, 2, 3]}}))
    assert read_counts([file]).accepted_at.tolist() == [[5, 3]]
    file.write_text("\n".join(json.dumps({"choices": [{"accept_lengths": [1, 3, 2]}]}) for _ in range(2)))
    found = acceptance(read_counts([file], draft_tokens=4))
    assert found.value[found.row("accepted/drafted")] == pytest.approx(3 / 12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"meta_info": {"completion_tokens": 4, "spec_verify_ct": 9}}', "4 emitted tokens in 9 verification steps"),
        ("Decode batch. #running-req: 2, #token: 9, accept len: 0.50, accept rate: 0.50", "each gives one"),
        (
            "Number of speculative tokens: 2, Number of accepted tokens: 3, Number of draft tokens: 40, "
            "Number of emitted tokens: 9",
            "9 emitted tokens in 20 verification steps",
        ),
        ("draft acceptance rate = 0.97576 (  171 accepted /   297 generated)", "but 171 of 297 are 0.5758"),
        (
            "SpecDecoding metrics: Mean acceptance length: 2.90, Accepted: 190 tokens, Drafted: 400 tokens, "
            "Per-position acceptance rate: 0.800, 0.560, 0.340, 0.200, Avg Draft acceptance rate: 57.5%",
            "an acceptance rate of 57.5, but 190 of 400 are 47.5",
        ),
    ],
)
def test_counts_that_contradict_each_other_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "counts.txt"
    file.write_text(text + "\n")
    with pytest.raises(InputError, match=said):
        read_counts([file])


def test_a_request_that_was_stopped_may_have_a_step_without_a_token(tmp_path: Path) -> None:
    file = tmp_path / "counts.txt"
    file.write_text('{"meta_info": {"completion_tokens": 8, "spec_verify_ct": 9}}')
    assert read_counts([file]).accepted.tolist() == [0]


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([0, 1, 3, 2]))
    found = read_counts([tmp_path / "x.npy"], draft_tokens=3)
    assert found.accepted_at.tolist() == [[3, 2, 1]]
    assert found.drafted.tolist() == [12]
    np.save(tmp_path / "y.npy", np.array([[0, 1, -1], [2, 2, 2]]))
    assert read_counts([tmp_path / "y.npy"]).drafts.tolist() == [2, 3]
    np.savez(tmp_path / "x.npz", accept_count=np.array([800, 560]), draft_count=np.array([1000, 1000]))
    assert read_counts([tmp_path / "x.npz"]).accepted_at.tolist() == [[800, 560]]
    np.save(tmp_path / "z.npy", np.array([[-7, 1]]))
    with pytest.raises(InputError, match="entries from -7 to 1"):
        read_counts([tmp_path / "z.npy"])


def test_files_of_two_kinds_are_not_pooled() -> None:
    with pytest.raises(InputError, match="the same traffic"):
        read_counts([DATA / "vllm_metrics.txt", DATA / "vllm.log"])
    with pytest.raises(InputError, match="the same traffic"):
        read_counts([DATA / "sglang.log", DATA / "vllm.log"])


@pytest.mark.parametrize("text", ["", "hello\n", '{"a": 1}', "[1, 2]\n", "INFO 127.0.0.1 - GET /metrics 200 OK\n"])
def test_unknown_files_say_what_to_give(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "x"))) as caught:
        read_counts([tmp_path / "x"])
    assert "; give" in str(caught.value)
    assert str(caught.value).isprintable()


def test_forms_are_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text((DATA / "vllm_metrics.txt").read_text())
    (tmp_path / "x.json").write_text("[2026-01-01] " + (DATA / "vllm.log").read_text())
    assert (recognise(tmp_path / "x.log"), recognise(tmp_path / "x.json")) == ("metrics", "log")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Unit(10, 40, 50), "50 accepted of 40 drafted"),
        (Unit(0, 0, 5), "accepted"),
        (Unit(10, 40, 15, (5, 10)), "position 1 accepted 5 times, the next one 10 times"),
        (Unit(10, 40, 30, (5, 1)), "30 accepted tokens, but 6 over the positions"),
        (Unit(accepted=3), "neither draft tokens nor steps"),
        (Unit(10, 20, 9, (9,), (8,)), "accepted 9 times but drafted 8 times"),
    ],
)
def test_counts_that_contradict_each_other(one: Unit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counts("x", "total", [one])


def _simulated(random: np.random.Generator, requests: int, spread: float) -> list[Unit]:
    """Requests of 5 to 60 steps of 4 draft tokens; a request's own acceptance varies by ``spread``."""
    units = []
    for _ in range(requests):
        rate = float(np.clip(0.7 + spread * random.normal(), 0.02, 0.98))
        number = int(random.integers(5, 60))
        taken = np.minimum(random.geometric(1 - rate, number) - 1, 4)
        at = tuple(float((taken >= place).sum()) for place in (1, 2, 3, 4))
        units.append(Unit(number, 4 * number, float(taken.sum()), at))
    return units


def test_intervals_cover() -> None:
    """At 400 repetitions a coverage of 95% has a standard error of 1.1%."""
    random = np.random.default_rng(1)
    names = ("accepted/drafted", "length with bonus", "conditional")
    truth = acceptance(counts("x", "request", _simulated(random, 40_000, 0.2)))
    right = {name: truth.value[truth.row(name, int(name == "conditional"))] for name in names}
    plain = acceptance(counts("x", "request", _simulated(random, 40_000, 0.0)))
    right_plain = {name: plain.value[plain.row(name, int(name == "conditional"))] for name in names}
    hits, hits_plain, naive = dict.fromkeys(names, 0), dict.fromkeys(names, 0), 0
    for _ in range(400):
        found = acceptance(counts("x", "request", _simulated(random, 30, 0.2)))
        units = _simulated(random, 30, 0.0)
        whole = Unit(
            *(sum(getattr(one, name) for one in units) for name in ("drafts", "drafted", "accepted")),
            tuple(sum(one.accepted_at[place] for one in units) for place in range(4)),
        )
        total = acceptance(counts("x", "total", [whole]))
        for name in names:
            row = found.row(name, int(name == "conditional"))
            hits[name] += found.low[row] <= right[name] <= found.high[row]
            hits_plain[name] += total.low[row] <= right_plain[name] <= total.high[row]
        row = found.row(names[0])
        naive += found.steps_low[row] <= right[names[0]] <= found.steps_high[row]
    for name in names:
        assert 0.91 < hits[name] / 400 < 0.985, (name, hits)
        assert 0.92 < hits_plain[name] / 400 < 0.985, (name, hits_plain)
    # Steps taken as independent would not do: requests differ.
    assert naive / 400 < 0.7


def test_variance_without_positions_is_the_largest() -> None:
    known = acceptance(counts("x", "total", [Unit(1000, 4000, 1900, (800, 560, 340, 200))]))
    unknown = acceptance(counts("x", "total", [Unit(1000, 4000, 1900)]))
    width = [float((one.high - one.low)[one.row("length with bonus")]) for one in (known, unknown)]
    assert width[1] > width[0]
    # All or nothing: 475 of 1000 steps accept 4 tokens.
    extreme = acceptance(counts("x", "total", [Unit(1000, 4000, 1900, (475, 475, 475, 475))]))
    row = extreme.row("length with bonus")
    assert extreme.high[row] == pytest.approx(unknown.high[unknown.row("length with bonus")])


def test_beside_a_bound() -> None:
    found = acceptance(counts("x", "total", [Unit(1000, 1000, 800, (800,))]))
    verdicts = [beside_bound(found, "s", b, b - 0.01, b + 0.01) for b in (0.9, 0.81, 0.6)]
    assert [one.verdict for one in verdicts if one is not None] == ["below", "within", "above"]
    assert beside_bound(acceptance(counts("x", "total", [Unit(10, 40, 8)])), "s", 0.9, 0.8, 1.0) is None


def test_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    result = run(app, ["acceptance", str(DATA / "vllm_metrics.txt")])
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first == (
        "vLLM, 1 total: accepted/drafted 0.4750 [0.4533, 0.4968], mean length with the bonus token 2.9000 "
        "[2.8133, 2.9871] (95%)"
    )
    found = json.loads(run(app, ["acceptance", str(DATA / "vllm.log"), "--json"]).stdout)
    assert found["rates"][0]["numerator"] == 195
    lines = run(app, ["acceptance", str(DATA / "vllm.log"), "--format", "csv"]).stdout.splitlines()
    assert lines[0].startswith("quantity,position,value,ci_low,ci_high")
    assert "so few log lines" in as_text(acceptance(read_counts([DATA / "vllm.log"])))


def test_command_beside_a_dump(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    random = np.random.default_rng(0)
    held = {name: random.normal(size=(50, 20)) for name in ("target_logits", "draft_logits")}
    np.savez(tmp_path / "pair.npz", **held)
    figure = tmp_path / "x.png"
    command = ["acceptance", str(DATA / "vllm_metrics.txt"), "--dump", str(tmp_path / "pair.npz"), "--quiet"]
    result = CliRunner().invoke(app, [*command, "--json", "--figure", str(figure)])
    assert result.exit_code == 0
    beside = json.loads(result.stdout)["beside_bound"]
    assert [one["sampler"] for one in beside] == ["with_replacement, n = 1", "top_k, n = 1"]
    p, q = (np.exp(held[name]) / np.exp(held[name]).sum(1, keepdims=True) for name in held)
    assert beside[0]["bound"] == pytest.approx(np.minimum(p, q).sum(1).mean())
    assert beside[1]["bound"] == pytest.approx(p[np.arange(50), q.argmax(1)].mean())
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("length", "right"), [("2.50", True), ("1.50", True), ("4.00", False), ("1.00", False)])
def test_a_printed_length_must_fit_the_other_figures(length: str, right: bool, tmp_path: Path) -> None:
    line = (
        f"SpecDecoding metrics: Mean acceptance length: {length}, Accepted: 150 tokens, Drafted: 300 tokens, "
        "Per-position acceptance rate: 0.800, 0.500, 0.200, Avg Draft acceptance rate: 50.0%"
    )
    (tmp_path / "server.log").write_text(line)
    if right:
        assert len(read_counts([tmp_path / "server.log"])) == 1
    else:
        with pytest.raises(InputError, match=r"the rates by position make 2\.50"):
            read_counts([tmp_path / "server.log"])
