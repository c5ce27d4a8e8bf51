"""skild-phys: critical lattice systems, simulated, coarse-grained and refined."""

import skild_phys.forks  # noqa: F401, what forked children need is set when the parent starts
from skild_phys._version import __version__
from skild_phys.api import (
    Report,
    coarsen,
    compare,
    generate,
    measure,
    open_dataset,
    refine,
    save,
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
    "open_dataset",
    "refine",
    "save",
    "simulate",
    "table",
    "train",
]
