"""The choice of a draft temperature: what is found where it is planted, and 1 where there is nothing to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from harness import SHIPPED
from typer.testing import CliRunner

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.cli import app
from mdsd_bounds.diagnostics import choose_draft_temperature, equilibrium
from mdsd_bounds.diagnostics.draft_temperature import cross_fit
from mdsd_bounds.plots import equilibrium as draw_equilibrium


def miscalibrated(path: Path, ratio: float) -> str:
    """A dump whose draft is the target's own rows, noisy, and too sure of itself by ``ratio``."""
    generator = torch.Generator().manual_seed(0)
    target = 2.0 * torch.randn(60, 50, generator=generator)
    draft = ratio * (target + 0.5 * torch.randn(60, 50, generator=generator))
    file = path / "pair.npz"
    np.savez(file, target_logits=target.numpy(), draft_logits=draft.numpy(), doc=np.arange(60) // 3)
    return str(file)


def test_a_planted_temperature_is_found(tmp_path: Path) -> None:
    found = choose_draft_temperature(open_dump(miscalibrated(tmp_path, 1.5)), 2, ratios=(0.7, 1.0, 1.5))
    assert found.ratio == found.best == 1.5
    assert set(found.chosen) == {1.5}
    assert found.gain > 2 * found.stderr > 0
    table = found.table.set_index("ratio")
    assert table.loc[1.0, "gain"] == 0.0
    # Every fold chose the same ratio, so the held-out gain is the gain in the table.
    assert table.loc[1.5, "gain"] == pytest.approx(found.gain, abs=1e-12)


def test_a_calibrated_draft_keeps_its_temperature(tmp_path: Path) -> None:
    found = choose_draft_temperature(open_dump(miscalibrated(tmp_path, 1.0)), 2, ratios=(0.6, 1.6))
    assert found.ratio == 1.0
    assert list(found.table["ratio"]) == [0.6, 1.0, 1.6]


def test_noise_is_not_taken_for_a_gain_as_the_best_in_sample_is() -> None:
    """Twelve ratios of pure noise: the best of them looks good on the rows that chose it, never on the others."""
    generator = np.random.default_rng(0)
    advised, flattered = 0, []
    for seed in range(40):
        values = 0.9 + 0.02 * generator.standard_normal((120, 12))
        values[:, 0] = 0.9
        ratios = [1.0, *(1.1 + 0.1 * i for i in range(11))]
        found = cross_fit(values, np.arange(120) // 4, ratios, seed=seed)
        advised += found.ratio != 1.0
        flattered.append(
            float(found.table["gain"].max() / found.table["stderr"].iloc[int(found.table["gain"].argmax())])
        )
    assert advised <= 2
    assert np.mean(np.array(flattered) > 1) > 0.5


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    dump = open_dump(miscalibrated(tmp_path, 1.0))
    with pytest.raises(InputError, match="give positive, finite numbers"):
        choose_draft_temperature(dump, 2, ratios=(0.0, 1.0))
    with pytest.raises(InputError, match="folds=30: 20 documents"):
        choose_draft_temperature(dump, 2, ratios=(1.0,), folds=30)
    with pytest.raises(InputError, match="1 must be among them"):
        cross_fit(np.zeros((4, 1)), np.arange(4), (2.0,), folds=2)


def test_command(tmp_path: Path) -> None:
    arguments = [
        "draft-temperature",
        miscalibrated(tmp_path, 1.5),
        "--ratios",
        "1,1.5",
        "--drafts",
        "2",
        "--format",
        "csv",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ratio,")
    told = CliRunner().invoke(app, arguments[:-2])
    assert "1.5" in told.stdout.splitlines()[0]


def test_equilibrium_of_shipped_rows_and_its_figure(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    dump = open_dump(SHIPPED)
    shares = equilibrium(dump.batches(2, start=26, stop=30), (2,), (1.0,), ranks=(1, 2, 4))
    assert list(shares["rank"]) == [1, 2, 4]
    assert set(shares["positions"]) == {4}
    assert bool(shares["share"].between(0, 1).all())
    ax = draw_equilibrium(shares)
    (bars,) = ax.containers
    assert bars.lines[0].get_ydata() == pytest.approx(shares["share"].to_numpy())
    plt.close(ax.figure)
    with pytest.raises(InputError, match="figure equilibrium: lacks"):
        draw_equilibrium(pd.DataFrame({"rank": [1]}))
