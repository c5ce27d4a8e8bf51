"""Low-resolution images: the operator is Pillow's, the correction is the one of linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from skild_phys.errors import BadInput
from skild_phys.images.refine import RULES, LowResolution, _enlarged, _resampling, _scaled
from skild_phys.skild.spectrum import PowerLaw, cosines, make_basis

SIZES = [((24, 36), (6, 9)), ((32, 32), (13, 21)), ((33, 47), (10, 12)), ((16, 24), (8, 12))]


@pytest.mark.parametrize(("fine", "coarse"), SIZES)
def test_bicubic_is_pillows(fine: tuple[int, int], coarse: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal(fine).astype(np.float32)
    theirs = Image.fromarray(x).resize(coarse[::-1], Image.Resampling.BICUBIC)
    ours = LowResolution("bicubic", fine, coarse).apply(x.astype(np.float64))
    assert ours == pytest.approx(np.asarray(theirs), abs=1e-6)
    back = theirs.resize(fine[::-1], Image.Resampling.BICUBIC)
    assert _enlarged(ours, fine) == pytest.approx(np.asarray(back), abs=1e-6)


@pytest.mark.parametrize(("fine", "coarse"), [SIZES[0], SIZES[3]])
def test_area_is_the_mean_of_blocks(fine: tuple[int, int], coarse: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, *fine))
    blocks = x.reshape(2, 3, coarse[0], fine[0] // coarse[0], coarse[1], -1).mean((3, 5))
    assert LowResolution("area", fine, coarse).apply(x) == pytest.approx(blocks, abs=1e-12)


def test_area_of_any_factor_shares_pixels_by_what_they_cover() -> None:
    assert _resampling("area", 5, 2) == pytest.approx(
        np.array([[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]]) / 5.0
    )
    for rule in RULES:
        assert _resampling(rule, 31, 12).sum(1) == pytest.approx(np.ones(12))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("fine", "coarse"), [((12, 10), (4, 5)), ((9, 13), (4, 5))])
@pytest.mark.parametrize("lam", [None, 3.0, 0.05])
def test_the_correction_is_that_of_linear_algebra(
    rule: str, fine: tuple[int, int], coarse: tuple[int, int], lam: float | None
) -> None:
    """x + S A^T (A S A^T)^-1 (y - A x) with every matrix written out, float64."""
    random, basis = np.random.default_rng(2), make_basis("dct", fine)
    sigma = PowerLaw(1.0, 1.05, 0.01).variances(basis)
    if lam is not None:
        sigma = sigma * -np.expm1(-(np.maximum(basis.kappa, basis.lowest) ** 2) * lam)
    a = np.kron(*(_resampling(rule, f, c) for f, c in zip(fine, coarse)))
    modes = np.kron(*(cosines(side).numpy() for side in fine))
    s = modes.T @ np.diag(sigma.ravel()) @ modes
    x, y = random.standard_normal(fine), random.standard_normal(coarse)
    wanted = x.ravel() + s @ a.T @ np.linalg.solve(a @ s @ a.T, y.ravel() - a @ x.ravel())
    operator = LowResolution(rule, fine, coarse)
    found = operator.correct(x, y, sigma)
    assert found.ravel() == pytest.approx(wanted, abs=1e-6)
    assert operator.apply(found) == pytest.approx(y, abs=1e-7)


def test_channels_with_spectra_of_their_own() -> None:
    random, basis = np.random.default_rng(3), make_basis("dct", (12, 10))
    sigma = np.stack([PowerLaw(1.0, alpha, 0.01).variances(basis) for alpha in (0.6, 1.4)])
    operator = LowResolution("bicubic", (12, 10), (5, 4))
    x, y = random.standard_normal((3, 2, 12, 10)), random.standard_normal((3, 2, 5, 4))
    together = operator.correct(x, y, sigma)
    for k in (0, 1):
        assert together[:, k] == pytest.approx(
            operator.correct(x[:, k], y[:, k], sigma[k]), abs=1e-6
        )


def test_sizes_and_what_is_refused() -> None:
    assert _scaled((10, 13), 2.5, finer=True) == (25, 32)
    assert _scaled((25, 32), 2.5, finer=False) == (10, 13)
    assert _scaled((1, 3), 1.4, finer=True) == (1, 4)
    for bad in (1.0, 65.0, float("nan"), -2.0):
        with pytest.raises(BadInput, match="factor"):
            _scaled((8, 8), bad, finer=True)
    with pytest.raises(BadInput, match="sides of 2 or more"):
        _scaled((8, 8), 8.0, finer=False)
    with pytest.raises(BadInput, match="rule: 'nearest'"):
        LowResolution("nearest", (8, 8), (4, 4))
