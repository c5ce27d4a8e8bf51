"""Grids for every scale: their modes, and chains over all of them.

References are exact: plane waves, and Gaussian fields, for which v = 0 is the denoiser.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from skild_helpers import POWER_LAW, tiny_weights, white

from skild_phys.rng import Streams
from skild_phys.rules import RULES
from skild_phys.rules.conditions import Free
from skild_phys.skild.equations import Level, Process, level_at, make_step, run_chain
from skild_phys.skild.levels import Known, coarser_grids, lambdas_on_grids
from skild_phys.skild.recipe import as_record
from skild_phys.skild.response import Response
from skild_phys.skild.skild import FieldDenoiser, FieldPosterior, Given, Scale, Skild
from skild_phys.skild.weights import Weights

Array = NDArray[np.float64]
NOISES = ((0.1, 0.2, 0.4), (0.3, 0.1, 0.05))
WINDOW = (0.7, 2.8)
LEFT = math.exp(-WINDOW[0] * math.pi**2) * 1.001
"""Share of a mode that may still be the data's where a chain comes to a grid that has it: 1e-3."""
LATTICES = [
    ("dft", (97, 97)), ("dft", (31, 57)), ("dft", (96, 192)), ("dft", (5, 64)),
    ("dft", (12, 10, 8)), ("dct", (33, 48)), ("dct", (9, 10, 7)),
]  # fmt: skip
lattices = pytest.mark.parametrize(("basis", "shape"), LATTICES)


def weights_of(basis: str, window: tuple[float, float] = WINDOW) -> Weights:
    return replace(tiny_weights("v"), basis=basis, window=window, symmetries=("flip",))


# Sides and modes.


@lattices
def test_every_grid_halves_the_last(basis: str, shape: tuple[int, ...]) -> None:
    """Down to one whose only modes are the longest wave of the longest side, and constants."""
    grids = [shape, *(grid for grid, _ in coarser_grids(shape, basis))]
    assert grids[0] == shape
    for j, grid in enumerate(grids):
        assert grid == tuple(math.ceil(side / 2**j) for side in shape)
    numbers = max(max(np.abs(line)) for line in inside_numbers(basis, shape, grids[-1]))
    assert numbers == 1
    assert all(max(grid) > max(grids[-1]) for grid in grids[:-1])


def inside_numbers(
    basis: str, shape: tuple[int, ...], grid: tuple[int, ...]
) -> list[NDArray[np.int64]]:
    """Return the whole wave numbers that a grid has on each axis: below half its sites."""
    found = []
    for side, n in zip(shape, grid, strict=True):
        m = np.arange(side) if basis == "dct" else np.arange(side) - side // 2
        kept = m < n if basis == "dct" else (2 * np.abs(m) < n) | (n == side)
        found.append(m[kept])
    return found


def wave(basis: str, shape: Sequence[int], m: Sequence[int], grid: Sequence[int]) -> torch.Tensor:
    """Return a plane wave of a lattice at the sites of a grid (1, *grid); of the box, cosines."""
    at = [(np.arange(n) + 0.5) / n if basis == "dct" else np.arange(n) / n for n in grid]
    x = np.meshgrid(*at, indexing="ij")
    if basis == "dct":
        made = np.prod([np.cos(np.pi * k * one) for k, one in zip(m, x, strict=True)], axis=0)
    else:
        made = np.cos(0.3 + 2 * np.pi * sum(k * one for k, one in zip(m, x, strict=True)))
    return torch.from_numpy(np.asarray(made))[None]


@lattices
def test_a_grid_has_the_waves_below_its_nyquist_mode(basis: str, shape: tuple[int, ...]) -> None:
    """Those at the grid's sites, with kappa and P of the lattice; longer ones, on its edge, not.

    Planted, seen to fail: the Nyquist modes of even grids taken for waves; a grid's field without
    its normalization.
    """
    random = np.random.default_rng(1)
    for grid in [shape, *(one for one, _ in coarser_grids(shape, basis))]:
        process = Process(POWER_LAW, shape, basis=basis, grid=grid)
        own = inside_numbers(basis, shape, grid)
        m = np.meshgrid(*process.basis.numbers, indexing="ij")
        there = [np.isin(np.abs(k), np.abs(line)) for k, line in zip(m, own, strict=True)]
        assert np.array_equal(process.crop.inside, np.all(there, axis=0))
        for _ in range(12):
            k = [int(random.integers(0, min(n, side // 2 if basis == "dft" else side - 1) + 1))
                 for n, side in zip(grid, shape, strict=True)]  # fmt: skip
            y = process.restricted(process.lattice_modes(wave(basis, shape, k, shape)))
            here = all(one in np.abs(line) for one, line in zip(k, own, strict=True))
            wanted = wave(basis, shape, k, grid) * here
            assert torch.allclose(process.fields(y).double(), wanted, atol=1e-5), (grid, k)
        lattice = Process(POWER_LAW, shape, basis=basis)
        inside = process.crop.inside
        assert np.array_equal(process.crop.of(lattice.kappa2.numpy())[inside],
                              process.kappa2.numpy()[inside])  # fmt: skip
        assert not process.cosine(1.0)[~process.inside].any()
        assert (process.sine(1.0)[~process.inside] == 1.0).all()


@lattices
def test_what_a_grid_lacks_is_erased_when_it_is_used(basis: str, shape: tuple[int, ...]) -> None:
    """Down to where a chain leaves it; and all of the lattice is, where a chain from noise starts.

    Planted, seen to fail: the spacing a geometric mean over the axes, with which (5, 64) comes to
    its second grid with 0.11 left of a mode; boxes whose coarsest grid has 4 sites.
    """
    weights = weights_of(basis)
    lattice = weights.process(shape)
    for process, low in weights.grids(shape):
        lacking = lattice.abar(low)
        there = process.crop.index
        lacking[there] = torch.where(process.inside, 0.0, lacking[there])
        assert low == 0.0 or lacking.max() <= LEFT
    start = lambdas_on_grids(shape, basis, WINDOW, None, 0.1, 3, 2)[0]
    assert lattice.abar(float(start)).max() <= LEFT


@lattices
def test_modes_go_to_a_finer_grid_bit_for_bit(basis: str, shape: tuple[int, ...]) -> None:
    """And are those of a real field there; each grid has the same of one lattice field.

    Planted, seen to fail: Nyquist modes of the coarser grid carried along.
    """
    grids = [process for process, _ in weights_of(basis).grids(shape)]
    modes = grids[0].lattice_modes(white(2, shape, 3))
    for coarse, fine in itertools.pairwise(grids[::-1]):
        y = coarse.white(white(2, coarse.shape, 4))
        rest = fine.white(white(2, fine.shape, 5))
        out = coarse.lifted(y, fine, rest)
        shared = fine.basis.crop(coarse.shape)
        assert torch.equal(shared.of(out)[..., coarse.inside], y[..., coarse.inside])
        taken = torch.zeros(fine.kappa2.shape, dtype=torch.bool)
        taken[shared.index] = coarse.inside
        assert torch.equal(out[..., ~taken], rest[..., ~taken])
        assert torch.allclose(fine.basis.modes(fine.basis.fields(out)), out, atol=1e-5)
        both = coarse.restricted(modes), fine.restricted(modes)
        lifted = coarse.lifted(both[0], fine, torch.zeros_like(both[1]))
        assert torch.allclose(lifted[..., taken], both[1][..., taken], rtol=1e-5)


# Lambdas.


@pytest.mark.parametrize("start", [None, 1e4, 30.0, 3.0, 2.0])
def test_a_chain_goes_through_every_window(start: float | None) -> None:
    """Falling, each `low` among the lambdas, `octave` evaluations a whole window, the last at its
    end; what starts inside a window has its share of them."""
    shape, octave = (64, 96), 5
    lows = [low for _, low in weights_of("dft").grids(shape)]
    lambdas = lambdas_on_grids(shape, "dft", WINDOW, start, 0.1, 4, octave)
    coarsest = [shape, *(grid for grid, _ in coarser_grids(shape, "dft"))][-1]
    most = WINDOW[1] * max(side / n for side, n in zip(shape, coarsest, strict=True)) ** 2
    assert lambdas[0] == min(start or most, most)
    assert lambdas[-1] == 0.1
    assert (np.diff(lambdas) < 0).all()
    assert set(lows[1:]) <= {*lambdas} | {low for low in lows if low >= lambdas[0]}
    assert sum(lambdas <= min(lows[1], lambdas[0])) == 4
    for low, high in itertools.pairwise([*lows[1:], most]):
        there = int(((lambdas > low) & (lambdas <= high)).sum())
        share = math.log(max(1.0, min(high, lambdas[0]) / low)) / math.log(high / low)
        assert there == (max(1, round(share * octave)) if share else 0)


# Chains of Gaussian fields: v = 0 is exact.


class NoVelocity(torch.nn.Module):
    """v = 0: the exact denoiser of a Gaussian field."""

    def forward(self, x: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[:, :1])


def gaussian_skild(
    basis: str, shape: tuple[int, ...], sampler: str, window: tuple[float, float] = WINDOW
) -> Skild:
    grids = weights_of(basis, window).grids(shape)
    scales = [
        Scale(process, FieldDenoiser(process, NoVelocity(), "v", ()), low) for process, low in grids
    ]
    return Skild(scales, sampler)


def shells_of(process: Process) -> NDArray[np.int64]:
    """Return the shell of each mode, as wide as the lowest kappa."""
    return np.rint(process.basis.kappa / process.basis.lowest).astype(np.int64).ravel()


def rarest(fields: torch.Tensor, process: Process) -> float:
    """Return the smallest p-value of sum of |X|^2 / P over a shell, times the number of shells.

    A mode of weight 2 is complex, one of weight 1 real or one of a pair of conjugates: in each case
    the sum over a shell of weight W and n Gaussian fields is chi square, n W degrees of freedom.
    """
    share = process.basis.modes(fields.double()).abs().square().sum(0) / process.power
    shell = shells_of(process)
    weight = np.bincount(shell, process.basis.weight.ravel())
    total = np.bincount(shell, (share * process.weight).numpy().ravel())[weight > 0]
    law = stats.chi2(len(fields) * weight[weight > 0])
    tails = 2 * np.minimum(law.cdf(total), law.sf(total))
    return float(tails.min() * len(tails))


def streams_of(n: int, seed: int = 7) -> list[Streams]:
    return [Streams.of(seed, i) for i in range(n)]


@pytest.mark.statistical
@lattices
@pytest.mark.parametrize("sampler", ["angle1", "angle3", "stochastic"])
@torch.inference_mode()
def test_gaussian_fields_from_noise_have_their_spectrum(
    basis: str, shape: tuple[int, ...], sampler: str
) -> None:
    """H0: P in every shell, through every change of grid; p > 1e-3 over all shells of a case.

    Two evaluations a grid. The faults below are caught.
    """
    skild, streams = gaussian_skild(basis, shape, sampler), streams_of(150)
    lambdas = lambdas_on_grids(shape, basis, WINDOW, None, 0.1, 2, 2)
    fields = skild.run(skild.from_noise(float(lambdas[0]), streams), lambdas, streams)
    assert rarest(torch.from_numpy(np.asarray(fields)), skild.process) > 1e-3


@pytest.mark.statistical
@pytest.mark.parametrize("fault", ["zeros", "one noise", "shrinks", "none"])
@torch.inference_mode()
def test_faults_at_a_change_of_grid_are_caught(fault: str) -> None:
    """Planted: modes that enter as zeros; the same noise in all fields; a denoiser 3% low.

    Without a fault the same code passes.
    """
    n, shape = 300, (31, 57)
    random, levels = torch.Generator().manual_seed(2), []
    for process, low in weights_of("dft").grids(shape):

        def noise(process: Process = process) -> torch.Tensor:
            drawn = torch.randn((n, *process.shape), generator=random)
            drawn = drawn[:1].expand(drawn.shape) if fault == "one noise" else drawn
            return process.white(drawn * (fault != "zeros"))

        def denoise(y: torch.Tensor, lam: float, process: Process = process) -> FieldPosterior:
            mean = process.cosine(lam) * y * (0.97 if fault == "shrinks" else 1.0)
            return FieldPosterior(process, mean, lam, lambda: y)

        levels.append(Level(process, denoise, noise, low))
    lambdas = lambdas_on_grids(shape, "dft", WINDOW, None, 0.1, 2, 2)
    first, step = level_at(levels, float(lambdas[0])).process, make_step("angle3")
    y = first.white(torch.randn((n, *first.shape), generator=random))
    y, last = run_chain(levels, y, lambdas, step)
    fields = torch.from_numpy(np.asarray(last.last(step, y)))
    p = rarest(fields, levels[0].process)
    assert p > 1e-3 if fault == "none" else p < 1e-6


def memory(x0: torch.Tensor, fields: torch.Tensor, process: Process, lam: float) -> Array:
    """Return z of the correlation with `x0` in each shell, which is abar after a stochastic chain.

    A pair of numbers of correlation r has a product of variance 1 + r^2.
    """
    one, other = (process.modes(f).to(torch.complex128) for f in (x0, fields))
    product = (one * other.conj()).real.mean(0).double()
    expected = process.abar(lam)
    shell, weight = shells_of(process), process.weight.numpy().ravel()
    size = np.bincount(shell, weight)
    difference = np.bincount(shell, weight * (product - expected).numpy().ravel())
    spread = np.bincount(shell, weight * (1.0 + expected.numpy().ravel() ** 2))
    z = difference[size > 0] / np.sqrt(spread[size > 0] / len(x0))
    return np.asarray(z)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("basis", "shape"), [("dft", (31, 57)), ("dft", (5, 64)), ("dft", (48, 48)), ("dct", (33, 48))]
)
@torch.inference_mode()
def test_chains_from_truths_on_a_coarser_grid(basis: str, shape: tuple[int, ...]) -> None:
    """H0: P in every shell, and a correlation abar(lambda) with the truth; p > 1e-3, abs(z) < 4.5.

    By chance once in 900 cases. Planted: grids that are left at 0.1 of the square of their spacing
    in place of 0.7, where 0.3 of the modes beyond is still to be seen.
    """
    n, lam = 800, 30.0
    streams, worst = streams_of(n, 8), []
    truth = Process(POWER_LAW, shape, basis=basis).gaussian(white(n, shape, 9))
    for window in (WINDOW, (0.1, 2.8)):
        skild = gaussian_skild(basis, shape, "stochastic", window)
        start = skild.from_fields(truth, lam, streams)
        assert start.shape[1:] == level_at(skild.scales, lam).process.kappa2.shape
        assert start.shape[1:] != skild.process.kappa2.shape
        lambdas = lambdas_on_grids(shape, basis, window, lam, 0.1, 2, 2)
        fields = torch.from_numpy(np.asarray(skild.run(start, lambdas, streams)))
        assert rarest(fields, skild.process) > 1e-3
        worst.append(float(np.abs(memory(truth, fields, skild.process, lam)).max()))
    assert worst[0] < 4.5 < 6 < worst[1]


# What is known of a coarse configuration.


def test_what_is_known_of_the_lattice_alone_is_not_asked_of_grids() -> None:
    """`correct` without `coarser` acts on the lattice. Planted, seen to fail: on every grid."""
    shape, streams = (12, 20), streams_of(3)
    skild, operator = gaussian_skild("dft", shape, "angle3"), RULES["decimate"].operator(shape, 2)
    values = operator.apply(white(3, shape, 5).double().numpy())

    def correct(fields: torch.Tensor, sigma: Array) -> torch.Tensor:
        return torch.from_numpy(operator.correct(fields.double().numpy(), values, sigma)).float()

    lambdas = lambdas_on_grids(shape, "dft", WINDOW, 30.0, 0.1, 3, 3)
    fields = skild.run(skild.from_noise(30.0, streams), lambdas, streams, correct=correct)
    assert np.abs(operator.apply(fields.astype(np.float64)) - values).max() < 2e-5


@pytest.mark.parametrize(
    ("rule", "shape", "factor", "grid"),
    [
        ("block_mean", (12, 12), 3, (6, 6)),
        ("decimate", (12, 24), 3, (6, 12)),
        ("spectral", (12, 12), 2, (6, 6)),
        ("block_mean", (12, 8), 4, (6, 4)),
        ("decimate", (10, 10), 5, (5, 5)),
        ("decimate", (8, 8, 4), 2, (4, 4, 2)),
        ("block_mean", (12, 12), 3, (12, 12)),
        ("majority", (12, 12), 3, (6, 6)),
    ],
)
def test_what_is_known_is_the_gaussians_mean(
    rule: str, shape: tuple[int, ...], factor: int, grid: tuple[int, ...]
) -> None:
    """E[Y_0 | X_t, y] and Var[Y_0 | X_t, y] on a grid, by matrices of the lattice.

    Majorities have a gain and noise by mode. Planted, seen to fail: modes that the grid lacks have
    no share in y; a gain of 1; noise of long waves for all.
    """
    rng, one = np.random.default_rng(1), RULES[rule]
    lattice, own = Process(POWER_LAW, shape), Process(POWER_LAW, shape, grid=grid)
    operator, sites, n = one.proxy(shape, factor), math.prod(shape), math.prod(grid)
    every = torch.eye(sites, dtype=torch.float64).reshape(sites, *shape)
    cov = lattice.basis.fields(lattice.basis.modes(every) * lattice.power).reshape(sites, sites)
    coarse = operator.apply(every.numpy()).reshape(sites, -1).T
    onto = own.fields(own.restricted(lattice.lattice_modes(every))).double().reshape(sites, n).T
    spins = rng.choice(np.array([-1, 1], dtype=np.int8), size=(2, *shape))
    raw = one.coarsen(spins, factor)
    response, noise = None, np.zeros((len(coarse), len(coarse)))
    y = one.values(raw, operator, lattice.power.numpy())
    if rule == "majority":
        response = Response((2, 4), (0.0, 0.5, 1.5), ((1.0, 0.9, 0.5), (2.0, 0.7, 0.9)), NOISES)
        y, turned = raw.astype(np.float64), np.eye(len(coarse)).reshape(-1, *raw.shape[1:])
        modes = np.fft.fftn(turned, axes=(1, 2))
        gain, noise = (
            np.fft.ifftn(modes * of, axes=(1, 2)).real.reshape(noise.shape)
            for of in response(raw.shape[1:], factor)
        )
        coarse = gain @ coarse
    lam, eps = torch.tensor([0.9, 1.7]) * own.spacing**2, own.white(white(2, grid, 4))
    at = lam.double().reshape(-1, *[1] * len(grid))
    x0 = own.restricted(lattice.lattice_modes(torch.from_numpy(spins).float()))
    seen = own.cosine(at) * x0 + own.sine(at) * eps
    responses = {one.name: response} if response else {}
    known = Known(one, raw, factor, lattice, own, responses)
    guess = known(seen, lam)
    found = own.fields(guess.mean).double().reshape(2, n)
    place = torch.eye(n, dtype=torch.float64).reshape(n, *grid)
    for i in range(2):
        kept = own.fields(own.cosine(at[i : i + 1]) * own.modes(place.float())).double()
        both = np.vstack([kept.reshape(n, n).numpy().T @ onto.numpy(), coarse])
        spread = own.erased(at[i]) * own.power * own.inside
        total = both @ cov.numpy() @ both.T + 1e-9 * np.eye(len(both))
        total[:n, :n] += own.basis.fields(own.basis.modes(place) * spread).reshape(n, n).numpy()
        total[n:, n:] += noise
        inside = own.fields(torch.where(own.inside, seen[i : i + 1], 0.0)).double().numpy()
        given = np.concatenate([inside.ravel(), y[i].ravel()])
        shared = onto.numpy() @ cov.numpy() @ both.T
        wanted = shared @ np.linalg.solve(total, given)
        assert np.abs(found[i].numpy() - wanted).max() < 2e-5
        left = onto.numpy() @ cov.numpy() @ onto.numpy().T
        left = left - shared @ np.linalg.solve(total, shared.T)
        units = own.modes(place).reshape(n, -1).numpy()
        variance = np.einsum("ik,ij,jk->k", units, left, units.conj()).real.reshape(own.power.shape)
        ratio = (variance / own.erased(at[i]).numpy())[own.inside.numpy()]
        assert np.abs(ratio - guess.spread[i].numpy()[own.inside.numpy()] ** 2).max() < 1e-4


def test_the_response_of_independent_spins() -> None:
    """y = sign of the sum S of b^2 fair coins, A x = S / b^2: g = E|S|, N = 1 - E|S|^2 / b^2.

    E|S| is 3/2 of 4 coins, with ties by lot, and 9 * 70 / 256 of 9. At every K alike. Over 24 seeds
    the largest error of a gain was 0.017(7) with a quarter of these configurations, so that 0.03 is
    6 standard deviations off. Planted, seen to fail: a gain of y on y; noise of g A x.
    """
    spins = np.random.default_rng(7).choice(np.array([-1, 1], np.int8), size=(48000, 24, 24))
    found = Response.measured(np.split(spins, 16), (2, 3, 5))["majority"]
    assert found.factors == (2, 3)
    for factor, mean in ((2, 1.5), (3, 9 * 70 / 256)):
        gain, noise = found((24 // factor,) * 2, factor)
        assert np.abs(gain - mean).max() < 0.03
        assert np.abs(noise - (1 - mean**2 / factor**2)).max() < 0.02
    assert Response.from_record(as_record(found)) == found
    assert Response.measured([spins[:4]], (5,)) == {}


@pytest.mark.statistical
@torch.inference_mode()
@pytest.mark.parametrize("sampler", ["angle3", "stochastic"])
def test_refined_gaussian_fields_have_the_spread_that_y_leaves(sampler: str) -> None:
    """E|x - E[x | y]|^2 of refined fields is that of the truths; 0.03 are 6 standard errors.

    Planted: chains that know y on the lattice alone.
    """
    shape, n, rule = (24, 24), 400, RULES["block_mean"]
    skild, streams, operator = gaussian_skild("dft", shape, sampler), streams_of(n, 6), rule.proxy
    truth = skild.process.gaussian(white(n, shape, 5)).double().numpy()
    values, power = operator(shape, 4).apply(truth), skild.process.power.numpy()
    mean = operator(shape, 4).correct(np.zeros_like(truth), values, power)
    lambdas = lambdas_on_grids(shape, "dft", WINDOW, 45.0, 0.05, 8, 4)
    made = np.asarray(skild.refine(values, rule, 4, lambdas, streams), dtype=np.float64)
    assert np.square(made - mean).mean() == pytest.approx(np.square(truth - mean).mean(), rel=0.03)
    start = skild.from_fields(torch.from_numpy(truth).float(), 45.0, streams)
    blind = np.asarray(skild.run(start, lambdas, streams), dtype=np.float64)
    assert np.square(blind - mean).mean() > 1.2 * np.square(truth - mean).mean()


@pytest.mark.statistical
@torch.inference_mode()
def test_a_refinement_starts_from_what_y_and_the_spectrum_say() -> None:
    """Y at the first lambda, of 6,000 chains: its mean cos(theta) E[Y_0 | y], and its variance.

    Within 5 and 6 standard errors. Planted, seen to fail: E[Y_0 | y] alone; cos(theta) forgotten.
    """
    shape, n, lam, seen = (12, 24), 6000, 20.0, []
    skild, rule = gaussian_skild("dft", shape, "angle3"), RULES["block_mean"]

    def look(process: Process, y: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((process, y))
        return y

    skild.sampler = look
    raw = np.random.default_rng(3).normal(size=(1, 4, 8)).repeat(n, axis=0)
    skild.refine(raw, rule, 3, np.array([lam, 11.2, 2.8, 0.1]), streams_of(n, 6))
    (own, y), *_ = seen
    assert own.shape == (3, 6)
    known = Known(rule, raw[:1], 3, skild.process, own, {})
    guess = known(torch.zeros(1, *own.power.shape, dtype=torch.complex64), torch.tensor([1e9]))
    mode, kept = own.inside, own.cosine(lam)
    variance = ((kept * guess.spread[0]) ** 2 + own.sine(lam) ** 2)[mode].double()
    off = (y.mean(0) - kept * guess.mean[0])[mode].abs()
    assert (off < 5 * (variance / n).sqrt()).all()
    found = (y - kept * guess.mean[0]).abs().square().mean(0)[mode]
    assert (found / variance - 1).abs().max() < 6 * math.sqrt(2 / n)


@torch.inference_mode()
def test_modes_that_y_fixes_are_exact_whatever_the_network_says() -> None:
    """Low-pass fields by 4: Y_0 of their modes is the truth's, in a sample too.

    Planted, seen to fail: e = 1 in the mean, and in samples.
    """
    shape, grid, rule = (24, 24), (12, 12), RULES["spectral"]
    lattice, own = Process(POWER_LAW, shape), Process(POWER_LAW, shape, grid=grid)
    truth = lattice.gaussian(white(2, shape, 5))
    raw = rule.operator(shape, 4).apply(truth.double().numpy())
    lam, noise = 5.0, white(2, grid, 6)
    y0 = own.restricted(lattice.lattice_modes(truth))
    y = own.cosine(lam) * y0 + own.sine(lam) * own.white(noise)
    known = Known(rule, raw, 4, lattice, own, {})
    given = Given(streams_of(2), functools.partial(own.white, noise), Free(), known=known)

    def network(x: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return 3.0 * white(2, grid, 7)[:, None]

    posterior = FieldDenoiser(own, network, "v", ())(y, lam, given)
    number = np.abs(np.fft.fftfreq(12, 1 / 12))
    fixed = torch.from_numpy((number[:, None] < 3) & (number[None, :7] < 3))
    for found in (posterior.mean(), posterior.draw()):
        assert (found - y0)[:, fixed].abs().max() < 1e-4
        assert (found - y0)[:, ~fixed & own.inside].abs().max() > 1.0
