"""Train a draft head: the steps, their checkpoints, and the run that begins, goes on or is already done."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.progress import Report
from mdsd_bounds._backend.whole_files import remove_leftovers, write_whole
from mdsd_bounds.dumps.containers.safetensors import safetensors_bytes
from mdsd_bounds.models.chimera.folder import FACTS, fill, load_head, read_arrays, read_facts, save_head
from mdsd_bounds.models.chimera.held_out import held_out_acceptance
from mdsd_bounds.models.chimera.losses import Loss
from mdsd_bounds.models.chimera.network import Chimera, Shape
from mdsd_bounds.models.chimera.recipe import DECAY, Recipe, rate_at, text_steps, windows_needed
from mdsd_bounds.models.chimera.start import least_squares
from mdsd_bounds.models.chimera.states import Sample, StateStore
from mdsd_bounds.models.chimera.target import TargetSide, target_side
from mdsd_bounds.models.chimera.text import Document, digest, read_documents
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

PLAN, CHECKPOINT = "plan.json", "checkpoint.safetensors"
#: Seconds between checkpoints, and between lines of progress.
EVERY, QUIET = 60.0, 10.0
#: Windows of text held out on which the finished head is measured.
HELD = 8


@dataclass(frozen=True)
class Places:
    """Where a run reads and writes.

    Attributes
    ----------
    out : Path
        Folder of the head.
    cache : Path
        Folder of the target's states, which runs share.
    start : Path or None
        Folder of a head whose weights are the starting weights.

    Examples
    --------
    >>> from pathlib import Path
    >>> from mdsd_bounds.models.chimera import Places
    >>> Places(Path("head"), Path("states")).start is None
    True
    """

    out: Path
    cache: Path
    start: Path | None = None


@dataclass
class Run:
    """What changes from step to step, and what the steps need."""

    network: Chimera
    optimizer: torch.optim.AdamW
    side: TargetSide
    columns: Tensor | None
    loss: Loss
    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)


def train_draft(
    target: LoadedModel,
    text: str | Sequence[Sequence[Document]],
    places: Places,
    recipe: Recipe,
    loss: Loss,
    report: Report,
) -> dict[str, Any]:
    """Train a draft head; the same call after an interruption goes on and ends in the same bytes.

    Parameters
    ----------
    target : LoadedModel
        The target, in float32 unless bfloat16 is faster on this machine.
    text : str or sequence
        As for :func:`mdsd_bounds.models.chimera.text.read_documents`, or what it gave.
    places : Places
        Folders.
    recipe : Recipe
        Settings.
    loss : callable
        ``(p [R, C], draft logits [R, C]) -> [R]``; ``recipe.loss`` names it.
    report : callable
        Receives lines of progress.

    Returns
    -------
    dict
        ``head.json``: among others ``held_out`` with ``1 - TV`` of one draft at each depth, over the whole vocabulary
        of text that was not trained on.

    Raises
    ------
    InputError
        On settings out of range, text that is missing or too short, a folder of another run, a damaged checkpoint, a
        loss that is not finite (the last checkpoint stays), or a full disk.

    Examples
    --------
    Two steps on one line of text: what is shown is how it is called, not a good head.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import Places, Recipe, cross_entropy, train_draft
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> text = folder / "text.txt"
    >>> _ = text.write_text("a cab, a dab and a bad cab " * 2)
    >>> recipe = Recipe(steps=2, depths=1, window=16, columns=64)
    >>> places = Places(folder / "head", folder / "states")
    >>> made = train_draft(target, str(text), places, recipe, cross_entropy, report=lambda line: None)
    >>> made["steps"], made["shape"]["depths"]
    (2, 1)
    """
    sources = read_documents(text) if isinstance(text, str) else text
    facts = _facts(target, digest(sources), places, recipe)
    done = _opened(places.out, facts)
    if done is not None:
        report(f"{places.out}: already complete, {done['steps']} steps")
        return done
    side = target_side(target)
    heads = int(getattr(target.model.config.get_text_config(), "num_attention_heads", 1))
    size = int(side.weight.shape[1])
    shape = Shape(size, heads if size % (2 * heads) == 0 else 1, recipe.depths, recipe.variant)
    store = StateStore(places.cache, target, sources, recipe.window)
    steps = _steps(places.out, facts, lambda: _measured(_begun(shape, side, recipe, loss), store, recipe, report))
    wanted = dict(zip(("text", "own"), windows_needed(recipe, steps), strict=True))
    counts = {kind: store.prepare(kind, count, report) for kind, count in wanted.items() if count}
    run = _begun(shape, side, recipe, loss, places.start, target)
    run.counts = counts
    run.columns = columns_of(store, counts, side, recipe.columns)
    checkpoint = places.out / CHECKPOINT
    if checkpoint.exists():
        _restore(run, checkpoint)
        report(f"{places.out}: goes on after step {run.step} of {steps}")
    elif places.start is None:
        least_squares(run.network, side, store, counts)
    _steps_of(run, store, recipe, steps, checkpoint, report)
    held = store.prepare("held", HELD, report) if store.has_held_out else 0
    quality = held_out_acceptance(run.network, side, store, held)
    save_head(places.out, run.network, {**facts, "steps": steps, "windows": counts, "held_out": quality})
    checkpoint.unlink(missing_ok=True)
    return read_facts(places.out)


def _facts(target: LoadedModel, text: str, places: Places, recipe: Recipe) -> dict[str, Any]:
    start = None if places.start is None else read_facts(places.start)["sha256"]
    return {
        "target": target.identity,
        "vocabulary": int(target.model.get_output_embeddings().weight.shape[0]),
        "text_sha256": text,
        "recipe": asdict(recipe),
        "start_sha256": start,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _opened(out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Make the folder; the facts of a head that is complete there."""
    plain = json.loads(json.dumps(facts))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make the head's folder ({error.strerror})") from None
    remove_leftovers(out)
    if (out / FACTS).exists():
        held = read_facts(out)
        if all(held.get(name) == value for name, value in plain.items()):
            (out / CHECKPOINT).unlink(missing_ok=True)
            return held
        raise InputError(f"{out}: holds the head of another run ({FACTS} differs); delete it or write elsewhere")
    if (out / PLAN).exists():
        try:
            held = json.loads((out / PLAN).read_text())["facts"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{out / PLAN}: damaged ({error}); delete the folder and run again") from None
        if held != plain:
            raise InputError(f"{out}: holds another run ({PLAN} differs); delete it or write elsewhere")
    elif any(out.iterdir()):
        raise InputError(f"{out}: is not empty and holds no {PLAN}; write to a folder of its own")
    return None


def _steps(out: Path, facts: dict[str, Any], measure: Callable[[], int]) -> int:
    """Steps of the run: given, or measured once and kept."""
    plan = out / PLAN
    if not plan.exists():
        steps = facts["recipe"]["steps"] or measure()
        text = json.dumps({"facts": facts, "steps": steps}, indent=1, sort_keys=True) + "\n"
        write_whole(plan, text.encode())
    return int(json.loads(plan.read_text())["steps"])


def _begun(
    shape: Shape,
    side: TargetSide,
    recipe: Recipe,
    loss: Loss,
    start: Path | None = None,
    target: LoadedModel | None = None,
) -> Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = Chimera(shape, side.gain)
    if start is not None and target is not None:
        held = load_head(start, target)
        fill(network, held.state_dict(), start)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    return Run(network.train(), optimizer, side, None, loss)


def _steps_of(run: Run, store: StateStore, recipe: Recipe, steps: int, checkpoint: Path, report: Report) -> None:
    side = run.side.restricted(run.columns)
    begun = saved = last_reported = time.monotonic()
    first, total, tokens = run.step, 0.0, 0
    while run.step < steps:
        sample = part_of(store.sample(*chosen(recipe, run.step, steps, run.counts)), recipe, run.step)
        loss = one_step(run, side, sample, rate_at(recipe, run.step, steps))
        if not math.isfinite(loss):
            raise InputError(
                f"step {run.step + 1}: the loss is not finite; the last checkpoint is kept in {checkpoint.parent}: "
                "train again elsewhere with a lower --learning-rate"
            )
        run.step += 1
        total, tokens = total + loss, tokens + int(sample.counts.sum())
        now = time.monotonic()
        if now - last_reported > QUIET or run.step == steps:
            rate = (run.step - first) / (now - begun)
            left = (steps - run.step) / rate
            per = tokens / (now - begun)
            mean = total / (run.step - first)
            report(
                f"step {run.step} of {steps}, {rate:.2f} steps ({per:.0f} tokens) a second, loss {loss:.4f} "
                f"(mean {mean:.4f}), {left:.0f} s left"
            )
            last_reported = now
        if now - saved > EVERY and run.step < steps:
            _save(run, checkpoint)
            saved = now


def chosen(recipe: Recipe, step: int, steps: int, counts: dict[str, int]) -> tuple[str, list[int]]:
    """Which windows a step learns: a function of its number, so that a run that was stopped goes on alike."""
    given = text_steps(recipe, steps)
    kind = "text" if step < given else "own"
    place = (step if kind == "text" else step - given) * recipe.batch
    numbers = []
    for k in range(place, place + recipe.batch):
        turn, at = divmod(k, counts[kind])
        order = torch.randperm(counts[kind], generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + turn))
        numbers.append(int(order[at]))
    return kind, numbers


def part_of(sample: Sample, recipe: Recipe, step: int) -> Sample:
    """The stretch of each window that a step reads: a function of its number too."""
    length = recipe.stretch
    if length is None or length >= sample.tokens.shape[1]:
        return sample
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    parts = []
    for row in range(len(sample.tokens)):
        places = sample.counts[row].nonzero()[:, 0]
        low = min(int(places[0]), sample.tokens.shape[1] - length)
        high = max(low, int(places[-1]) + 1 - length)
        first = int(torch.randint(low, high + 1, (1,), generator=generator))
        parts.append(slice(first, first + length))
    tokens, states, counts = (
        torch.stack([value[row, part] for row, part in enumerate(parts)])
        for value in (sample.tokens, sample.states, sample.counts)
    )
    return Sample(tokens, states, counts)


def one_step(run: Run, side: TargetSide, sample: Sample, rate: float) -> float:
    """One step of the optimiser; the loss before it.  Nothing is changed where it is not finite."""
    rows = sample.counts
    with torch.no_grad():
        p = torch.softmax(side.logits(sample.states[rows]), -1)
        embedded = side.embed(sample.tokens)
    entering = run.network(embedded, sample.states)
    weights = [DECAY**i for i in range(len(entering))]
    losses = [w * run.loss(p, side.logits(part[rows])).mean() for w, part in zip(weights, entering, strict=True)]
    loss = torch.stack(losses).sum() / sum(weights)
    value = float(loss.detach())
    if not math.isfinite(value):
        return value
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0))
    if not math.isfinite(norm):
        return norm
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    return value


def columns_of(store: StateStore, counts: dict[str, int], side: TargetSide, most: int) -> Tensor | None:
    """Columns that the loss looks at: tokens of the text, then those of largest mean probability under the target."""
    if side.width <= most:
        return None
    weight = torch.zeros(side.width, dtype=torch.float64)
    seen = torch.zeros(side.width, dtype=torch.float64)
    for kind, count in counts.items():
        for number in range(count):
            sample = store.sample(kind, [number])
            seen += torch.bincount(sample.tokens[0], minlength=side.width)
            states = sample.states[0][number % 32 :: 32]
            weight += torch.softmax(side.logits(states), -1).double().sum(0)
    score = weight / weight.sum() + (seen > 0)
    return score.topk(most).indices.sort().values


def _measured(run: Run, store: StateStore, recipe: Recipe, report: Report) -> int:
    """Steps that fit into the minutes, from a few steps and a few passes of the target timed here."""
    assert recipe.minutes is not None
    reading, writing = store.speed()
    store.prepare("text", 1, report)
    run.counts = {"text": 1}
    run.columns = columns_of(store, run.counts, run.side, recipe.columns)
    side, sample = run.side.restricted(run.columns), part_of(store.sample("text", [0] * recipe.batch), recipe, 0)
    spent = []
    for _ in range(4):
        begun = time.monotonic()
        one_step(run, side, sample, 0.0)
        spent.append(time.monotonic() - begun)
    step = sorted(spent)[1]

    def seconds(steps: int) -> float:
        text, own = windows_needed(recipe, steps)
        missing = max(text - store.held("text"), 0), max(own - store.held("own"), 0)
        return steps * step + missing[0] * reading + missing[1] * (reading + writing)

    low, high = 1, 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= 60 * recipe.minutes else (low, middle)
    report(f"{step:.2f} s a step, {reading:.2f} s a window read, {writing:.2f} s a window written: {low} steps")
    return low


def _save(run: Run, file: Path) -> None:
    arrays = {f"network.{name}": value.detach() for name, value in run.network.state_dict().items()}
    for number, parameter in enumerate(run.network.parameters()):
        for name, value in run.optimizer.state[parameter].items():
            arrays[f"optimizer.{number}.{name}"] = value
    arrays["step"] = torch.tensor(run.step)
    write_whole(file, safetensors_bytes(arrays), "make room and run again")


def _restore(run: Run, file: Path) -> None:
    arrays = read_arrays(file)
    names = [name.removeprefix("network.") for name in arrays if name.startswith("network.")]
    fill(run.network, {name: arrays[f"network.{name}"] for name in names}, file)
    state = run.optimizer.state_dict()
    state["state"] = {
        number: {name: arrays[f"optimizer.{number}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
        for number, _ in enumerate(run.network.parameters())
    }
    run.optimizer.load_state_dict(state)
    run.step = int(arrays["step"])
