"""What arrays that come and go ask of the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from skild_phys.process import hold_memory

hold_memory()
for i in range(20):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(2**17) for _ in range(16)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_of_arrays_that_are_let_go_serves_the_next_ones() -> None:
    """16 arrays of 1 MiB have 4096 pages; given back and asked for anew they fault each time.

    Planted, seen to fail: nothing held.
    """
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, stdout=subprocess.PIPE)
    assert int(done.stdout) < 4096
