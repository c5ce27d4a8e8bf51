"""Coarse-graining: integer rules to the bit, operators against dense linear algebra."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from skild_phys import plugins
from skild_phys.errors import BadInput
from skild_phys.rules import RULES, Operator, TieBreak, coarsen, get_rule

LINEAR = ["block_mean", "decimate", "spectral"]
# fmt: off
GOLDEN = [
    -1, -1, -1, -1, -1, 1, -1, 1, 1, -1, -1, 1, 1, -1, 1, 1,
    1, -1, 1, 1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, 1,
]
GOLDEN_3D = [
    -1, 1, -1, 1, -1, -1, 1, 1, -1, 1, -1, -1, -1, -1, 1, -1,
    1, -1, -1, 1, -1, 1, 1, -1, -1, 1, 1, -1, -1, -1, -1, 1,
]
GOLDEN_PRIORITIES = [
    1, 1, 1, 1, 2, 0, 2, 2, 0, 2, 0, 0,
    2, 0, 0, 1, 0, 2, 2, 2, 1, 1, 1, 0,
]
# fmt: on
CASES = [((8, 8), 2), ((6, 12), 3), ((12, 8), 4), ((4, 6), 2), ((9, 15), 3), ((10, 5), 5)]
CUBES = [((4, 6, 8), 2), ((6, 3, 9), 3)]
LINES = [((12,), 3)]


def random_spins(shape: tuple[int, ...], seed: int = 1) -> NDArray[np.int8]:
    bits = np.random.default_rng(seed).integers(0, 2, shape)
    return (2 * bits - 1).astype(np.int8)


def variances(shape: tuple[int, ...], power: float) -> NDArray[np.float64]:
    waves = np.meshgrid(*map(np.fft.fftfreq, shape[:-1]), np.fft.rfftfreq(shape[-1]), indexing="ij")
    return np.asarray((np.sqrt(sum(k**2 for k in waves)) + 0.1) ** power)


def dense(a: Operator) -> NDArray[np.float64]:
    """A as a matrix."""
    size = math.prod(a.shape)
    return a.apply(np.eye(size).reshape(size, *a.shape)).reshape(size, -1).T


def covariance(shape: tuple[int, ...], sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sigma as a matrix over sites."""
    size, axes = math.prod(shape), tuple(range(1, 1 + len(shape)))
    unit = np.eye(size).reshape(size, *shape)
    spread = np.fft.irfftn(sigma * np.fft.rfftn(unit, axes=axes), s=shape, axes=axes)
    return np.asarray(spread.reshape(size, size).T)


@pytest.mark.parametrize("rule", LINEAR)
@pytest.mark.parametrize(("shape", "factor"), CASES + CUBES + LINES)
def test_adjoint_and_norm(rule: str, shape: tuple[int, ...], factor: int) -> None:
    a = get_rule(rule).operator(shape, factor)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, *shape)), rng.normal(size=(2, 3, *a.coarse))
    assert np.allclose((a.apply(x) * y).sum(), (x * a.adjoint(y)).sum(), atol=1e-12, rtol=1e-13)
    gain = 1.0 if rule == "decimate" else float(factor) ** -len(shape)
    assert np.abs(a.apply(a.adjoint(y)) - gain * y).max() < 1e-12
    assert np.abs(a.apply(np.full(shape, 1.7)) - 1.7).max() < 1e-12


@pytest.mark.parametrize("rule", LINEAR)
@pytest.mark.parametrize(("shape", "factor"), CASES + CUBES + LINES)
@pytest.mark.parametrize("power", [0.0, -1.75, 2.0])
def test_correction_is_the_dense_formula(
    rule: str, shape: tuple[int, ...], factor: int, power: float
) -> None:
    a = get_rule(rule).operator(shape, factor)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, *shape)), rng.normal(size=(2, *a.coarse))
    sigma = variances(shape, power)
    got = a.correct(x, y, sigma)
    assert np.abs(a.apply(got) - y).max() < 1e-12
    m, s = dense(a), covariance(shape, sigma)
    gain = s @ m.T @ np.linalg.inv(m @ s @ m.T)
    want = x.reshape(2, -1) + (y.reshape(2, -1) - x.reshape(2, -1) @ m.T) @ gain.T
    assert np.abs(got.reshape(2, -1) - want).max() < 1e-11


@pytest.mark.parametrize("rule", LINEAR)
@pytest.mark.parametrize("shape", [(12, 18), (6, 3, 9)])
def test_transfer_function_describes_the_operator(rule: str, shape: tuple[int, ...]) -> None:
    a = get_rule(rule).operator(shape, 3)
    x = np.random.default_rng(4).normal(size=a.shape)
    assert np.abs(a.apply(x) - Operator.apply(a, x)).max() < 1e-12
    y = np.random.default_rng(5).normal(size=a.coarse)
    assert np.abs(a.adjoint(y) - Operator.adjoint(a, y)).max() < 1e-12


@pytest.mark.parametrize("rule", LINEAR)
@pytest.mark.parametrize("scale", [1.0, 1e-280, 0.0])
def test_correction_where_modes_have_no_variance(rule: str, scale: float) -> None:
    """Alias sets without variance stay as they are; the rest still binds; nothing overflows."""
    a = get_rule(rule).operator((8, 8), 2)
    sigma = variances(a.shape, -1.0) * scale
    sigma[:, 1] = sigma[:, 3] = sigma[1] = sigma[7] = sigma[3] = sigma[5] = 0.0
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=a.shape), rng.normal(size=a.coarse)
    got = a.correct(x, y, sigma)
    assert np.isfinite(got).all()
    left = np.fft.rfft2(y - a.apply(got))
    if scale > 0:
        assert abs(left[0, 0]) < 1e-12
        assert abs(left[2, 2]) < 1e-12
    moved = np.fft.rfft2(got - x)
    assert np.abs(moved[sigma == 0]).max() < 1e-12


def test_an_operator_of_listed_sides_and_of_a_factor_that_is_not_whole() -> None:
    rule = RULES["block_mean"]
    assert rule.operator([8, 8], 2) is rule.operator((8, 8), 2)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="factor"):
        rule.operator((8, 8), 2.0)  # type: ignore[arg-type]


def test_correction_keeps_accuracy_over_a_wide_range_of_variances() -> None:
    a = RULES["block_mean"].operator((32, 32), 4)
    x, y = np.random.default_rng(7).normal(size=(2, 32, 32)), np.zeros((2, 8, 8))
    assert np.abs(a.apply(a.correct(x, y, variances(a.shape, 14.0)))).max() < 1e-12


def test_spectral_keeps_the_modes_of_the_box() -> None:
    a = RULES["spectral"].operator((16, 12), 2)
    x = np.random.default_rng(8).normal(size=a.shape)
    fine = np.fft.fft2(x, norm="ortho")
    coarse = np.fft.fft2(a.apply(x), norm="ortho")
    for ky in range(-3, 4):
        for kx in range(-2, 3):
            assert abs(coarse[ky, kx] - fine[ky, kx] / 2) < 1e-12
    nyquist = (fine[4, 0] + fine[-4, 0]) / 2 / np.sqrt(2)
    assert abs(coarse[4, 0] - nyquist) < 1e-12


@pytest.mark.parametrize(("shape", "factor"), CASES)
def test_integer_rules_site_by_site(shape: tuple[int, int], factor: int) -> None:
    spins = random_spins((3, *shape))
    ids = np.array([7, 0, 123456])
    sums = coarsen(spins, "block_mean", factor)
    major = coarsen(spins, "majority", factor, tie_seed=5, sample_ids=ids)
    kept = coarsen(spins, "decimate", factor)
    assert sums.dtype == np.int16
    assert major.dtype == kept.dtype == np.int8
    coins = TieBreak(5, ids).signs((shape[0] // factor, shape[1] // factor))
    for n, y, x in np.ndindex(sums.shape):
        block = spins[n, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        total = int(block.astype(int).sum())
        assert sums[n, y, x] == total
        assert major[n, y, x] == (np.sign(total) if total else coins[n, y, x])
        assert kept[n, y, x] == block[0, 0]
    means = RULES["block_mean"].operator(shape, factor).apply(spins.astype(float))
    assert np.abs(sums * RULES["block_mean"].scale("spins", factor, 2) - means).max() < 1e-15


def test_spectral_field_is_float32_of_the_operator() -> None:
    spins = random_spins((2, 8, 8))
    got = coarsen(spins, "spectral", 2)
    assert got.dtype == np.float32
    want = RULES["spectral"].operator((8, 8), 2).apply(spins.astype(float))
    assert np.array_equal(got, want.astype(np.float32))


def test_coins_do_not_depend_on_company() -> None:
    """A tie-break is a function of (seed, sample, y, x): golden bits, any batch, any lattice."""
    coins = TieBreak(3, np.arange(50)).signs((7, 9))
    assert np.array_equal(coins[20:30], TieBreak(3, np.arange(20, 30)).signs((7, 9)))
    assert np.array_equal(coins[:, :5, :4], TieBreak(3, np.arange(50)).signs((5, 4)))
    golden = TieBreak(0, np.array([0, 1])).signs((2, 8))
    assert golden.reshape(-1).tolist() == GOLDEN


@pytest.mark.statistical
def test_coins_are_fair_and_independent() -> None:
    """H0: fair independent coins. Eight sums of 640,000 coins or products, each |z| < 5
    (false alarm 5e-6 in all)."""
    coins = TieBreak(11, np.arange(100)).signs((80, 80)).astype(np.int64)
    other = TieBreak(12, np.arange(100)).signs((80, 80)).astype(np.int64)
    products = [
        coins,
        coins * np.roll(coins, 1, 0),
        coins * np.roll(coins, 1, 1),
        coins * np.roll(coins, 1, 2),
        coins * coins.swapaxes(1, 2),
        coins * other,
        coins * np.roll(other, 1, 0),
        coins * np.roll(coins, (1, 1), (1, 2)),
    ]
    for k, product in enumerate(products):
        ties = 80 * 100 if k == 4 else 0  # the diagonal of a transpose is 1 by itself
        pairs = 2.0 if k == 4 else 1.0
        z = (product.sum() - ties) / np.sqrt(pairs * (product.size - ties))
        assert abs(z) < 5, (k, z)


@pytest.mark.parametrize("factor", [0, 1, -2, 1.5, True, 3, "2"])
@pytest.mark.parametrize("rule", RULES)
def test_bad_factor(rule: str, factor: object) -> None:
    with pytest.raises(BadInput, match="factor"):
        coarsen(random_spins((1, 8, 8)), rule, factor)  # type: ignore[arg-type]


def test_bad_rule_and_seed_and_a_block_too_large() -> None:
    spins = random_spins((1, 8, 8))
    with pytest.raises(BadInput, match="rule: 'mean'"):
        coarsen(spins, "mean", 2)
    with pytest.raises(BadInput, match="rule: 'majority'"):
        RULES["majority"].operator((8, 8), 2)
    for seed in (-1, 2**64, 0.5):
        with pytest.raises(BadInput, match="tie_seed"):
            coarsen(spins, "majority", 2, tie_seed=seed)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="181"):
        coarsen(np.ones((1, 256, 256), np.int8), "block_mean", 256)


def blocks(
    lattices: NDArray[np.int8], factor: int
) -> Iterator[tuple[tuple[int, ...], NDArray[np.int8]]]:
    """Yield ((n, [z,] y, x) of each block, its sites)."""
    coarse = (len(lattices), *(side // factor for side in lattices.shape[1:]))
    for at in np.ndindex(coarse):
        inside = tuple(slice(i * factor, (i + 1) * factor) for i in at[1:])
        yield at, lattices[(at[0], *inside)]


@pytest.mark.parametrize(("shape", "factor"), [((4, 4, 4), 2), ((3, 6, 9), 3), ((4, 8, 12), 4)])
def test_integer_rules_in_three_dimensions(shape: tuple[int, int, int], factor: int) -> None:
    spins = random_spins((3, *shape))
    ids = np.array([7, 0, 123456])
    sums = coarsen(spins, "block_mean", factor)
    major = coarsen(spins, "majority", factor, tie_seed=5, sample_ids=ids)
    kept = coarsen(spins, "decimate", factor)
    coarse = tuple(side // factor for side in shape)
    assert sums.shape == major.shape == kept.shape == (3, *coarse)
    assert (sums.dtype, major.dtype, kept.dtype) == (np.int16, np.int8, np.int8)
    coins = TieBreak(5, ids).signs(coarse)
    for at, block in blocks(spins, factor):
        total = int(block.astype(int).sum())
        assert sums[at] == total
        assert major[at] == (np.sign(total) if total else coins[at])
        assert kept[at] == block[0, 0, 0]
    assert RULES["block_mean"].scale("spins", factor, 3) == 1 / factor**3


@pytest.mark.parametrize(("shape", "factor"), [((8, 8), 2), ((6, 12), 3), ((12, 8), 4)])
@pytest.mark.parametrize("q", [2, 3, 8])
def test_rules_for_states_site_by_site(shape: tuple[int, int], factor: int, q: int) -> None:
    states = np.random.default_rng(q).integers(0, q, (3, *shape)).astype(np.int8)
    ids = np.array([7, 0, 123456])
    counts = coarsen(states, "block_mean", factor, q=q)
    major = coarsen(states, "majority", factor, q=q, tie_seed=5, sample_ids=ids)
    kept = coarsen(states, "decimate", factor, q=q)
    assert counts.shape == (3, q, shape[0] // factor, shape[1] // factor)
    assert (counts.dtype, major.dtype, kept.dtype) == (np.int16, np.int8, np.int8)
    priorities = TieBreak(5, ids).priorities(major.shape[1:], q)
    ties = 0
    for at, block in blocks(states, factor):
        found = np.bincount(block.ravel(), minlength=q)
        assert counts[at[0], :, at[1], at[2]].tolist() == found.tolist()
        tied = np.flatnonzero(found == found.max())
        ties += len(tied) > 1
        order = priorities[at[0], :, at[1], at[2]]
        assert major[at] == tied[np.argmax(order[tied])]
        assert kept[at] == block[0, 0]
    assert ties > 0 or (q, factor) == (2, 3)
    assert np.array_equal(coarsen(states, "block_mean", factor, q=q), counts)


def test_lattices_without_states_are_spins() -> None:
    spins = random_spins((2, 8, 8))
    for rule in RULES:
        got = coarsen(spins, rule, 2, tie_seed=4, sample_ids=np.array([5, 6]))
        want = coarsen(spins, rule, 2, tie_seed=4, sample_ids=np.array([5, 6]))
        assert np.array_equal(got, want)


def test_coins_in_three_dimensions_do_not_depend_on_company() -> None:
    coins = TieBreak(3, np.arange(50)).signs((4, 7, 9))
    assert coins.shape == (50, 4, 7, 9)
    assert np.array_equal(coins[20:30], TieBreak(3, np.arange(20, 30)).signs((4, 7, 9)))
    assert np.array_equal(coins[:, :3, :5, :4], TieBreak(3, np.arange(50)).signs((3, 5, 4)))
    golden = TieBreak(0, np.array([0, 1])).signs((2, 2, 4))
    assert golden.reshape(-1).tolist() == GOLDEN_3D


def test_priorities_are_permutations_that_depend_on_no_company() -> None:
    priorities = TieBreak(3, np.arange(50)).priorities((7, 9), 5)
    assert priorities.shape == (50, 5, 7, 9)
    assert priorities.dtype == np.int8
    assert (np.sort(priorities, axis=1) == np.arange(5)[:, None, None]).all()
    assert np.array_equal(priorities[20:30], TieBreak(3, np.arange(20, 30)).priorities((7, 9), 5))
    assert np.array_equal(priorities[..., :5, :4], TieBreak(3, np.arange(50)).priorities((5, 4), 5))
    golden = TieBreak(0, np.array([0, 1])).priorities((1, 4), 3)
    assert golden.reshape(-1).tolist() == GOLDEN_PRIORITIES


@pytest.mark.statistical
def test_orders_of_states_are_fair_and_independent() -> None:
    """H0: orders are uniform and independent. Chi-square of the 24 orders of 4 states (23
    degrees of freedom), and of the 24^2 pairs of orders of neighbouring blocks and samples and of
    one block under two seeds (575), each of at least 57,600 draws: p > 1e-6 in all five."""
    size = 24 * 10
    mine, other = (TieBreak(seed, np.arange(10)).priorities((size, 24), 4) for seed in (11, 12))

    def numbers(priorities: NDArray[np.int8]) -> NDArray[np.int64]:
        digits = priorities.astype(np.int64) * np.array([1, 4, 16, 64])[:, None, None]
        _, order = np.unique(digits.sum(axis=1), return_inverse=True)
        return order.reshape(10, size, 24)

    a, b = numbers(mine), numbers(other)
    pairs = [(a, b), (a, np.roll(a, 1, 0)), (a, np.roll(a, 1, 1)), (a, np.roll(a, 1, 2))]
    tables = [np.bincount(a.ravel(), minlength=24)]
    tables += [np.bincount((24 * x + y).ravel(), minlength=576) for x, y in pairs]
    for table in tables:
        assert len(table) in (24, 576)
        assert chisquare(table).pvalue > 1e-6


def test_what_cannot_be_done_with_states_or_large_blocks() -> None:
    cube = random_spins((1, 8, 8, 8))
    states = np.zeros((1, 8, 8), np.int8)
    with pytest.raises(BadInput, match=r"rule: 'spectral' .* for Potts states"):
        coarsen(states, "spectral", 2, q=3)
    with pytest.raises(BadInput, match="rule: 'mean'"):
        coarsen(states, "mean", 2, q=3)
    with pytest.raises(BadInput, match="all sides of 8 x 8 x 8"):
        coarsen(cube, "decimate", 3)
    with pytest.raises(BadInput, match="factor: 32 is not accepted; expected at most 31"):
        coarsen(np.ones((1, 32, 32, 32), np.int8), "block_mean", 32)
    assert coarsen(np.ones((1, 31, 31, 31), np.int8), "block_mean", 31) == 31**3
    with pytest.raises(BadInput, match="at most 181"):
        coarsen(np.zeros((1, 182, 182), np.int8), "block_mean", 182, q=3)
    counts = coarsen(np.zeros((1, 181, 181), np.int8), "block_mean", 181, q=2)
    assert counts.ravel().tolist() == [181**2, 0]


@pytest.mark.parametrize("rule", LINEAR)
def test_components_of_fields_are_coarse_grained_each_by_itself(rule: str) -> None:
    """(n, k, Lz, Ly, Lx), as k fields are; and the low-pass field of a cube is a wave's."""
    fields = np.random.default_rng(9).normal(size=(2, 3, 4, 6, 8))
    got = coarsen(fields, rule, 2, dimension=3)
    assert got.shape == (2, 3, 2, 3, 4)
    assert np.array_equal(got, np.stack([coarsen(one, rule, 2) for one in fields]))
    wave = np.cos(2 * np.pi * np.arange(6) / 6)[:, None] * np.ones((4, 1, 8))
    if rule == "spectral":
        want = np.cos(2 * np.pi * np.arange(3) / 3)[:, None] * np.ones((2, 1, 4))
        assert np.abs(coarsen(wave[None], rule, 2)[0] - want).max() < 1e-6


def test_rules_of_installed_packages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their entry points, when a name is asked for that is not there; what is there stays."""
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[skild_phys.rules]\nfirst = mine_rules:First\nmajority = mine_rules:First\n"
    (package / "entry_points.txt").write_text(points)
    (tmp_path / "mine_rules.py").write_text(
        "from skild_phys.rules.decimate import Decimate\n"
        "class First(Decimate):\n    name = 'first'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(RULES)
    try:
        plugins._points.cache_clear()
        spins = random_spins((1, 8, 8))
        assert np.array_equal(coarsen(spins, "first", 2), coarsen(spins, "decimate", 2))
        assert RULES["majority"] is before["majority"]
        with pytest.raises(BadInput, match="block_mean, majority, decimate, spectral or first"):
            get_rule("last")
    finally:
        RULES.clear()
        RULES.update(before)
        plugins._points.cache_clear()
