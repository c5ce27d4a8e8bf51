"""What the commands of a campaign would refuse, found before the first of them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skild_phys.cli import check
from skild_phys.errors import SkildPhysError, check_whole
from skild_phys.runner import Run
from skild_phys.store import MemoryLattices, Plan

if TYPE_CHECKING:
    from skild_phys.campaign import Step

_Params = Mapping[str, Any]


class _Promised(MemoryLattices):
    """What a step will have written, of no memory and no meaning.

    Whether trained weights make spins or fields is not `known` before they are there.
    """

    def __init__(self, plan: Plan, known: bool = True) -> None:
        arrays = {
            name: np.broadcast_to(np.zeros((), array.dtype), (plan.n_samples, *array.shape))
            for name, array in plan.arrays.items()
        }
        super().__init__(plan, arrays, dict(plan.attrs))
        self.known = known

    def digest(self) -> str:
        return ""


def rehearse(steps: Sequence[Step]) -> None:
    """Raise SkildPhysError for the first step with a value that its command would refuse."""
    made: dict[Path, _Promised] = {}
    for step in steps:
        params = check(step.command, step.inputs, step.options | {"output": step.output})
        inputs = [made[path] for path in step.inputs]
        try:
            if step.command == "simulate":
                made[step.output] = _simulate(params)
            elif step.command == "coarsen":
                made[step.output] = _coarsen(params, inputs[0])
            elif step.command == "refine":
                trained = any(params["checkpoint"] == one.output for one in steps)
                made[step.output] = _refine(params, inputs[0], trained)
            elif step.command == "train":
                _train(params)
            else:
                _measure(params, inputs)
        except SkildPhysError as error:
            raise SkildPhysError(f"{step.output}: {error}") from None


def _run(params: _Params) -> Run:
    names = ("threads", "chunk", "device", "dask")
    return Run(**{name: params[name] for name in names if name in params})


def _simulate(params: _Params) -> _Promised:
    from skild_phys.cli.simulate import PARAMETERS
    from skild_phys.simulation.chain import plan_of
    from skild_phys.simulation.spec import SimulationSpec

    spec = SimulationSpec(**{name: params[name] for name in PARAMETERS})
    return _Promised(plan_of(spec, _run(params))[1])


def _coarsen(params: _Params, fine: _Promised) -> _Promised:
    from skild_phys.rules import get_rule
    from skild_phys.simulation.coarsening import coarse_plan

    rule, seed = get_rule(params["rule"]), params["tie_seed"]
    return _Promised(coarse_plan(fine, rule, params["factor"], _run(params), seed, digest=False)[0])


def _refine(params: _Params, coarse: _Promised, trained: bool) -> _Promised:
    from skild_phys.cli.refine import named_method
    from skild_phys.methods import SKILD
    from skild_phys.skild.coarse import open_coarse

    _run(params)
    method = named_method(dict(params) | ({"checkpoint": None} if trained else {}))
    known = not (trained and isinstance(method, SKILD))
    source = open_coarse(
        coarse, params["factor"], params["rule"], spins=method.spins if known else None
    )
    if isinstance(method, SKILD) and trained:
        method.temperature(source)
        method.check_values(source, spins=True)
    else:
        method.check(source)
    plan = Plan(
        field=source.kind, shape=source.fine_shape, chunk=1, q=source.q,
        n_samples=source.n * check_whole("samples_per_input", params["samples_per_input"]),
        attrs=coarse.attrs | {"method": method.name},
    )  # fmt: skip
    return _Promised(plan, known)


def _train(params: _Params) -> None:
    from skild_phys.skild.fit import Fit

    Run(device=params["device"])
    others = ("store", "output", "device", "overwrite", "as_json")
    Fit.of(params["store"], **{key: params[key] for key in params if key not in others})


def _measure(params: _Params, stores: Sequence[_Promised]) -> None:
    """Check what `measure` and `compare` are told."""
    from skild_phys.cli.measure import parse_offsets
    from skild_phys.cli.options import error_method
    from skild_phys.measurement.compare import check_names
    from skild_phys.measurement.observables import chosen
    from skild_phys.measurement.system import System

    if params.get("names") is not None:
        check_names([name.strip() for name in params["names"].split(",")], len(stores) - 1)
    errors = {name: params[name] for name in ("errors", "bins", "resamples", "seed")}
    error_method(**errors, lattices=min(store.n_samples for store in stores))
    if all(store.known for store in stores):
        offsets = tuple(parse_offsets(text) for text in params.get("offsets", ()))
        system = System.of(stores[0], offsets=offsets, seed=params["seed"])
        chosen(system, params.get("only"))
