"""The DFT and the DCT-II: orthonormal, invertible, and those of NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from skild_phys.errors import BadInput
from skild_phys.skild.spectrum import BASES, make_basis

SHAPES = [(6, 8), (5, 7), (8, 5), (5, 8), (1, 4), (3, 1), (16, 16), (2, 2)]
cases = pytest.mark.parametrize("shape", SHAPES)
names = pytest.mark.parametrize("name", BASES)


def fields(n: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(size=(n, *shape)))


@cases
@names
def test_fields_come_back(name: str, shape: tuple[int, int]) -> None:
    basis, x = make_basis(name, shape), fields(3, shape)
    back = basis.fields(basis.modes(x))
    assert back.shape == x.shape
    assert torch.allclose(back, x, atol=1e-12)


@cases
@names
def test_it_is_orthonormal(name: str, shape: tuple[int, int]) -> None:
    """sum of weight Re(X Y*) over the modes = sum of x y over the sites (Parseval)."""
    basis, x, y = make_basis(name, shape), fields(3, shape, 1), fields(3, shape, 2)
    weight = torch.from_numpy(basis.weight)
    inner = (weight * (basis.modes(x) * basis.modes(y).conj()).real).sum((-2, -1))
    assert torch.allclose(inner, (x * y).sum((-2, -1)), atol=1e-11)
    assert basis.weight.sum() == basis.sites == shape[0] * shape[1]


@cases
def test_the_dft_is_numpys(shape: tuple[int, int]) -> None:
    basis, x = make_basis("dft", shape), fields(2, shape)
    expected = np.fft.rfft2(x.numpy(), norm="ortho")
    assert basis.kappa.shape == basis.weight.shape == expected.shape[1:]
    assert np.allclose(basis.modes(x).numpy(), expected, atol=1e-12)


@cases
def test_the_dct_is_scipys(shape: tuple[int, int]) -> None:
    basis, x = make_basis("dct", shape), fields(2, shape)
    expected = dctn(x.numpy(), type=2, axes=(1, 2), norm="ortho")
    assert basis.kappa.shape == basis.weight.shape == expected.shape[1:]
    assert np.allclose(basis.modes(x).numpy(), expected, atol=1e-12)
    assert np.allclose(basis.fields(basis.modes(x)).numpy(), x.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("shape", [(16, 16), (12, 9), (7, 10)])
def test_kappa_is_the_wave_number_of_the_mode(name: str, shape: tuple[int, int]) -> None:
    """Each mode is an eigenfield of the lattice Laplacian, separately in y and x.

    4 sin^2(k/2) of both directions sum to the eigenvalue; along an axis k is kappa itself.
    """
    basis = make_basis(name, shape)
    for index in ((0, 0), (1, 0), (0, 1), (2, 3), (shape[0] - 1, 2)):
        modes = torch.zeros((1, *basis.kappa.shape), dtype=torch.float64)
        modes[0][index] = 1.0
        field = basis.fields(modes if name == "dct" else modes.to(torch.complex128))[0].numpy()
        wide = np.pad(field, 1, mode="wrap") if name == "dft" else np.pad(field, 1, "symmetric")
        wave = []
        for axis, others in ((0, (slice(None), slice(1, -1))), (1, (slice(1, -1), slice(None)))):
            second = -np.diff(wide[others], 2, axis=axis)
            eigenvalue = (second * field).sum() / (field * field).sum()
            assert np.allclose(second, eigenvalue * field, atol=1e-12)
            wave.append(2.0 * np.arcsin(0.5 * np.sqrt(max(eigenvalue, 0.0))))
        assert basis.kappa[index] == pytest.approx(np.hypot(*wave), abs=1e-7)


def test_the_lowest_wave_numbers() -> None:
    assert make_basis("dft", (12, 9)).lowest == pytest.approx(2 * np.pi / 12)
    assert make_basis("dct", (12, 9)).lowest == pytest.approx(np.pi / 12)
    assert make_basis("dct", (1, 1)).lowest > 0


def test_white_noise_is_white_in_both() -> None:
    """Weighted mean of |X|^2 is that of the field, to rounding, in float32 too."""
    x = fields(4, (9, 12), 5).float()
    for name in BASES:
        basis = make_basis(name, (9, 12))
        power = basis.modes(x).abs().square().mean(0).double().numpy()
        assert basis.modes(x).real.dtype == torch.float32
        mean = np.average(power, weights=basis.weight)
        assert mean == pytest.approx(float(x.square().mean()), rel=1e-5)


def test_no_other_bases() -> None:
    with pytest.raises(BadInput, match="dft or dct"):
        make_basis("wavelets", (4, 4))
