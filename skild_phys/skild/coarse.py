"""What a refinement starts from: coarse configurations, with the rule and factor they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, StoreError, check_whole
from skild_phys.fields import FIELDS
from skild_phys.rules import Rule, TieBreak, get_rule
from skild_phys.store import Lattices, Source, open_lattices

_Read = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class CoarseInput:
    """Coarse configurations with what is known of where they came from.

    Attributes
    ----------
    path : where they lie, for messages.
    rule, factor : of the coarse-graining; a fine lattice has `factor` times the sides.
    n, shape : number of configurations and their (ly, lx) or (lz, ly, lx).
    ids : (n,) identity of each in the ensemble it was coarsened from (its own index if unknown).
    tie_seed : names the tie-breaks of majority blocks; None if unknown.
    read : (start, stop) -> raw coarse numbers (stop - start, *shape): int16 block sums, int8
        spins or states, float32 fields; or int16 counts of states (stop - start, q, *shape).
    digest : SHA-256 of the configurations.
    attrs : model, temperature and so on, as far as the input has them.
    series : chain and draw of each, as far as the input has them, each (n,).
    q : number of Potts states; 0 for spins and fields.
    real : whether the fine configurations are real fields.
    """

    path: Path
    rule: Rule
    factor: int
    n: int
    shape: tuple[int, ...]
    ids: NDArray[np.int64]
    tie_seed: int | None
    read: _Read
    digest: str
    attrs: dict[str, Any] = field(default_factory=dict)
    series: dict[str, NDArray[Any]] = field(default_factory=dict)
    q: int = 0
    real: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what reads: workers get configurations with each piece of work."""
        return vars(self) | {"read": _elsewhere}

    @property
    def fine_shape(self) -> tuple[int, ...]:
        """(Ly, Lx) or (Lz, Ly, Lx) of what is to be made."""
        return tuple(side * self.factor for side in self.shape)

    @property
    def kind(self) -> str:
        """What the fine configurations hold: spins, states or a field."""
        return "field" if self.real else "states" if self.q else "spins"

    def tie_break(self, inputs: Any) -> TieBreak | None:
        """Return what decides ties of the configurations `inputs`; None if not known."""
        return None if self.tie_seed is None else TieBreak(self.tie_seed, self.ids[inputs])

    def ties(self, inputs: Any) -> NDArray[np.int8] | None:
        """Return the tie-breaks of the configurations `inputs`; None if the rule has no ties.

        (n, *shape) int8 of +-1, or for Potts states priorities (n, q, *shape); 0 throughout where
        they are not known.
        """
        if not self.rule.ties:
            return None
        known = self.tie_break(inputs)
        if known is None:
            states = (self.q,) if self.q else ()
            return np.zeros((len(self.ids[inputs]), *states, *self.shape), dtype=np.int8)
        return known.priorities(self.shape, self.q) if self.q else known.signs(self.shape)


def _elsewhere(start: int, stop: int) -> NDArray[Any]:
    raise RuntimeError("coarse lattices are not read by workers")


def open_coarse(
    lattices: Source, factor: int | None, rule: str | Rule | None, *, spins: bool | None = True
) -> CoarseInput:
    """Open coarse configurations: what `coarsen` wrote, or any that `open_lattices` takes.

    Parameters
    ----------
    lattices : with attributes rule and factor, or others, for which both must be given.
    factor, rule : checked against the input's own if it has them.
    spins : whether the fine configurations are spins (or Potts states); if not, values may be any.
        None: as the input is.

    Raises
    ------
    BadInput, StoreError : for what cannot be coarse of this rule and factor.
    """
    given = None if rule is None else get_rule(rule)
    plain = given is not None and spins is not False and given.stores.get("spins") == "spins"
    wanted = None if given is None else "spins" if plain else "field"
    source = open_lattices(lattices, wanted, repeats=True)
    path, attrs = source.path, source.attrs
    read: _Read = source.read
    if source.field == "image":
        raise StoreError(f"{path}: holds images; 'skild-phys images refine' makes them finer")
    source.model()  # refuses what is not of the model that it names
    named = None if "method" in attrs else attrs.get("rule")
    known = named is not None and attrs.get("factor") is not None
    own = get_rule(str(named)) if known or (spins is None and named is not None) else None
    if spins is None:
        spins = own is None or own.stores.get("spins") == "field" or source.field != "field"
    if own is None or not known:
        if factor is None or given is None:
            raise StoreError(
                f"{path}: not a coarse store; to refine its lattices as they are,"
                " give rule= and factor="
            )
        own, by = given, check_whole("factor", factor, 2)
        read = _as_they_are(source, own, by, spins)
    else:
        by = check_whole("factor", attrs["factor"], 2)
        if spins and source.field == "field" and own.stores.get("spins") != "field":
            raise StoreError(f"{path}: holds fields: to refine them takes weights of fields")
    if factor is not None and factor != by:
        raise BadInput("factor", factor, f"{by}, by which {path} was coarsened")
    if given is not None and given is not own:
        raise BadInput("rule", given.name, f"{own.name}, by which {path} was coarsened")
    ids = source.variable("parent") if "parent" in source.variables else np.arange(source.n_samples)
    return CoarseInput(
        path, own, by, source.n_samples, source.shape, ids.astype(np.int64), attrs.get("tie_seed"),
        read, source.digest(), attrs,
        {name: source.variable(name) for name in ("chain", "draw") if name in source.variables},
        source.q, not spins,
    )  # fmt: skip


def _as_they_are(source: Lattices, rule: Rule, factor: int, spins: bool) -> _Read:
    """Return what reads configurations as coarse ones of a rule that they do not name."""
    d = len(source.shape)
    scale = rule.scale("spins", factor, d)
    if scale != 1.0 and source.field in ("spins", "states"):
        raise StoreError(f"{source.path}: holds {source.field}, not block means")
    if FIELDS[source.field].scaled:
        if source.scale != scale:
            sites = round(1 / source.scale)
            given = f"{rule.name}, {factor}"
            raise BadInput("rule, factor", given, f"block means of {sites} sites")
        return source.read

    def read(start: int, stop: int) -> NDArray[Any]:
        values = source.read(start, stop)
        if not spins:
            return values.astype(np.float32)
        if source.field != "field" and rule.stores.get("spins") != "field":
            return values
        return rule.read(values, factor, d, str(source.path))

    for span in source.batches() if source.field == "field" else ():
        read(*span)  # before anything is written
    return read
