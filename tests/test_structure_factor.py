"""S(k) against the sum written out, and shells against the full transform."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skild_phys.measure.structure_factor import (
    Shells,
    shells,
    smallest_modes,
    structure_factor,
    wave_numbers,
)

SHAPES = [(6, 8), (8, 6), (7, 5), (16, 16)]


def brute_structure_factor(field: np.ndarray) -> np.ndarray:
    height, width = field.shape
    y, x = np.mgrid[:height, :width]
    modes = [
        [
            (field * np.exp(-2j * np.pi * (a * y / height + b * x / width))).sum()
            for b in range(width)
        ]
        for a in range(height)
    ]
    return np.abs(np.array(modes)) ** 2 / (height * width)


def brute_shells(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    power = brute_structure_factor(field)
    ky, kx = (2 * np.pi * np.fft.fftfreq(n) for n in field.shape)
    k = np.hypot(ky[:, None], kx[None, :])
    index = np.floor(k * min(field.shape) / (2 * np.pi) + 0.5).astype(int)
    inside = [index == i for i in np.unique(index)]
    return np.array([k[i].mean() for i in inside]), np.array([power[i].mean() for i in inside])


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_sum_over_sites(shape: tuple[int, int]) -> None:
    field = np.random.default_rng(7).normal(size=shape)
    full = brute_structure_factor(field)
    assert np.allclose(structure_factor(field), full[:, : shape[1] // 2 + 1], rtol=1e-12)


def test_modes_average_to_the_mean_square() -> None:
    field = np.random.default_rng(8).normal(size=(3, 16, 16))
    shell = shells((16, 16))
    mean = (shell.average(structure_factor(field)) * shell.modes).sum(axis=-1) / 256
    assert mean == pytest.approx((field**2).mean(axis=(1, 2)), rel=1e-13)


def shells_agree(shell: Shells, shape: tuple[int, int]) -> bool:
    field = np.random.default_rng(9).normal(size=shape)
    k, power = brute_shells(field)
    return np.allclose(shell.k, k) and np.allclose(shell.average(structure_factor(field)), power)


@pytest.mark.parametrize("shape", SHAPES)
def test_shells_equal_averages_over_the_full_transform(shape: tuple[int, int]) -> None:
    shell = shells(shape)
    assert shell.modes.sum() == shape[0] * shape[1]
    assert shells_agree(shell, shape)


def test_planted_fault_half_the_modes_counted_once() -> None:
    shell = shells((16, 16))
    once = np.ones_like(shell.weight)
    modes = np.add.reduceat(once[shell.order], shell.start).astype(np.int64)
    assert not shells_agree(replace(shell, weight=once, modes=modes), (16, 16))


def test_zero_mode_and_smallest_modes() -> None:
    y, x = np.mgrid[:8, :8]
    field = 0.5 + np.cos(2 * np.pi * x / 8) + 3 * np.cos(2 * np.pi * y / 8)
    power = structure_factor(field)
    assert power[0, 0] == pytest.approx(64 * 0.25)
    assert smallest_modes(power) == pytest.approx((64 / 4 + 9 * 64 / 4) / 2)
    assert wave_numbers((8, 8))[0, 4] == pytest.approx(np.pi)
