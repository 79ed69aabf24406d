"""Damaged inputs for every readable form, each in a worker process with limits; the counts go to docs/hardening.md.

    python scripts/fuzz.py [--count 10000] [--form NAME ...] [--first 0] [--out docs/hardening.md]

An input is a good form with one of its files damaged, made from its number alone: a failure is repeated with
``--form NAME --first NUMBER --count 1``.  Counted are exceptions that are not ours, errors that do not name the file in
one line, ends of the process, hangs over 10 s and growth of memory over 1 GiB.  The exit code is 1 if there were any.
"""

from __future__ import annotations

import argparse
import collections
import json
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

LIMIT_SECONDS = 10.0
JUMP = 1 << 30
#: Address space of a worker; more is refused by the system, as on a full machine.
ADDRESS_SPACE = 24 << 30
BAD = ("foreign", "vague", "crash", "hang", "jump")
_MARKS = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"


def work(name: str, first: int, last: int, folder: str) -> None:
    """The worker: one line of JSON for each input."""
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    # Loaded at the first wide row otherwise, whose time it would count as.
    from fuzzing.inputs import inputs

    from mdsd_bounds.dumps import single_model

    # The vocabulary assumed where none is stated costs time, and changes nothing else.
    single_model.UNSTATED_WIDTH = 64
    print("ready", flush=True)
    for outcome in inputs(name, Path(folder), first, last):
        print(json.dumps(outcome.as_dict()), flush=True)


def watch(name: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Outcomes of a form's inputs; a worker that hangs or dies is replaced after the input that did it."""
    while first < last:
        with TemporaryDirectory(prefix="mdsd-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            command = [sys.executable, str(HERE), "--work", name, str(first), str(last), f"{folder}/input"]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert worker.stdout is not None
            assert worker.stderr is not None
            lines: queue.SimpleQueue[str] = queue.SimpleQueue()
            threading.Thread(target=_pass_on, args=(worker.stdout, lines), daemon=True).start()
            ready = False
            while first < last:
                # Imports take a while on a busy machine.
                try:
                    line, ended = lines.get(timeout=LIMIT_SECONDS if ready else 120.0), True
                except queue.Empty:
                    line, ended = "", False
                if line == "ready\n":
                    ready = True
                    continue
                if not line:
                    worker.kill()
                    worker.wait()
                    said = worker.stderr.read().strip().splitlines()
                    if not ready:
                        raise SystemExit(f"{name}: the worker does not start\n" + "\n".join(said[-20:]))
                    kind = "crash" if ended else "hang"
                    where = f"exit {worker.returncode}: {said[-1] if said else ''}" if ended else ""
                    yield {"form": name, "number": first, "kind": kind, "where": where, "seconds": LIMIT_SECONDS}
                    first += 1
                    break
                outcome = json.loads(line)
                if outcome["grown"] > JUMP and outcome["kind"] in ("read", "refused"):
                    outcome |= {"kind": "jump", "where": f"{outcome['grown'] >> 20} MiB"}
                yield outcome
                first = outcome["number"] + 1
            worker.kill()
            worker.wait()


def _pass_on(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def run(names: list[str], first: int, count: int) -> dict[str, collections.Counter[str]]:
    """Counts by form; progress and failures on stderr."""
    found: dict[str, collections.Counter[str]] = {}
    start, done, shown = time.monotonic(), 0, 0.0
    total = count * len(names)
    for name in names:
        counts = found.setdefault(name, collections.Counter())
        for outcome in watch(name, first, first + count):
            counts[outcome["kind"]] += 1
            counts["slowest ms"] = max(counts["slowest ms"], round(1000 * outcome["seconds"]))
            done += 1
            if outcome["kind"] in BAD:
                print(f"\r{name} {outcome['number']}: {outcome['kind']} {outcome['where']}", file=sys.stderr)
            if (passed := time.monotonic() - start) - shown > 2:
                shown, left = passed, passed / done * (total - done)
                bad = sum(one[kind] for one in found.values() for kind in BAD)
                print(
                    f"\r{done} of {total} inputs, {bad} failures, {left / 60:.1f} min left, {name}".ljust(100),
                    end="",
                    file=sys.stderr,
                )
    print(file=sys.stderr)
    return found


def page(found: dict[str, collections.Counter[str]], count: int, first: int) -> str:
    """The section of docs/hardening.md."""
    bad = sum(counts[kind] for counts in found.values() for kind in BAD)
    total = sum(sum(counts[kind] for kind in ("read", "refused", *BAD)) for counts in found.values())
    lines = [
        f"{bad} failures in {total:,} damaged inputs: {count:,} of each of {len(found)} readable forms "
        f"(numbers {first:,} to {first + count - 1:,}; Python {platform.python_version()}).",
        "",
        "An input is a good form with bytes, headers or structure damaged (`scripts/fuzzing/mutators.py`), "
        "and it is read to its last row in a process with limits. *Read*: still valid. *Refused*: an error "
        "of one line that names the file. *Foreign*: any other exception. *Vague*: an error without the name, or of "
        f"several lines. *Hang*: over {LIMIT_SECONDS:g} s. *Jump*: memory grew by more than 1 GiB. Made by "
        f"`make fuzz FUZZ_COUNT={count}`.",
        "",
        "| form | read | refused | foreign | vague | crash | hang | jump | slowest, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, counts in found.items():
        cells = [str(counts[kind]) for kind in ("read", "refused", *BAD)]
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
    given = parser.parse_args()
    found = run(given.form or list(FORMS), given.first, given.count)
    section = page(found, given.count, given.first)
    print(section)
    if given.out is not None:
        write(given.out, section)
    return int(any(counts[kind] for counts in found.values() for kind in BAD))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        raise SystemExit(main())
