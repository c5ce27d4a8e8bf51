"""skild-phys: critical lattice systems, simulated, coarse-grained and refined."""

import importlib
from typing import TYPE_CHECKING, Any

import skild_phys.process  # noqa: F401, what forked children need is set when the parent starts
from skild_phys._version import __version__
from skild_phys.api import (
    coarsen,
    compare,
    generate,
    measure,
    open_dataset,
    refine,
    save,
    scaling,
    simulate,
    table,
    train,
)

__all__ = [
    "Report",
    "__version__",
    "coarsen",
    "compare",
    "generate",
    "measure",
    "observable",
    "open_dataset",
    "refine",
    "save",
    "scaling",
    "simulate",
    "table",
    "train",
]

if TYPE_CHECKING:
    from skild_phys.measurement.observables import observable
    from skild_phys.measurement.report import Report


_LATER = {"observable": "measurement.observables", "Report": "measurement.report"}


def __getattr__(name: str) -> Any:
    """Load what `import skild_phys` need not wait for."""
    if name in _LATER:
        return getattr(importlib.import_module(f"skild_phys.{_LATER[name]}"), name)
    raise AttributeError(name)
