"""Which draft temperature to use, cross-fitted over documents, for the pair, its reverse and a second pair.

    python scripts/study_temperature.py [--dump out/study] [--second out/study-second] [--results docs/results/study]

Four positions of each document of the study dump; all of the second one.  Writes draft_temperature.json, which
scripts/study_page.py puts on the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from study import PER_DOCUMENT, selected, swapped

from mdsd_bounds import open_dump
from mdsd_bounds.diagnostics import choose_draft_temperature

PLACES = (3, 10, 17, 24)
SAMPLER = "without_replacement"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dump", type=Path, default=Path("out/study"))
    parser.add_argument("--second", type=Path, default=Path("out/study-second"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/study"))
    arguments = parser.parse_args()
    pair = open_dump(arguments.dump)
    some = selected(pair, [d * PER_DOCUMENT + place for d in range(len(pair) // PER_DOCUMENT) for place in PLACES])
    pairs = {"Qwen 1.5B by 0.5B": some, "Qwen 0.5B by 1.5B": swapped(some)}
    if arguments.second.exists():
        pairs["SmolLM2 by its first layers"] = open_dump(arguments.second)
    found = []
    for name, dump in pairs.items():
        for temperature in (0.6, 1.0):
            for n in (2, 4, 8):
                print(f"{name}, T={temperature:g}, n={n}", file=sys.stderr, flush=True)
                choice = choose_draft_temperature(dump, n, SAMPLER, temperature=temperature)
                found.append(
                    {
                        "pair": name,
                        "sampler": SAMPLER,
                        "drafts": n,
                        "temperature": temperature,
                        "positions": len(dump),
                        "ratios": choice.chosen,
                        "gain": choice.gain,
                        "stderr": choice.stderr,
                        "advice": choice.ratio,
                        "in_sample": choice.table.to_dict("records"),
                    }
                )
    (arguments.results / "draft_temperature.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
