"""Stores made by the core: the driver's options as keywords, and the store itself returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from skild_phys import methods
from skild_phys.methods import Method, Refined
from skild_phys.runner import Run
from skild_phys.simulation import coarsening, ensemble
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.skild.coarse import CoarseInput
from skild_phys.store import Lattices, LatticeStore, open_store


def run_of(progress: Callable[[int], Any] | None = None, **options: Any) -> Run:
    """Return a `Run` whose `progress` is called with the samples just made, if any."""
    if progress is None:
        return Run(**options)
    heard = progress
    return Run(progress=lambda count, note="": heard(count) if count else None, **options)


def simulate(spec: SimulationSpec, path: Path | str, **options: Any) -> LatticeStore:
    ensemble.simulate(spec, path, run_of(**options))
    return open_store(path)


def coarsen_store(
    fine: Lattices, path: Path, rule: str, factor: int, *, tie_seed: int | None = None,
    **options: Any,
) -> LatticeStore:  # fmt: skip
    coarsening.coarsen(fine, path, rule, factor, run_of(**options), tie_seed=tie_seed)
    return open_store(path)


def refine_store(
    coarse: CoarseInput, path: Path, method: Method, *, seed: int = 8, copies: int = 1,
    **options: Any,
) -> Refined:  # fmt: skip
    run = run_of(**options)
    return methods.refine(coarse, path, method, run, seed=seed, samples_per_input=copies)
