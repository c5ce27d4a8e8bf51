"""Where the time and memory of a refinement go, beside the exact Monte Carlo."""

from __future__ import annotations

import cProfile
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from skild_phys.models.ising import ISING_2D
from skild_phys.rng import kernel_state
from skild_phys.rules.coarsen import coarsen_spins, operator
from skild_phys.simulation.wolff import wolff
from skild_phys.skild.coarse import CoarseInput
from skild_phys.skild.refine import RefineSpec, SkildMethod, refine_store
from skild_phys.skild.weights import Weights


@dataclass(frozen=True)
class RefineSpeed:
    """What refining lattices of one shape costs.

    Attributes
    ----------
    shape : (Ly, Lx) of the fine lattices.
    calls, network_calls : denoiser calls a lattice, and those of them that call the network.
    one_thread : seconds a lattice on one thread, without the store; the median.
    parts : of that: the network, the mean field, the constraint (means under it, and draws), and
        the rest (transforms of the steps, noise).
    store : seconds a lattice with all threads, committed to a store.
    threads : of `store`.
    exact : seconds a lattice of `refine --method exact` into a store, its tau measured before.
    """

    shape: tuple[int, int]
    calls: int
    network_calls: int
    parts: dict[str, float]
    one_thread: float
    store: float
    threads: int
    exact: float | None


def critical_coarse(n: int, side: int, rule: str, factor: int) -> CoarseInput:
    """Return coarse lattices of `n` critical Ising lattices of `side`^2, in memory."""
    temperature = ISING_2D.critical_temperature
    state = kernel_state(1, side)
    spins, fine = np.ones((side, side), dtype=np.int8), np.empty((n, side, side), dtype=np.int8)
    wolff(spins, temperature, state, 200)
    for i in range(n):
        wolff(spins, temperature, state, 10)
        fine[i] = spins
    if rule == "spectral":
        raw = operator(rule, (side, side), factor).apply(fine.astype(np.float64))
        raw = raw.astype(np.float32)
    else:
        raw = coarsen_spins(fine, rule, factor)
    attrs = {"model": ISING_2D.name, "temperature": temperature}
    shape = tuple(raw.shape[1:])
    return CoarseInput(
        Path("memory"), rule, factor, n, shape, np.arange(n), 0,
        lambda start, stop: raw[start:stop], "0", attrs,
    )  # fmt: skip


def refine_speed(
    weights: Weights, coarse: CoarseInput, spec: RefineSpec, threads: int, exact: bool = True
) -> RefineSpeed:
    """Measure what `spec` costs on the lattices of `coarse`."""
    method = SkildMethod(weights, coarse, spec)
    coins = coarse.coins(coarse.ids) if coarse.rule == "majority" else None

    def refine_one(i: int) -> None:
        method(coarse.read(i, i + 1), [i], None if coins is None else coins[i : i + 1])

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        refine_one(0)
        walls = []
        for i in range(coarse.n):
            began = time.perf_counter()
            refine_one(i)
            walls.append(time.perf_counter() - began)
        profile = cProfile.Profile()
        for i in range(coarse.n):
            profile.runcall(refine_one, i)
    finally:
        torch.set_num_threads(before)
    one_thread = statistics.median(walls)
    found = _parts(profile)
    total = sum(row[2] for row in pstats.Stats(profile).stats.values())  # type: ignore[attr-defined]
    parts = {part: one_thread * seconds / total for part, seconds in found.items()}
    parts["the rest"] = one_thread - sum(parts.values())
    from_network = sum(lam >= weights.network_from for lam in method.lambdas)
    height, width = coarse.fine_shape
    cost = None
    if exact and coarse.rule != "spectral":
        cost = _into_store(coarse, replace(spec, method="exact"), None, threads)
    return RefineSpeed(
        (height, width),
        len(method.lambdas),
        int(from_network),
        parts,
        one_thread,
        _into_store(coarse, spec, weights, threads),
        threads,
        cost,
    )


def _into_store(
    coarse: CoarseInput, spec: RefineSpec, weights: Weights | None, threads: int
) -> float:
    heat = ISING_2D.critical_temperature
    with tempfile.TemporaryDirectory() as folder:
        done = refine_store(
            coarse, Path(folder) / "r.zarr", spec, weights, temperature=heat, threads=threads
        )
    return done["seconds"] / coarse.n


def _parts(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds that a profile saw in the network, the mean field and the constraint."""
    spent: dict[str, float] = {}
    inside = 0.0
    for (file, _, name), (_, _, _, total, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        key = f"{Path(file).stem}.{name}"
        spent[key] = spent.get(key, 0.0) + total
        if key == "constraint.means":  # what the mean field spends in it is not its own
            inside += sum(
                c[3] for (caller, *_), c in callers.items() if Path(caller).stem == "mean_field"
            )
    constraint = sum(spent.get(f"constraint.{name}", 0.0) for name in ("means", "settled", "draw"))
    field = sum(spent.get(f"mean_field.{name}", 0.0) for name in ("evidence", "iterate", "given"))
    network = spent.get("reverse.see_through_symmetries", 0.0)
    return {"network": network, "mean field": field - inside, "constraint": constraint}


def peak_memory(sides: Sequence[int], factor: int) -> dict[int, float]:
    """Return the peak resident memory, in MiB, of refining one lattice of each side.

    Each in a process of its own, with the shipped weights, from block means, in three calls.
    """
    found = {}
    for side in sides:
        command = [sys.executable, "-m", "skild_phys.skild.bench", str(side), str(factor)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[side] = float(done.stdout)
    return found


def _refine_one(side: int, factor: int) -> float:
    """Refine one lattice in this process and return its peak resident memory in MiB."""
    from skild_phys.skild.weights import load_weights, shipped_weights

    torch.set_num_threads(1)
    height = side // factor
    sums = np.full((1, height, height), factor * factor, dtype=np.int16)
    sums[:, ::2] *= -1
    coarse = CoarseInput(
        Path("memory"), "block_mean", factor, 1, (height, height), np.arange(1), None,
        lambda start, stop: sums, "0", {},
    )  # fmt: skip
    method = SkildMethod(load_weights(shipped_weights()), coarse, RefineSpec(steps=3))
    method(sums, [0], None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


if __name__ == "__main__":
    print(_refine_one(*(int(word) for word in sys.argv[1:3])))
