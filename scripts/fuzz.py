"""Damaged inputs for every readable form, each in a worker process with limits; the counts go to docs/hardening.md.

    python scripts/fuzz.py [--count 10000] [--form NAME ...] [--first 0] [--state FILE] [--out docs/hardening.md]

An input is a good form with one of its files damaged, made from its number alone: a failure is repeated with
``--form NAME --first NUMBER --count 1``.  Counted are exceptions that are not ours, errors that do not name the file in
one line, ends of the process, hangs over 10 s of processor time and growth of memory over 1 GiB.  The exit code is 1
if there were any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import os
import platform
import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))

#: A worker that takes so much processor time for one input hangs; on a busy machine the clock on the wall says little,
#: so that it counts only when it is far beyond.
LIMIT_SECONDS, WALL_SECONDS = 10.0, 300.0
JUMP = 1 << 30
#: Inputs of a form before the next form has its turn.
ROUND = 100
#: Address space of a worker; more is refused by the system, as on a full machine.
ADDRESS_SPACE = 24 << 30
BAD = ("foreign", "vague", "crash", "hang", "jump")
_MARKS = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"


#: Inputs of one form after one another, of the numbers ``first`` to ``last - 1``.
Task = tuple[str, int, int]


def work(tasks: list[Task], folder: str) -> None:
    """The worker: one line of JSON for each input."""
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    # Loaded at the first wide row otherwise, whose time it would count as.
    from fuzzing.inputs import inputs

    from mdsd_bounds.audit import faults
    from mdsd_bounds.dumps import single_model

    # Both cost time, and change nothing else: the vocabulary assumed where none is stated, and how sharp a bet is.
    single_model.UNSTATED_WIDTH, faults.DRAWS = 64, faults.FEW
    print("ready", flush=True)
    for name, first, last in tasks:
        for outcome in inputs(name, Path(folder), first, last):
            print(json.dumps(outcome.as_dict()), flush=True)


def watch(tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """Outcomes of the inputs in order, from one worker; one that hangs or dies is replaced after the input that did it.

    A worker reads all tasks: its imports take longer than a thousand inputs.
    """
    left = collections.deque(tasks)
    while left:
        with TemporaryDirectory(prefix="mdsd-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            # In a file: thousands of tasks are longer than an argument may be.
            Path(folder, "tasks.json").write_text(json.dumps(list(left)))
            command = [sys.executable, str(HERE), "--work", f"{folder}/tasks.json", f"{folder}/input"]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                yield from _answers(worker, left)
            finally:
                worker.kill()
                worker.wait()


def _answers(worker: subprocess.Popen[str], left: collections.deque[Task]) -> Iterator[dict[str, Any]]:
    """What one worker answers; ``left`` is what remains for the next."""
    assert worker.stdout is not None
    assert worker.stderr is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_pass_on, args=(worker.stdout, lines), daemon=True).start()
    ready = False
    while left:
        name, first, last = left.popleft()
        line, ended = _next_line(worker, lines, ready)
        if line == "ready\n":
            ready = True
            left.appendleft((name, first, last))
            continue
        if first + 1 < last:
            left.appendleft((name, first + 1, last))
        if not line:
            worker.kill()
            worker.wait()
            said = worker.stderr.read().strip().splitlines()
            if not ready:
                raise SystemExit(f"{name}: the worker does not start\n" + "\n".join(said[-20:]))
            kind = "crash" if ended else "hang"
            where = f"exit {worker.returncode}: {said[-1] if said else ''}" if ended else ""
            yield {"form": name, "number": first, "kind": kind, "where": where, "seconds": LIMIT_SECONDS}
            return
        outcome = json.loads(line)
        if (outcome["form"], outcome["number"]) != (name, first):
            raise SystemExit(f"{name} {first}: the worker answered for {outcome['form']} {outcome['number']}")
        if outcome["grown"] > JUMP and outcome["kind"] in ("read", "refused"):
            outcome |= {"kind": "jump", "where": f"{outcome['grown'] >> 20} MiB"}
        yield outcome


def _next_line(worker: subprocess.Popen[str], lines: queue.SimpleQueue[str], ready: bool) -> tuple[str, bool]:
    """What the worker says next, and whether it said it: an empty line is its end, or that it takes too long."""
    start, used = time.monotonic(), _processor_seconds(worker.pid)
    while True:
        with contextlib.suppress(queue.Empty):
            return lines.get(timeout=0.5 if ready else 5.0), True
        # Imports are no input.
        busy = ready and _processor_seconds(worker.pid) - used > LIMIT_SECONDS
        if busy or time.monotonic() - start > WALL_SECONDS:
            return "", False


def _processor_seconds(process: int) -> float:
    """Processor time of a process so far; that of the wall where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return time.monotonic()


def _pass_on(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def run(
    names: list[str], first: int, count: int, state: Path | None = None, minutes: float | None = None, jobs: int = 1
) -> dict[str, collections.Counter[str]]:
    """Counts by form; progress and failures on stderr.

    With a ``state`` file an interrupted run goes on where it stopped, and after ``minutes`` it stops by itself.
    """
    found = _resumed(state, first)
    for name in names:
        found.setdefault(name, collections.Counter())
    start, before, shown = time.monotonic(), sum(made(found[name]) for name in names), 0.0
    total, done = count * len(names), before
    # A form stays with its worker, so that its numbers come in order.
    shares = [_rounds(names[job::jobs], first, count, found) for job in range(jobs)]
    for outcome in _together(shares):
        name, kind = outcome["form"], outcome["kind"]
        counts = found[name]
        counts[kind] += 1
        counts["slowest ms"] = max(counts["slowest ms"], round(1000 * outcome["seconds"]))
        done += 1
        if kind in BAD:
            print(f"\r{name} {outcome['number']}: {kind} {outcome['where']}", file=sys.stderr)
        if (passed := time.monotonic() - start) - shown > 2:
            shown, left = passed, passed / max(done - before, 1) * (total - done)
            bad = sum(one[kind] for one in found.values() for kind in BAD)
            line = f"\r{done} of {total} inputs, {bad} failures, {left / 60:.1f} min left, {name}"
            print(line.ljust(100), end="", file=sys.stderr)
            _keep(state, first, found)
        if minutes is not None and passed > 60 * minutes:
            break
    _keep(state, first, found)
    print(file=sys.stderr)
    return {name: found[name] for name in names}


def _together(shares: list[list[Task]]) -> Iterator[dict[str, Any]]:
    """Outcomes of several workers as they come."""
    answers: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def pass_on(tasks: list[Task]) -> None:
        try:
            for outcome in watch(tasks):
                answers.put(outcome)
            answers.put(None)
        except BaseException as error:
            answers.put(error)

    for tasks in shares:
        threading.Thread(target=pass_on, args=(tasks,), daemon=True).start()
    running = len(shares)
    while running:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            running -= 1
        else:
            yield answer


def _rounds(names: list[str], first: int, count: int, found: dict[str, collections.Counter[str]]) -> list[Task]:
    """Some of every form, then some more of every form: a run that is stopped has read about as many of each."""
    tasks = []
    for begin in range(0, count, ROUND):
        for name in names:
            low, high = max(begin, made(found[name])), min(begin + ROUND, count)
            if low < high:
                tasks.append((name, first + low, first + high))
    return tasks


def made(counts: collections.Counter[str]) -> int:
    """How many inputs of a form were read."""
    return sum(counts[kind] for kind in ("read", "refused", *BAD))


def _resumed(state: Path | None, first: int) -> dict[str, collections.Counter[str]]:
    if state is None or not state.exists():
        return {}
    held = json.loads(state.read_text())
    if (held["first"], held["code"]) != (first, _code()):
        raise SystemExit(f"{state}: is of a run from number {held['first']} on of code {held['code']}; delete it")
    return {name: collections.Counter(counts) for name, counts in held["forms"].items()}


@functools.cache
def _code() -> str:
    """Digest of what is tested and of what tests it: counts of other code are no counts of this one."""
    digest = hashlib.sha256()
    for file in sorted([*HERE.parent.joinpath("fuzzing").glob("*.py"), *HERE.parents[1].glob("mdsd_bounds/**/*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _keep(state: Path | None, first: int, found: dict[str, collections.Counter[str]]) -> None:
    if state is not None:
        part = state.with_name(f"{state.name}.part")
        part.write_text(json.dumps({"first": first, "code": _code(), "forms": found}))
        part.replace(state)


def page(found: dict[str, collections.Counter[str]], count: int, first: int) -> str:
    """The section of docs/hardening.md; the numbers are those of the inputs that were read, not of those asked for."""
    bad = sum(counts[kind] for counts in found.values() for kind in BAD)
    sizes = [made(counts) for counts in found.values()]
    each = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    short = "" if min(sizes) >= count else f"; stopped before the {count:,} of each that were asked for"
    lines = [
        f"{bad} failure{'' if bad == 1 else 's'} in {sum(sizes):,} damaged inputs: {each} of each of {len(found)} "
        f"readable forms (numbers from {first:,} on; Python {platform.python_version()}{short}).",
        "",
        "An input is a good form with bytes, headers or structure damaged (`scripts/fuzzing/mutators.py`), "
        "and it is read to its last row in a process with limits. *Read*: still valid. *Refused*: an error "
        "of one line that names the file. *Foreign*: any other exception. *Vague*: an error without the name, or of "
        f"several lines. *Hang*: over {LIMIT_SECONDS:g} s of processor time. *Jump*: memory grew by more than 1 GiB. "
        f"Made by `make fuzz FUZZ_COUNT={count} FUZZ_FIRST={first}`.",
        "",
        "| form | inputs | read | refused | foreign | vague | crash | hang | jump | slowest, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, counts in found.items():
        cells = [str(made(counts)), *(str(counts[kind]) for kind in ("read", "refused", *BAD))]
        lines.append(f"| {name} | {' | '.join(cells)} | {counts['slowest ms'] / 1000:.2f} |")
    return "\n".join(lines)


def write(out: Path, section: str) -> None:
    """Put the section between its marks; the rest of the page stays."""
    begin, end = _MARKS
    text = out.read_text() if out.exists() else f"# Hardening\n\n## Damaged inputs\n\n{begin}\n{end}\n"
    before, after = text.split(begin)[0], text.split(end)[1]
    out.write_text(f"{before}{begin}\n{section}\n{end}{after}")


def main() -> int:
    """Run, report, and say by the exit code whether anything failed."""
    from fuzzing.forms import FORMS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each form")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="only this form; may be repeated")
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    parser.add_argument("--state", type=Path, help="file of counts so far; the same command goes on from it")
    parser.add_argument("--minutes", type=float, help="stop after so long; the page tells how many were read")
    parser.add_argument("--jobs", type=int, default=1, help="workers at once")
    given = parser.parse_args()
    found = run(given.form or list(FORMS), given.first, given.count, given.state, given.minutes, given.jobs)
    section = page(found, given.count, given.first)
    print(section)
    if given.out is not None:
        write(given.out, section)
    return int(any(counts[kind] for counts in found.values() for kind in BAD))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
    else:
        raise SystemExit(main())
