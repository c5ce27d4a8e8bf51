from __future__ import annotations

import numpy as np
import pytest

from skild_phys.models.base import equal_bonds, neighbour_rows, row_parity

SHAPES = [(2, 2), (3, 5), (4, 34), (2, 2, 2), (3, 4, 5), (2, 3, 33)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("outer", [(), (3,), (2, 3)], ids=str)
def test_equal_bonds_are_those_that_rolling_finds(
    shape: tuple[int, ...], outer: tuple[int, ...]
) -> None:
    lattices = np.random.default_rng(1).integers(0, 3, (*outer, *shape)).astype(np.int8)
    axes = tuple(range(-len(shape), 0))
    wanted = sum((lattices == np.roll(lattices, 1, axis)).sum(axis=axes) for axis in axes)
    found = equal_bonds(lattices, len(shape))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, wanted)


def test_equal_bonds_of_an_array_that_is_not_contiguous() -> None:
    lattices = np.random.default_rng(2).integers(0, 2, (4, 6, 8)).astype(np.int8)
    turned = lattices.transpose(0, 2, 1)
    np.testing.assert_array_equal(equal_bonds(turned, 2), equal_bonds(lattices, 2))
    assert equal_bonds(lattices, 3) == equal_bonds(np.flip(lattices), 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_neighbouring_rows(shape: tuple[int, ...]) -> None:
    rows = neighbour_rows(shape)
    assert rows.shape == (int(np.prod(shape[:-1])), 2 * (len(shape) - 1))
    for place in np.ndindex(shape[:-1]):
        here = np.ravel_multi_index(place, shape[:-1])
        for axis in range(len(shape) - 1):
            for column, step in ((2 * axis, -1), (2 * axis + 1, 1)):
                there = list(place)
                there[axis] = (there[axis] + step) % shape[axis]
                assert rows[here, column] == np.ravel_multi_index(there, shape[:-1])


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6)], ids=str)
def test_rows_beside_one_another_have_the_other_parity(shape: tuple[int, ...]) -> None:
    parity = row_parity(shape)
    assert parity[0] == 0
    assert (parity[neighbour_rows(shape)] == 1 - parity[:, None]).all()
