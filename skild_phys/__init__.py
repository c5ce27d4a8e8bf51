"""skild-phys: critical lattice systems, simulated, coarse-grained and refined."""

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


def __getattr__(name: str) -> Any:
    """Load what `import skild_phys` need not wait for."""
    if name == "observable":
        from skild_phys.measurement.observables import observable

        return observable
    if name == "Report":
        from skild_phys.measurement.report import Report

        return Report
    raise AttributeError(name)
