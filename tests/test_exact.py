"""Exact results against enumeration, against the table of references, and among themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import TC

from skild_phys.errors import BadInput
from skild_phys.models import MODELS, exact

KAUFMAN = {
    8: (-1.4915891074, 1.1455592),
    16: (-1.4530648528, 1.4987050),
    32: (-1.4336584661, 1.8467676),
    64: (-1.4239383898, 2.1922114),
    128: (-1.4190762721, 2.5363313),
    256: (-1.4166449542, 2.8797863),
    512: (-1.4154292629, 3.2229080),
}
TORUS = {  # r: L^(1/4) G2, L^(1/2) G4, L^(1/2) G4c at L = 128
    1: (2.374915, 6.692404, -9.345845),
    2: (2.004656, 4.757667, -6.680144),
    4: (1.698487, 3.400139, -4.825777),
    8: (1.449747, 2.455182, -3.559385),
    16: (1.255290, 1.808802, -2.731598),
    32: (1.117196, 1.389075, -2.251573),
    64: (1.054527, 1.203905, -2.079887),
}


@pytest.mark.parametrize("side", KAUFMAN)
def test_kaufman_at_tc(side: int) -> None:
    energy, heat = KAUFMAN[side]
    assert abs(exact.kaufman_energy(side, TC) - energy) < 5.01e-11
    assert abs(exact.kaufman_specific_heat(side, TC) - heat) < 5.01e-8


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, TC, 2.5, 4.0, 50.0])
def test_kaufman_against_enumeration(side: int, temperature: float) -> None:
    codes = np.arange(2 ** (side * side))
    bits = (codes[:, None] >> np.arange(side * side)) & 1
    spins = (2 * bits - 1).astype(np.int8).reshape(-1, side, side)
    energy = MODELS["ising2d"].energy(spins)
    weight = np.exp(-(energy - energy.min()) * side**2 / temperature)
    mean = np.average(energy, weights=weight)
    variance = np.average((energy - mean) ** 2, weights=weight)
    heat = side**2 * variance / temperature**2
    assert abs(exact.kaufman_energy(side, temperature) - mean) < 1e-12
    assert abs(exact.kaufman_specific_heat(side, temperature) - heat) < 1e-12 + 1e-11 * heat


@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (2, 8), (5, 3)])
@pytest.mark.parametrize("temperature", [1.0, TC, 4.0])
def test_kaufman_of_rectangles_against_enumeration(
    shape: tuple[int, int], temperature: float
) -> None:
    sites = shape[0] * shape[1]
    bits = (np.arange(2**sites)[:, None] >> np.arange(sites)) & 1
    energy = MODELS["ising2d"].energy((2 * bits - 1).astype(np.int8).reshape(-1, *shape))
    weight = np.exp(-(energy - energy.min()) * sites / temperature)
    mean = np.average(energy, weights=weight)
    heat = sites * np.average((energy - mean) ** 2, weights=weight) / temperature**2
    for sides in (shape, shape[::-1]):
        assert abs(exact.kaufman_energy(sides, temperature) - mean) < 1e-12
        assert abs(exact.kaufman_specific_heat(sides, temperature) - heat) < 1e-11 * (1 + heat)


@pytest.mark.parametrize("side", [5, 64, 1024])
@pytest.mark.parametrize("temperature", [0.3, 1.5, 2.2, TC, 2.2692, 2.4, 10.0])
def test_specific_heat_is_the_slope_of_the_energy(side: int, temperature: float) -> None:
    """Fourth-order differences, whose own error sets the tolerance."""
    h = 0.005 / side
    at = [exact.kaufman_energy(side, temperature + i * h) for i in (-2, -1, 1, 2)]
    slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
    assert abs(exact.kaufman_specific_heat(side, temperature) - slope) < 2e-8


def test_kaufman_against_extended_precision() -> None:
    """L = 1024 and off-critical sizes, with 60 digits and the derivatives left to mpmath."""
    mpmath = pytest.importorskip("mpmath")
    mp = mpmath.mp

    def log_z(k, side):  # type: ignore[no-untyped-def]
        def gamma(number):  # type: ignore[no-untyped-def]
            if number == 0:
                return 2 * k + mp.log(mp.tanh(k))
            return mp.acosh(mp.cosh(2 * k) * mp.coth(2 * k) - mp.cos(mp.pi * number / side))

        odd = [side * gamma(2 * r + 1) / 2 for r in range(side)]
        even = [side * gamma(2 * r) / 2 for r in range(side)]
        total = sum(
            mp.fprod(2 * f(v) for v in vs) for vs in (odd, even) for f in (mp.cosh, mp.sinh)
        )
        return mp.log(total) + mp.mpf(side**2) / 2 * mp.log(2 * mp.sinh(2 * k))

    with mpmath.workdps(60):
        for side, temperature in [(12, 2.1), (64, TC), (64, 2.3), (1024, TC)]:
            k, h = 1 / mp.mpf(temperature), mp.mpf(10) ** -18
            low, mid, high = (log_z(k + i * h, side) for i in (-1, 0, 1))
            energy = -(high - low) / (2 * h) / side**2
            heat = k**2 * (high - 2 * mid + low) / h**2 / side**2
            assert abs(exact.kaufman_energy(side, temperature) - energy) < 1e-13
            assert abs(exact.kaufman_specific_heat(side, temperature) - heat) < 1e-11


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (2, 8), (4, 4)])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.25, 0.29, 0.32, 900.0, 1100.0, 1e6, 1e12])
def test_kaufman_far_from_tc_against_enumeration(
    shape: tuple[int, int], temperature: float
) -> None:
    """Counts of each energy, whose averages lose no digits; the formula's products do.

    Planted, seen to fail: the products alone, C(1e12) = 6.7e-17 for 2.0e-24 and C(0.1) < 0.
    """
    sites = shape[0] * shape[1]
    bits = (np.arange(2**sites)[:, None] >> np.arange(sites)) & 1
    energy = MODELS["ising2d"].energy((2 * bits - 1).astype(np.int8).reshape(-1, *shape))
    level, count = np.unique(np.rint(energy * sites).astype(int), return_counts=True)
    up = [(int(e - level[0]), int(n)) for e, n in zip(level, count)]
    if temperature > 1.0:  # <E> = 0 at K = 0: expand exp(-K E), exactly summed
        moments = [math.fsum(n * float(e) ** i for e, n in zip(level, count)) for i in range(5)]
        one, _, two, three, four = (m / 2.0**sites for m in moments)
        k = 1.0 / temperature
        mean = (-k * two + k**2 * three / 2 - k**3 * four / 6) / (one + k**2 * two / 2)
        variance = two - k * three + k**2 * four / 2 - k**2 * two**2 / 2 - mean**2
        assert exact.kaufman_energy(shape, temperature) == pytest.approx(mean / sites, rel=1e-5)
    else:
        z, mean, square = (
            math.fsum(n * e**i * math.exp(-e / temperature) for e, n in up) for i in range(3)
        )
        variance = square / z - (mean / z) ** 2
        lost = -2.0 - exact.kaufman_energy(shape, temperature)
        assert lost == pytest.approx(-mean / z / sites, rel=3e-5, abs=1e-15)
    heat = variance / sites / temperature**2
    assert exact.kaufman_specific_heat(shape, temperature) == pytest.approx(heat, rel=3e-5)


def test_kaufman_limits() -> None:
    assert exact.kaufman_specific_heat(64, 1e-3) == 0.0
    assert exact.kaufman_specific_heat(64, 1e12) == pytest.approx(2e-24, rel=1e-12)
    assert exact.kaufman_energy(64, 1e12) == pytest.approx(-2e-12, rel=1e-12)
    assert exact.kaufman_energy(64, 1e-3) == pytest.approx(-2.0, abs=1e-15)
    assert exact.kaufman_specific_heat(64, 1e-3) == pytest.approx(0.0, abs=1e-100)
    assert exact.kaufman_energy(64, 1e3) == pytest.approx(-2e-3, rel=1e-5)
    for temperature in (1.5, 3.5):
        infinite = exact.energy_infinite(temperature)
        assert exact.kaufman_energy(256, temperature) == pytest.approx(infinite, abs=1e-13)
    assert exact.energy_infinite(TC) == pytest.approx(-math.sqrt(2), abs=1e-13)
    assert exact.kaufman_energy(2048, TC) == pytest.approx(-math.sqrt(2), abs=4e-4)
    assert exact.energy_infinite(1e-3) == pytest.approx(-2.0, abs=1e-15)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="T"):
            exact.kaufman_energy(8, temperature)
    with pytest.raises(BadInput, match="L"):
        exact.kaufman_energy(1, TC)


def test_infinite_lattice_at_tc() -> None:
    n = np.array([[0, 1], [2, 4]])
    values = exact.critical_correlation(n, n)
    assert np.allclose(values, [[1, 2 / math.pi], [0.540379646, 0.455647095]], atol=5e-10, rtol=0)
    assert exact.critical_correlation(1, 1) == values[0, 1]
    assert abs(exact.AMPLITUDE - 0.70338015768771851) < 1e-15
    far = exact.critical_correlation(10_000, 10_000) * (10_000 * math.sqrt(2)) ** 0.25
    assert far == pytest.approx(exact.AMPLITUDE, rel=1e-9)
    short = exact.SHORT_DISTANCE
    assert short["plaquette"] == pytest.approx(0.5947152654, abs=5e-11)
    connected = short["plaquette"] - 2 * short["nearest"] ** 2 - short["diagonal"] ** 2
    assert short["plaquette_connected"] == pytest.approx(connected, abs=1e-14)
    assert short["plaquette_connected"] == pytest.approx(-0.810569, abs=5e-7)


def test_torus_against_the_table() -> None:
    r = np.array(list(TORUS), dtype=float)
    two, four, connected = np.array(list(TORUS.values())).T
    corners_x, corners_y = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    got = exact.torus_four_point(r[:, None] * corners_x, r[:, None] * corners_y, 128)
    assert np.abs(128**0.25 * exact.torus_two_point(r, 0, 128) - two).max() < 5.1e-7
    assert np.abs(128**0.5 * got - four).max() < 5.1e-7
    assert np.abs(128**0.5 * exact.torus_connected_four_point(r, 128) - connected).max() < 5.1e-7
    assert exact.torus_connected_four_point(16, 128) == pytest.approx(-2.731598 / 128**0.5, 1e-6)


def test_torus_symmetries() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-9, 9, (2, 50))
    two = exact.torus_two_point(x, y, 20)
    for other in [(-x, y), (y, x), (x + 20, y), (x, y - 40)]:
        assert np.allclose(exact.torus_two_point(*other, 20), two, rtol=1e-12)
    x, y = rng.uniform(0, 9, (2, 50, 4))
    four = exact.torus_four_point(x, y, 20)
    order, shift = [2, 0, 3, 1], np.array([0, 20, 0, 0])
    for a, b in [(x[:, order], y[:, order]), (y, x), (x + shift, y), (x, y - shift), (x + 3, y)]:
        assert np.allclose(exact.torus_four_point(a, b, 20), four, rtol=1e-11)


def test_torus_short_and_long_distances() -> None:
    """A pair far from another factorises on a large torus; close by G2 is A r^(-1/4)."""
    assert exact.torus_two_point(1e-4, 0, 1.0) == pytest.approx(exact.AMPLITUDE * 10, rel=1e-3)
    x = np.array([0.0, 1e-4, 0.5, 0.5001])
    four = exact.torus_four_point(x, 0 * x, 1.0)
    assert four == pytest.approx(exact.torus_two_point(1e-4, 0, 1.0) ** 2, rel=1e-2)
    assert np.isinf(exact.torus_two_point(0, 0, 8))


def test_critical_correlations_near_by_against_extended_precision() -> None:
    """Along the axis: Toeplitz determinants of McCoy and Wu, chapter VIII, with 30 digits."""
    mpmath = pytest.importorskip("mpmath")
    mp, far = mpmath.mp, exact.EXACT_UP_TO

    def coefficient(n: int):  # type: ignore[no-untyped-def]
        """Return Fourier coefficient n of the generating function at Tc."""
        a = (mp.sqrt(2) - 1) ** 2

        def integrand(theta):  # type: ignore[no-untyped-def]
            z = mp.expj(theta)
            phi = mp.sqrt((1 - a * z) / (1 - a / z)) * mp.mpc(0, 1) * mp.expj(-theta / 2)
            return (mp.expj(-n * theta) * phi).real

        return mp.quad(integrand, [0, mp.pi, 2 * mp.pi]) / (2 * mp.pi)

    with mpmath.workdps(30):
        values = {n: coefficient(n) for n in range(-far, far + 1)}
        for n in range(1, far + 1):
            matrix = mp.matrix(n, n)
            for i in range(n):
                for j in range(n):
                    matrix[i, j] = values[i - j]
            determinant = float(mp.det(matrix))
            assert float(exact.critical_correlation(n, 0)) == pytest.approx(determinant, rel=1e-9)


def test_critical_correlations_of_the_infinite_lattice() -> None:
    short = exact.SHORT_DISTANCE
    found = exact.critical_correlation([0, 1, 1, 2, -1, 0], [0, 0, 1, 0, 0, 2])
    nearest, diagonal, second = (short[n] for n in ("nearest", "diagonal", "second"))
    assert found == pytest.approx([1.0, nearest, diagonal, second, nearest, second], abs=1e-14)
    n = np.arange(1, 9)
    assert np.allclose(exact.critical_correlation(n, n), exact.critical_correlation(n, n))
    # From one description to the other there is hardly a step.
    asymptote = exact.AMPLITUDE * np.hypot(8, [0, 4, 8]) ** -0.25
    assert np.allclose(exact.critical_correlation(8, [0, 4, 8]), asymptote, rtol=3e-4)
    assert exact.critical_correlation(30, 40) == pytest.approx(exact.AMPLITUDE * 50**-0.25)


def test_torus_of_two_different_sides() -> None:
    """The same torus turned; a long one is periodic, and factorises like a short one's."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-9, 9, (2, 40))
    turned = exact.torus_two_point(y, x, 40, 0.5)
    for other in [(x, y), (x + 20, y), (x, y + 40), (-x, y)]:
        assert np.allclose(exact.torus_two_point(*other, 20, 2.0), turned, rtol=1e-12)
    x, y = rng.uniform(0, 9, (2, 40, 4))
    four = exact.torus_four_point(x, y, 20, 2.0)
    assert np.allclose(exact.torus_four_point(y, x, 40, 0.5), four, rtol=1e-11)
    shifted = exact.torus_four_point(x + np.array([0, 20, 0, 0]), y - 5, 20, 2.0)
    assert np.allclose(shifted, four, rtol=1e-11)
    r = np.array([1.0, 3.0])
    assert np.allclose(
        exact.torus_connected_four_point(r, 20, 2.0), exact.torus_connected_four_point(r, 40, 0.5)
    )


def test_structure_factor_of_the_torus() -> None:
    """chi and xi / L are Salas and Sokal's; high modes go over into the infinite lattice's."""
    power = exact.torus_structure_factor((256, 256))
    assert power[0, 0] / 256**1.75 == pytest.approx(exact.SUSCEPTIBILITY, abs=2e-5)
    length = np.sqrt(power[0, 0] / power[0, 1] - 1) / (2 * np.sin(np.pi / 256)) / 256
    assert length == pytest.approx(exact.XI_OVER_L, abs=1e-4)
    two = exact.torus_two_point_map((256, 256))
    assert power.sum() == pytest.approx(np.fft.rfft2(two).real.sum())
    k = 2 * np.pi * 40 / 1024
    large = exact.torus_structure_factor((1024, 1024))
    assert large[0, 40] == pytest.approx(float(exact.structure_factor_asymptote(k)), rel=0.02)
