"""Peak resident memory, in MiB, of one piece of work in this process; run as a script.

python peak.py measure STORE THREADS, python peak.py refine SIDE FACTOR
"""

import resource
import sys

import numpy as np

import skild_phys as sp


def _measure(path: str, threads: int) -> None:
    sp.measure(path, threads=threads)


def _refine(side: int, factor: int) -> None:
    """Refine one lattice from block means with the shipped weights, in three calls."""
    coarse = np.ones((1, side // factor, side // factor))
    coarse[:, ::2] *= -1
    sp.refine(coarse, factor=factor, rule="block_mean", steps=3, threads=1)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        _measure(sys.argv[2], int(sys.argv[3]))
    else:
        _refine(int(sys.argv[2]), int(sys.argv[3]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0)
