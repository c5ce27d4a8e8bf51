"""What the commands of a campaign would refuse, found before the first of them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skild_phys.cli import check
from skild_phys.errors import BadInput, SkildPhysError, check_whole
from skild_phys.runner import Run

if TYPE_CHECKING:
    from skild_phys.campaign import Step
    from skild_phys.models import Model

_Params = Mapping[str, Any]


@dataclass(frozen=True)
class _Store:
    """What a step will have written: `n` lattices of a model; `rule` and `factor` of coarse ones.

    `field` says that they may be real numbers, as trained weights may make them.
    """

    n: int
    shape: tuple[int, ...]
    model: Model
    temperature: float
    rule: str | None = None
    factor: int = 1
    tie_seed: int | None = None
    field: bool = False

    @property
    def q(self) -> int:
        return self.model.q


def rehearse(steps: Sequence[Step]) -> None:
    """Raise SkildPhysError for the first step with a value that its command would refuse."""
    made: dict[Path, _Store] = {}
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


def _simulate(params: _Params) -> _Store:
    from skild_phys.cli.simulate import PARAMETERS
    from skild_phys.simulation.chain import plan_of
    from skild_phys.simulation.spec import SimulationSpec

    spec = SimulationSpec(**{name: params[name] for name in PARAMETERS})
    plan_of(spec, Run(**{name: params[name] for name in ("chunk", "threads", "dask")}))
    return _Store(spec.n_samples, spec.shape, spec.model, spec.temperature)


def _coarsen(params: _Params, fine: _Store) -> _Store:
    from skild_phys.rules import TieBreak, coarse_shape, get_rule

    rule, factor = get_rule(params["rule"]), params["factor"]
    kind = "states" if fine.q else "spins"
    rule.variable(kind)
    shape = coarse_shape(fine.shape, factor)
    rule.scale(kind, factor, len(shape))
    seed = (params["tie_seed"] or 0) if rule.ties else None
    if seed is not None:
        TieBreak(seed, np.zeros(0, dtype=np.int64))
    return replace(fine, shape=shape, rule=rule.name, factor=factor, tie_seed=seed)


def _refine(params: _Params, coarse: _Store, trained: bool) -> _Store:
    from skild_phys.cli.refine import named_method
    from skild_phys.methods import SKILD
    from skild_phys.rules import get_rule
    from skild_phys.skild.coarse import CoarseInput

    Run(chunk=params["chunk"], device=params["device"], dask=params["dask"])
    method = named_method(dict(params) | ({"checkpoint": None} if trained else {}))
    for name in ("factor", "rule"):
        own = getattr(coarse, name)
        if params[name] is not None and params[name] != own:
            raise BadInput(name, params[name], f"{own}, by which it is coarsened")
    attrs = {"model": coarse.model.name, "temperature": coarse.temperature}
    source = CoarseInput(
        Path("coarse.zarr"), get_rule(str(coarse.rule)), coarse.factor, coarse.n, coarse.shape,
        np.arange(coarse.n), coarse.tie_seed, lambda start, stop: np.zeros(0), "", attrs,
        q=coarse.q,
    )  # fmt: skip
    if isinstance(method, SKILD) and trained:
        # Trained weights may turn out to be of fields or of spins.
        method.temperature(source)
        method.check_lattices(source, real=False)
        field = True
    else:
        method.check(source)
        field = not method.spins
    n = coarse.n * check_whole("samples_per_input", params["samples_per_input"])
    return replace(coarse, n=n, shape=source.fine_shape, rule=None, factor=1, field=field)


def _train(params: _Params) -> None:
    from skild_phys.cli.options import check_device
    from skild_phys.skild.fit import Fit

    check_device(params["device"])
    others = ("store", "output", "device", "overwrite", "as_json")
    Fit.of(params["store"], **{key: params[key] for key in params if key not in others})


def _measure(params: _Params, stores: Sequence[_Store]) -> None:
    """Check what `measure` and `compare` are told."""
    from skild_phys.cli.measure import parse_offsets
    from skild_phys.cli.options import error_method
    from skild_phys.measurement.compare import check_names
    from skild_phys.measurement.observables import chosen
    from skild_phys.measurement.system import System, check_offsets

    if params.get("names") is not None:
        check_names([name.strip() for name in params["names"].split(",")], len(stores) - 1)
    first, fewest = stores[0], min(store.n for store in stores)
    errors, bins, resamples, seed = (
        params[name] for name in ("errors", "bins", "resamples", "seed")
    )
    error_method(errors, bins, resamples, seed, fewest)
    if any(store.field for store in stores):
        return  # what of fields is measured is told when they are there
    offsets = tuple(parse_offsets(text) for text in params.get("offsets", ()))
    for one in offsets:
        check_offsets(np.array(one, dtype=np.int64), first.shape)
    system = System(
        first.shape, "states" if first.q else "spins", first.q, first.model, first.temperature,
        offsets, seed,
    )  # fmt: skip
    only = params.get("only")
    chosen(system, None if only is None else [name.strip() for name in only.split(",")])
