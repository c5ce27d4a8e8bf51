"""One seed gives independent noise for every system; stores of the rule before keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files_of
from store_helpers import coarsen_store, refine_store, simulate

from skild_phys import methods
from skild_phys.errors import BadInput, Interrupted
from skild_phys.methods import Fill
from skild_phys.rng import STREAMS, input_seed, system_seed
from skild_phys.simulation.chain import Unit, burn, draw
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.skild.coarse import open_coarse
from skild_phys.store import open_store, streams_at


@pytest.mark.parametrize("piece", [1, 100, 2**26])
def test_the_seed_of_an_input_is_pinned(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """However it is read. Planted, seen to fail: all 64 lattices in one piece."""
    monkeypatch.setattr("skild_phys.rng._HASHED", piece)
    values = (np.arange(70 * 16) % 7 - 3).astype(np.int16).reshape(70, 4, 4)
    longest = []

    def read(start: int, stop: int) -> Any:
        longest.append(stop - start)
        return values[start:stop]

    assert input_seed(STREAMS, 7, 70, read) == 153774162704304734717655837571136466167
    assert max(longest) == {1: 1, 100: 3, 2**26: 64}[piece]


def test_the_rule_is_pinned() -> None:
    assert system_seed(None, 7, "ising2d", 2.5) == 7
    assert system_seed(STREAMS, 7, "ising2d", 2.5) == 20805154344694258315255087832972891519
    with pytest.raises(BadInput, match="streams: 'mine'"):
        SimulationSpec(8, 2.0, 1, streams="mine")


@pytest.mark.parametrize(
    "changed",
    [{"L": 10}, {"temperature": 2.1}, {"model": "potts2"}, {"algorithm": "wolff"},
     {"start": "hot"}, {"seed": 2}],
)  # fmt: skip
def test_systems_have_streams_of_their_own(changed: dict[str, Any]) -> None:
    """And what only spaces or counts the samples of the same chains changes nothing."""
    one: dict[str, Any] = {"L": 8, "temperature": 2.0, "n_samples": 1, "seed": 1}
    seed = SimulationSpec(**one).system_seed
    assert SimulationSpec(**one | changed).system_seed != seed
    spaced = {"n_samples": 9, "every": 3, "burn_in": 5, "stint": 2, "chains": 8}
    assert SimulationSpec(**one | spaced).system_seed == seed


def correlation(algorithm: str, streams: str | None) -> float:
    """Return the correlation of the energies of two runs with one seed, at 2.269 and 2.275."""
    found = []
    for temperature in (2.269, 2.275):
        spec = SimulationSpec(
            16, temperature, 1000, algorithm=algorithm, every=20, burn_in=200, streams=streams
        )
        units = [burn(spec, Unit.start(spec, u), 200) for u in range(4)]
        made = [draw(spec, u, unit, 0, [(0, 250)]).energy for u, unit in enumerate(units)]
        found.append(np.concatenate(made))
    return float(np.corrcoef(*found)[0, 1])


@pytest.mark.statistical
@pytest.mark.parametrize("algorithm", ["swendsen-wang", "metropolis"])
def test_two_temperatures_with_one_seed_are_uncorrelated(algorithm: str) -> None:
    """H0: corr(e) of two independent runs is 0, with an error of 1 / sqrt(n_eff).

    n_eff is above 400 of 1,000 (tau below 2.5 sweeps of Swendsen-Wang, 25 of Metropolis): 0.25 is
    5 errors, a false alarm in 6e-7. Planted, and seen: streams from the seed alone, 0.37 and 0.88.
    """
    assert abs(correlation(algorithm, STREAMS)) < 0.25
    assert correlation(algorithm, None) > 0.25


def test_a_store_of_the_rule_before_is_resumed_by_it(tmp_path: Path) -> None:
    """Planted, seen to fail: the rule of now for every store."""

    def spec(n: int, **more: Any) -> SimulationSpec:
        return SimulationSpec(8, 2.25, n, every=3, burn_in=9, stint=2, **more)

    simulate(spec(13, streams=None), tmp_path / "a.zarr")
    grown = simulate(spec(30), tmp_path / "a.zarr")
    simulate(spec(30, streams=None), tmp_path / "b.zarr")
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    assert "streams" not in grown.attrs
    now = simulate(spec(30), tmp_path / "c.zarr")
    assert now.attrs["streams"] == STREAMS
    assert not np.array_equal(now.read(0, 30), grown.read(0, 30))
    assert streams_at(tmp_path / "a.zarr", overwrite=True) == STREAMS


def test_two_inputs_are_refined_by_noise_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H0: corr(e) of two fills of independent coarse lattices is 0, with an error of 0.071.

    |corr| < 0.36 fails by chance in 4e-7. Planted, and seen: noise from the seed alone, 0.9. An
    output that was begun so goes on so, to the same bytes.
    """

    def refined(name: str, temperature: float, stop_at: float = np.inf) -> Path:
        fine = tmp_path / f"{temperature}.zarr"
        spec = SimulationSpec(16, temperature, 200, every=10, burn_in=50)
        coarse = tmp_path / f"{temperature}-coarse.zarr"
        if not fine.exists():
            coarsen_store(simulate(spec, fine), coarse, "decimate", 4)
        made = 0

        def progress(count: int) -> None:
            nonlocal made
            made += count

        out = tmp_path / f"{name}-{temperature}.zarr"
        refine_store(
            open_coarse(coarse, None, None), out, Fill(), seed=0, chunk=50, threads=1,
            progress=progress, stop=lambda: made >= stop_at,
        )  # fmt: skip
        return out

    def correlation(name: str) -> float:
        energies = [open_store(refined(name, t)).variable("energy") for t in (2.269, 2.35)]
        return float(np.corrcoef(*energies)[0, 1])

    assert abs(correlation("now")) < 0.36
    with monkeypatch.context() as before:
        before.setattr(methods, "STREAMS", None)
        assert correlation("before") > 0.7
        with pytest.raises(Interrupted):
            refined("begun", 2.269, stop_at=100)
    begun = refined("begun", 2.269)
    assert files_of(begun) == files_of(tmp_path / "before-2.269.zarr")
