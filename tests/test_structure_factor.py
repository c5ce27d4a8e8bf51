"""S(k) against the sum over sites written out; folding and shells against the full transform."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from skild_phys.measurement.observables.two_point import (
    _along_longest_axes,
    _fold,
    _images,
    _structure_factor,
    _wave_shells,
)

SHAPES = [(6, 8), (8, 6), (7, 5), (16, 16), (4, 6, 5), (1, 6)]


def brute_structure_factor(field: np.ndarray) -> np.ndarray:
    """Sum over sites for every wave vector of the whole transform."""
    place = np.stack(np.meshgrid(*map(np.arange, field.shape), indexing="ij"))
    found = np.empty(field.shape)
    for m in product(*map(range, field.shape)):
        turns = sum(a * x / n for a, x, n in zip(m, place, field.shape, strict=True))
        found[m] = np.abs((field * np.exp(-2j * np.pi * turns)).sum()) ** 2 / field.size
    return found


def folded(fields: np.ndarray) -> np.ndarray:
    shape = fields.shape[1:]
    layout = (*shape[:-1], shape[-1] // 2 + 1)
    return _structure_factor([fields], shape, np.zeros(layout), np.zeros(layout))


def half(fields: np.ndarray) -> np.ndarray:
    """The sum over sites of each field, in the layout of rfftn."""
    return np.stack([brute_structure_factor(f) for f in fields])[..., : fields.shape[-1] // 2 + 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_sum_over_sites(shape: tuple[int, ...]) -> None:
    """Also of three components, which are added up."""
    fields = np.random.default_rng(7).normal(size=(3, 1, *shape))
    layout = (*shape[:-1], shape[-1] // 2 + 1)
    for some in (fields[:1], fields):
        total, squares = np.zeros(layout), np.zeros(layout)
        found = _structure_factor(some, shape, total, squares)
        want = sum(brute_structure_factor(one[0]) for one in some)
        assert np.allclose(total, want[..., : shape[-1] // 2 + 1], rtol=1e-12)
        assert np.allclose(squares, total**2)
        assert np.allclose(found[0], _fold(want, len(shape)), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_modes_average_to_the_mean_square(shape: tuple[int, ...]) -> None:
    field = np.random.default_rng(8).normal(size=(3, *shape))
    power, sites = folded(field), _images(shape)
    assert sites.sum() == np.prod(shape)
    mean = (power * sites).reshape(3, -1).sum(axis=1) / np.prod(shape)
    assert mean == pytest.approx((field**2).reshape(3, -1).mean(axis=1), rel=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_over_lattices_are_kept_mode_by_mode(shape: tuple[int, ...]) -> None:
    field = np.random.default_rng(9).normal(size=(4, *shape))
    each = half(field)
    total, squares = np.ones(each.shape[1:]), np.zeros(each.shape[1:])
    _structure_factor([field], shape, total, squares)
    assert np.allclose(total, 1 + each.sum(axis=0))
    assert np.allclose(squares, (each**2).sum(axis=0))


def shells_agree(power: np.ndarray, field: np.ndarray) -> bool:
    """Compare shell averages of folded powers with the same over the whole transform."""
    shape = field.shape
    frequencies = [2 * np.pi * np.fft.fftfreq(n) for n in shape]
    k = np.sqrt(sum(a**2 for a in np.meshgrid(*frequencies, indexing="ij")))
    full = brute_structure_factor(field)
    index = np.floor(k * min(shape) / (2 * np.pi) + 0.5 + 1e-9).astype(int)
    index[k > 0] += 1
    inside = [index == i for i in np.unique(index)]
    shell = _wave_shells(shape)
    return (
        np.allclose(shell.at, [k[i].mean() for i in inside])
        and np.array_equal(shell.count, [i.sum() for i in inside])
        and np.allclose(shell.average(power[np.newaxis])[0], [full[i].mean() for i in inside])
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_shells_equal_averages_over_the_full_transform(shape: tuple[int, ...]) -> None:
    field = np.random.default_rng(10).normal(size=shape)
    assert shells_agree(folded(field[np.newaxis])[0], field)


def test_planted_fault_mirror_images_left_out() -> None:
    field = np.random.default_rng(10).normal(size=(6, 8))
    one_corner = half(field[np.newaxis])[0, :4]
    assert not shells_agree(one_corner, field)


def test_along_the_longest_axes() -> None:
    y, x = np.mgrid[:8, :8]
    field = 0.5 + np.cos(2 * np.pi * x / 8) + 3 * np.cos(2 * np.pi * y / 8)
    power = _along_longest_axes([field[np.newaxis]], (8, 8))[0]
    assert power[0] == pytest.approx(64 * 0.25)
    assert power[1] == pytest.approx((64 / 4 + 9 * 64 / 4) / 2)
    long = _along_longest_axes([np.tile(field, (1, 2))[np.newaxis]], (8, 16))[0]
    assert long[2] == pytest.approx(128 / 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_over_other_axes_leave_the_modes_along_one(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(11)
    for field in (rng.normal(size=(2, *shape)), rng.integers(-9, 9, (2, *shape))):
        power = half(field)
        longest = [a for a in range(len(shape)) if shape[a] == max(shape)]
        lines = []
        for axis in longest:
            place: list[int | slice] = [0] * len(shape)
            place[axis] = slice(0, max(shape) // 2 + 1)
            lines.append(power[(slice(None), *place)])
        assert np.allclose(_along_longest_axes([field], shape), np.mean(lines, axis=0))
