"""The HTML report says what the tables say, leads with its answer, stands alone, and works in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds import open_dump, optimal_acceptance, to_probs
from mdsd_bounds.cli import main
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import bootstrap_interval, summarise
from mdsd_bounds.report import answer, explore, html_report, run_of
from mdsd_bounds.sampling import SamplingOptions
from mdsd_bounds.trees.advise import costs_from
from mdsd_bounds.verifiers import get_verifier

SAMPLERS = ("with_replacement", "without_replacement", "greedy", "top_k")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(6, 40)).astype("f4")
    path = tmp_path / "<pair>.npz"
    np.savez(path, target_logits=target, draft_logits=target + rng.normal(size=(6, 40)).astype("f4"))
    return path


def texts_dump(path: Path) -> Path:
    """Four documents of four positions each, with recorded tokens."""
    generator = torch.Generator().manual_seed(0)
    target = 2 * torch.randn(16, 40, generator=generator)
    with DumpWriter(path, notes={"draft": {"source": "a"}}) as writer:
        writer.append(
            target,
            target + torch.randn(16, 40, generator=generator),
            doc=torch.arange(16) // 4,
            position=torch.arange(16) % 4,
            token=torch.arange(16) + 1,
        )
    return path


def tokenizer_file(path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"<b>{k}</b>": k for k in range(40)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<b>0</b>")).save(str(path))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mdsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


class Page(HTMLParser):
    """Whether every element is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in {"meta", "br", "wbr", "input", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_holds_the_numbers_of_the_library(dump: Path, tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "report.html"
    options = ["--drafts", "1,2", "--temperature", "0.5,1.0", "--quiet"]
    assert call(monkeypatch, "report", str(dump), "--out", str(out), *options) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    table = run(open_dump(dump), Settings(SAMPLERS, (1, 2), (0.5, 1.0)))
    assert table is not None
    for mean in summarise(table)["mean"]:
        assert f"{mean:.5f}" in page
    # Names as they are typed.
    assert "rrs_without_replacement" in page
    # Four figures, for wide and for narrow screens.
    assert page.count("<svg") == 8
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # Names from outside are text, not markup; nothing is fetched.
    assert "<pair>" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert not re.search(r"@import|url\((?!#)", page)
    # Every reference of a figure is to something in the page.
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    Page(page)
    # The name, not the path, is the title.
    assert f"<title>{'&lt;pair&gt;.npz'}: acceptance bounds</title>" in page


def test_bounds_alone_and_bad_input(dump: Path, tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "report.html"
    assert call(monkeypatch, "report", str(dump), "--out", str(out), "--verifier", "none", "--quiet") == 0
    page = out.read_text()
    assert "Verifiers against" not in page
    assert "no lossless verifier" in page
    assert call(monkeypatch, "report", str(dump), "--out", str(tmp_path / "no" / "x.html"), "--quiet") == 2
    assert "make it first" in capsys.readouterr().err
    wrong = ["--target-cost", "1:1", "--quiet", "--force"]
    assert call(monkeypatch, "report", str(dump), "--out", str(out), *wrong) == 2
    assert "--draft-cost" in capsys.readouterr().err
    wrong = ["--tokenizer", str(dump), "--quiet", "--force"]
    assert call(monkeypatch, "report", str(dump), "--out", str(out), *wrong) == 2
    assert "give a tokenizer.json" in capsys.readouterr().err


def test_notes_of_a_dump_bring_no_control_characters_into_the_page(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with DumpWriter(tmp_path / "d", notes={"a\x1b[31m": "b\u202e\u2066\x07"}) as writer:
        writer.append(torch.randn(3, 20), torch.randn(3, 20))
    out = tmp_path / "r.html"
    assert call(monkeypatch, "report", str(tmp_path / "d"), "--out", str(out), "--verifier", "none", "--quiet") == 0
    page = out.read_text()
    assert "a\\x1b[31m" in page
    assert not set("\x1b\x07\u202e\u2066") & set(page)


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    dump = open_dump(str(texts_dump(tmp_path_factory.mktemp("texts") / "d")))
    settings = Settings(SAMPLERS, (1, 2, 3, 4, 8))
    names = ("rrs", "k_seq", "rrs_without_replacement", "greedy")
    compared = Settings(SAMPLERS, (1, 2, 3, 4, 8), verifiers=names, samples=20)
    return dump, run(dump, settings), run(dump, compared)


def test_the_answer_is_read_from_the_tables(tables: tuple[Any, Any, Any]) -> None:
    _, bounds, comparison = tables
    found = answer(bounds, comparison, 1.0)
    at = comparison[comparison["drafts"] == found.drafts]
    means = at.groupby(["sampler", "verifier"])["acceptance"].mean()
    assert (found.sampler, found.verifier) == means.idxmax()
    assert found.acceptance == pytest.approx(means.max())
    ceilings = bounds[bounds["drafts"] == found.drafts].groupby("sampler")["value"].mean()
    assert (found.best_sampler, found.bound) == (ceilings.idxmax(), pytest.approx(ceilings.max()))
    assert found.left[0] == pytest.approx(ceilings.max() - means.max())
    # Paired by position.
    mine = at[(at["sampler"] == found.sampler) & (at["verifier"] == found.verifier)].sort_values("row")
    best = bounds[(bounds["drafts"] == found.drafts) & (bounds["sampler"] == found.best_sampler)].sort_values("row")
    gap = best["value"].to_numpy() - mine["acceptance"].to_numpy()
    low, high = bootstrap_interval(gap[:, None], mine["doc"].to_numpy())
    assert found.left[1:] == pytest.approx((low[0], high[0]))
    # The next number of drafts adds less than what is worth it, or there is none.
    assert found.more is None or found.more[1] < 0.01
    assert (found.positions, found.documents) == (16, 4)
    assert found.tree is not None
    assert found.tree["most"] == 4
    costly = answer(bounds, comparison, 1.0, costs_from(5.0, None)).tree
    assert costly is not None
    assert costly["speed"] < costly["alone"]
    # A comparison in the place of the bounds repeats them for every verifier: the same answer, not one of NaN.
    again = answer(comparison, comparison, 1.0)
    assert (again.left, again.second, again.more) == (found.left, found.second, found.more)


def test_an_optimal_rule_leaves_nothing(tables: tuple[Any, Any, Any]) -> None:
    dump, _, _ = tables
    bounds = run(dump, Settings(("with_replacement",), (1, 2)))
    comparison = run(dump, Settings(("with_replacement",), (1, 2), verifiers=("optimal", "rrs")))
    assert bounds is not None
    found = answer(bounds, comparison, 1.0)
    assert found.verifier in {"optimal", "rrs"}
    page = html_report(bounds, comparison, [found], {"path": "a,b"}, "0")
    assert ("Nothing is left on the table" in page) == (found.left[0] <= 1e-6)
    if found.verifier == "optimal":
        assert "The best other rule" in page


def test_the_bound_of_truncated_rows_is_the_upper_end(tables: tuple[Any, Any, Any]) -> None:
    _, bounds, _ = tables
    loose = bounds.assign(certified_low=bounds["value"] - 0.1, certified_high=bounds["value"] + 0.1)
    whole, cut = answer(bounds, None, 1.0), answer(loose, None, 1.0)
    assert cut.bound == pytest.approx(whole.bound + 0.1)
    assert cut.acceptance == pytest.approx(whole.acceptance)


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_position_shows_what_the_library_says(tables: tuple[Any, Any, Any]) -> None:
    dump, bounds, comparison = tables
    found = answer(bounds, comparison, 1.0)
    explored = explore(dump, comparison, found, Settings(("with_replacement",), (1, 2)), 16)
    assert sorted(one.row for one in explored) == list(range(16))
    (batch,) = dump.batches(16)
    for one in explored:
        p, q = to_probs(batch.target_logits[one.row]), to_probs(batch.draft_logits[one.row])
        bound = optimal_acceptance(p, q, found.drafts, found.sampler)
        assert one.bound == pytest.approx(float(bound.value))
        assert 1 + one.target_mass - one.draft_mass == pytest.approx(one.bound)
        held = bound.subset
        for token, target, draft, inside in one.tokens:
            assert (target, draft, inside) == (float(p[token]), float(q[token]), bool(held[token]))
        assert {int(token) for token in p.topk(8).indices} <= {token for token, *_ in one.tokens}
        # Recorded tokens of the same document before it, and no others.
        assert one.before == tuple(range(one.row - one.row % 4 + 1, one.row + 1))
        assert one.recorded == one.row + 1
        for out in one.outputs:
            drafts = torch.tensor([one.drawn])
            probs = get_verifier(out.verifier).probs(p[None], q[None], drafts, sampler=one.sampler)[0]
            places = list(dict.fromkeys(one.drawn))
            assert out.on_drafts == pytest.approx(probs[places].tolist())
            assert out.elsewhere + sum(out.on_drafts) == pytest.approx(1.0)
            table = comparison[(comparison["row"] == one.row) & (comparison["drafts"] == found.drafts)]
            table = table[(table["sampler"] == found.sampler) & (table["verifier"] == out.verifier)]
            assert out.acceptance == float(table["acceptance"].iloc[0])
        assert one.outputs[0].verifier == found.verifier
    rates = [one.outputs[0].acceptance for one in explored]
    assert rates == sorted(rates)


def test_tokens_are_text(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    words, out = tokenizer_file(tmp_path / "tokenizer.json"), tmp_path / "r.html"
    dump = texts_dump(tmp_path / "d")
    arguments = ["report", str(dump), "--out", str(out), "--tokenizer", str(words), "--positions", "16", "--quiet"]
    assert call(monkeypatch, *arguments) == 0
    page = out.read_text()
    assert "<code>&lt;b&gt;3&lt;/b&gt;</code> #3" in page
    assert "<b>3</b>" not in page
    Page(page)
    first = run_of(str(out))
    # The same command answers from the page; another number of positions is another page.
    assert call(monkeypatch, *arguments) == 0
    assert call(monkeypatch, *arguments[:-3], "--positions", "2", "--quiet") == 0
    assert run_of(str(out)) not in {None, first}
    assert out.read_text().count('id="row-') == 2


# --- in a browser -----------------------------------------------------------------------------------------------------

PROBE = """<script>
window.addEventListener("load", function () {
  var table = document.querySelector("table.sortable:has(td[data-head='gap, percentage points'])");
  var column = Array.prototype.findIndex.call(table.tHead.rows[0].cells, c => c.textContent.startsWith("acceptance"));
  var read = () => Array.prototype.map.call(table.tBodies[0].rows, row => Number(row.cells[column].dataset.key));
  var sort = table.tHead.rows[0].cells[column].querySelector(".sort");
  document.querySelectorAll("details").forEach(part => { part.open = true; });
  var width = document.documentElement.scrollWidth;
  sort.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
  var up = read();
  sort.click();
  var down = read();
  var filter = table.parentNode.querySelector("input");
  filter.value = "k_seq";
  filter.dispatchEvent(new Event("input"));
  var shown = Array.prototype.filter.call(table.tBodies[0].rows, row => !row.hidden).map(row => row.textContent);
  var parts = Array.prototype.slice.call(document.querySelectorAll("#positions details"));
  parts.forEach((part, place) => { part.open = place === 0; });
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "j", bubbles: true}));
  var open = parts.map(part => part.open);
  window.dispatchEvent(new Event("beforeprint"));
  var all = Array.prototype.every.call(document.querySelectorAll("details"), part => part.open);
  var seen = Array.prototype.filter.call(document.querySelectorAll("figure > div"), part => part.offsetWidth > 0);
  parent.document.body.setAttribute("data-probe", JSON.stringify({
    width: width, inner: window.innerWidth, up: up, down: down, shown: shown, open: open, all: all,
    figures: seen.map(part => part.className), caption: document.activeElement.tagName,
    small: Math.min.apply(null, Array.prototype.map.call(document.querySelectorAll("td, p, dd"),
      part => parseFloat(getComputedStyle(part).fontSize)))
  }));
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tables: tuple[Any, Any, Any]) -> Path:
    dump, bounds, comparison = tables
    found = answer(bounds, comparison, 1.0)
    explored = explore(dump, comparison, found, Settings(("with_replacement",), (1, 2)), 4)
    text = html_report(bounds, comparison, [found], {"path": "x/" + "long_name" * 20, "n": {"a": 1}}, "0", "", explored)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text)
    return path


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this system")
@pytest.mark.parametrize("width", [1300, 400])
def test_in_a_browser(width: int, page: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    # In a frame: a window of its own cannot be as narrow as a phone.
    probed = tmp_path / "probed.html"
    inside = html.escape(page.read_text().replace("</body>", PROBE))
    probed.write_text(f'<!doctype html><body><iframe width="{width}" height="900" style="border:0" srcdoc="{inside}">')
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert match, done.stderr[-2000:]
    found = json.loads(html.unescape(match.group(1)))
    assert found["inner"] == width
    # Nothing is cut off at the right, all folds open.
    assert found["width"] <= width
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1]
    assert found["shown"]
    assert all("k_seq" in row for row in found["shown"])
    # The key j opens the second position, closes the first, and moves the focus there.
    assert found["open"] == [False, True, False, False]
    assert found["caption"] == "SUMMARY"
    assert found["all"]
    assert set(found["figures"]) == {"wide" if width > 640 else "narrow"}
    assert found["small"] >= 12


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this system")
def test_in_print(page: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    out = tmp_path / "page.pdf"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={out}"]
    subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()], capture_output=True, timeout=120
    )
    # Folds are open in print: their pages are there.
    assert len(re.findall(rb"/Type\s*/Page\b", out.read_bytes())) >= 5


def test_without_script_everything_is_there(page: Path) -> None:
    text = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert text.count("<details") == text.count("<summary>") > 4
    assert "<noscript" not in text
    for word in ("Left on the table", "Q(H)", "drafts, ", "What each verifier does"):
        assert word in text
    # Hidden from nobody: no part waits for the script.
    assert not re.search(r"<[^>]*\bhidden\b", text)


def test_a_rule_of_ones_own_is_explored(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "my_rule.py").write_text("def target_alone(p, q, drafts):\n    return p\n")
    out, rule = tmp_path / "r.html", f"{tmp_path / 'my_rule.py'}:target_alone"
    options = ["--sampler", "with_replacement", "--drafts", "1,2", "--verifier", f"rrs,{rule}", "--samples", "20"]
    assert call(monkeypatch, "report", str(texts_dump(tmp_path / "d")), "--out", str(out), *options, "--quiet") == 0
    page = out.read_text()
    assert page.count("target_alone") > 12
    Page(page)


def test_positions_have_the_sampling_options_of_their_table(tables: tuple[Any, Any, Any]) -> None:
    """Cuts, and penalties that need the text before, which lies further back than what is shown."""
    dump, _, _ = tables
    settings = Settings(
        ("with_replacement",),
        (2,),
        (0.7,),
        target=SamplingOptions(top_k=6, repetition_penalty=1.5),
        draft=SamplingOptions(top_p=0.9, frequency_penalty=0.5),
        draft_temperature=1.2,
    )
    bounds = run(dump, settings)
    assert bounds is not None
    values = bounds.set_index("row")["value"]
    explored = explore(dump, bounds, answer(bounds, None, 0.7), settings, 16)
    assert len(explored) == 16
    for one in explored:
        assert one.bound == pytest.approx(values[one.row], abs=1e-12)
