"""Coarse-graining rules, a rule a file: block means, majorities, decimation, the low-pass field.

>>> import numpy as np
>>> spins = np.ones((2, 8, 8), dtype=np.int8)
>>> coarsen(spins, "block_mean", 4)[0]
array([[16, 16],
       [16, 16]], dtype=int16)

A further rule is a class of its own, in a file here or anywhere else (`RULES`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.rules.base import (
    RULES,
    Operator,
    Rule,
    TieBreak,
    all_rules,
    coarse_shape,
    get_rule,
)
from skild_phys.rules.block_mean import BlockMean
from skild_phys.rules.decimate import Decimate
from skild_phys.rules.majority import Majority
from skild_phys.rules.spectral import Spectral

__all__ = [
    "RULES",
    "Operator",
    "Rule",
    "TieBreak",
    "all_rules",
    "coarse_shape",
    "coarsen",
    "get_rule",
]

RULES.update({rule.name: rule for rule in (BlockMean(), Majority(), Decimate(), Spectral())})


def coarsen(
    fine: NDArray[Any],
    rule: str | Rule,
    factor: int,
    *,
    q: int = 0,
    dimension: int | None = None,
    tie_seed: int = 0,
    sample_ids: NDArray[np.integer[Any]] | None = None,
) -> NDArray[Any]:
    """Coarse-grain samples by a rule or its name; see `Rule.coarsen`.

    `tie_seed` and `sample_ids` (n,), by default 0 .. n-1, name the tie-breaks (`TieBreak`).
    """
    ties = TieBreak(tie_seed, np.arange(len(fine)) if sample_ids is None else sample_ids)
    return get_rule(rule).coarsen(fine, factor, q=q, dimension=dimension, ties=ties)
