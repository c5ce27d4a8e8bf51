"""A forest of clusters in which a parent never stands behind its child.

Rem's algorithm with splicing: Patwary, Blair and Manne, SEA 2010. Indices are unsigned, because
Numba looks at each signed one for a negative value.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def unite(parent, x, y):  # type: ignore[no-untyped-def]
    """Join the trees of x and y, both uint64; the smaller root stays."""
    px, py = np.uint64(parent[x]), np.uint64(parent[y])
    while px != py:
        if px > py:
            parent[x] = py
            if x == px:
                break
            x = px
            px = np.uint64(parent[x])
        else:
            parent[y] = px
            if y == py:
                break
            y = py
            py = np.uint64(parent[y])


@njit(cache=True, nogil=True)
def unite_near_roots(parent, x, y):  # type: ignore[no-untyped-def]
    """Do as `unite`, faster where two steps up from x and y nearly always lead to roots."""
    one = parent[np.uint64(parent[x])]
    two = parent[np.uint64(parent[y])]
    # No branch asks which of them is the smaller.
    child = np.uint64(max(one, two))
    if parent[child] == child:
        parent[child] = min(one, two)
    else:
        unite(parent, child, np.uint64(min(one, two)))
