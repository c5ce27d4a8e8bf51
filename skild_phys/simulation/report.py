"""What a finished simulation is judged by: its energy, and whether its samples are independent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skild_phys.errorbars import Chains, integrated_autocorrelation_time, jackknife
from skild_phys.store import Lattices

_SERIES = {"energy": "energy", "magnetization_squared": "M^2"}
_DRIFT = 1e-3
"""False-alarm rate of the warning that the energy drifts."""


def summary(store: Lattices, exact: float | None = None) -> dict[str, Any]:
    """Return what a finished run is judged by.

    Energy per site, with error and the `exact` value where there is one, and the integrated
    autocorrelation times of energy and M^2: in draws from the samples (1/2 when they are
    independent), in updates from the burn-in.
    """
    chains = Chains(store.variable("chain").astype(np.int64), store.variable("draw"))
    rows = {"energy": store.variable("energy"), "m2": store.variable("magnetization") ** 2}
    estimate = jackknife(lambda means: means["energy"], rows, chains=chains)
    mean, error = float(estimate.value), float(estimate.error)
    found = integrated_autocorrelation_time(np.stack([*rows.values()], axis=1), chains)
    told = exact is not None and error > 0 and found.known[0]
    named = ("model", "algorithm", "chains", "every", "burn_in", "update")
    result = {
        "path": str(store.path),
        "samples": store.n_samples,
        "shape": list(store.shape),
        **{name: store.attrs[name] for name in named},
        "energy": mean,
        "energy_error": error if math.isfinite(error) else None,
        "energy_exact": exact,
        "deviation_sigma": (mean - (exact or 0.0)) / error if told else None,
    }
    for i, name in enumerate(_SERIES):
        result |= {
            f"{name}_tau": float(found.tau[i]),
            f"{name}_tau_error": float(found.error[i]),
            f"{name}_tau_known": bool(found.known[i]),
            f"burn_in_tau_{name}": store.attrs.get(f"tau_{name}"),
        }
    return {**result, "warnings": _warnings(result, _drifts(rows["energy"], chains))}


def _drifts(energy: Any, chains: Chains) -> bool:
    """Return whether chains have another energy early than late: t-test of chain means.

    The first quarter of the draws of each chain against the last half.
    """
    changes = []
    for chain in np.unique(chains.chain):
        of = energy[chains.chain == chain]
        if len(of) < 8:
            return False
        changes.append(of[: len(of) // 4].mean() - of[len(of) // 2 :].mean())
    if len(changes) < 4 or np.ptp(changes) == 0.0:
        return False
    from scipy.stats import ttest_1samp  # a second to import

    return bool(ttest_1samp(changes, 0.0).pvalue < _DRIFT)


def _updates(tau: float, every: int) -> float:
    """Return tau_int in updates from tau_int in draws `every` updates apart.

    For an exponential autocorrelation; 0 where the draws are independent as far as one can see.
    """
    return every / (2.0 * math.atanh(0.5 / tau)) if tau > 0.5 else 0.0


def _warnings(result: dict[str, Any], drifts: bool) -> list[str]:
    every, burnt, update = result["every"], result["burn_in"], result["update"]
    # Two errors down, so that a sound run is not blamed for the noise of its tau.
    draws = [result[f"{n}_tau"] - 2.0 * result[f"{n}_tau_error"] for n in _SERIES]
    seen = max(_updates(tau, every) for tau in draws)
    tau = max(seen, *(result[f"burn_in_tau_{n}"] or 0.0 for n in _SERIES))
    warnings = []
    if every < 2.0 * seen:
        warnings.append(
            f"samples are {every} {update}s apart, closer than two autocorrelation times "
            f"(tau > {seen:.3g} {update}s); errors account for it, --every sets it"
        )
    if result["energy_error"] == 0.0 and result["samples"] > 1:
        warnings.append("the energy never changes: is this the ground state, or are chains frozen?")
    if burnt < 20.0 * tau:
        warnings.append(
            f"burn-in was {burnt} {update}s, shorter than 20 autocorrelation times "
            f"(tau {tau:.3g} {update}s); --burn-in sets it"
        )
    elif drifts:
        warnings.append(
            f"burn-in was {burnt} {update}s, and the energy still drifts; --burn-in sets it"
        )
    return warnings


def in_words(result: dict[str, Any]) -> str:
    """Return a `summary` as a text of three lines."""
    shape, update = " x ".join(map(str, result["shape"])), result["update"]
    energy = f"energy per site  {result['energy']:.6f}"
    if result["energy_error"] is not None:
        energy += f" +- {result['energy_error']:.6f} J"
    if result["energy_exact"] is not None:
        energy += f"   exact {result['energy_exact']:.6f}"
    if result["deviation_sigma"] is not None:
        energy += f" ({result['deviation_sigma']:+.1f} sigma)"
    draws = [
        f"{short} {result[f'{name}_tau']:.2f} +- {result[f'{name}_tau_error']:.2f}"
        for name, short in _SERIES.items()
        if result[f"{name}_tau_error"] > 0.0 and result[f"{name}_tau_known"]
    ]
    tau = f"tau_int  {', '.join(draws) or 'too few'} draws"
    tau += " (independent: 0.5)" if draws else " to tell it"
    if result["burn_in_tau_energy"] is not None:
        before = [f"{s} {result[f'burn_in_tau_{n}']:.3g}" for n, s in _SERIES.items()]
        tau += f"; at burn-in {', '.join(before)} {update}s"
    samples = (
        f"{result['samples']} samples of {shape}, one every {result['every']} "
        f"{update}s of a chain ({result['algorithm']}, {result['chains']} chains)"
    )
    return "\n".join([samples, energy, tau])
