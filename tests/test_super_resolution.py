"""Images from low-resolution ones: exact for Gaussian images, consistent for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import SCHEDULE, SPECTRUM, image_store, image_weights, photographs

from skild_phys.errors import BadInput, StoreError
from skild_phys.images.refine import (
    LowResolution,
    _ImageRefiner,
    _resampling,
    coarsen_images,
    refine_images,
)
from skild_phys.images.spec import ImageRefineSpec
from skild_phys.rng import Streams
from skild_phys.runner import Run
from skild_phys.skild.chain import SCHEDULES, Schedule
from skild_phys.skild.data import ImageLattices, fields_of
from skild_phys.skild.equations import STEPS, Process
from skild_phys.skild.measured import fit_channels
from skild_phys.skild.spectrum import (
    ChannelSpectra,
    PowerLaw,
    RadialSpectrum,
    cosines,
    make_basis,
    spectrum_from_record,
)
from skild_phys.store import open_store


@pytest.mark.parametrize(
    ("rule", "white", "factor"), [("area", False, 2), ("bicubic", False, 2), ("area", True, 3)]
)
def test_gaussian_images_are_drawn_given_the_low_resolution_exactly(
    rule: str, white: bool, factor: int
) -> None:
    """With v = 0 the chain samples the Gaussian of spectrum P conditioned on A x = y.

    Its mean and covariance are those of linear algebra; 3,000 draws, 4 x 3 pixels made finer, once
    with white noise that erases all waves at once. The largest |z| of at most 108 means and 108
    variances is below 4.5 but once in 650 runs. Planted, seen to fail: no correction of the
    chain's estimates but the last; P for Sigma in it; factors of white noise bounded by lambda.
    """
    coarse, n = (4, 3), 3000
    fine = (4 * factor, 3 * factor)
    weights = image_weights(channels=1)
    if white:
        schedule = SCHEDULES["variance-preserving"](4.5)
        weights = replace(
            weights, spectrum=PowerLaw(1.0, 0.0, 1.0), cutoff=4.5, schedule=schedule,
            lambda_range=(float(schedule(1e-3)), float(schedule(1.0))),
        )  # fmt: skip
    spec = ImageRefineSpec(factor=float(factor), rule=rule, steps=4, sampler="stochastic", seed=1)
    refiner = _ImageRefiner(weights, spec, coarse, fine)
    y = np.random.default_rng(4).standard_normal((1, 1, *coarse)).astype(np.float32)
    streams = [Streams.of(1, i) for i in range(n)]
    drawn = np.asarray(refiner(y.repeat(n, 0), streams), np.float64).reshape(n, -1)
    a = np.kron(*(_resampling(rule, f, c) for f, c in zip(fine, coarse)))
    modes = np.kron(*(cosines(side).numpy() for side in fine))
    s = modes.T @ np.diag(weights.spectrum.variances(make_basis("dct", fine)).ravel()) @ modes
    gain = s @ a.T @ np.linalg.inv(a @ s @ a.T)
    mean, covariance = gain @ y.ravel(), s - gain @ a @ s
    spread = np.sqrt(np.diag(covariance))
    z = (drawn.mean(0) - mean) / (spread / np.sqrt(n))
    assert np.abs(z).max() < 4.5
    z = (drawn.var(0) / spread**2 - 1.0) / np.sqrt(2.0 / n)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("schedule", [SCHEDULE, None])
@pytest.mark.parametrize("sampler", ["stochastic", "angle3", "ancestral"])
def test_what_comes_out_gives_the_low_resolution_back(
    sampler: str, schedule: Schedule | None
) -> None:
    """For any network: here it is random, the sides odd, the factor no whole number.

    Planted, seen to fail: chains over grids at lambdas of a single one.
    """
    colours = ChannelSpectra(
        ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0)),
        tuple(RadialSpectrum((0.1, 1.0, 4.4), (9.0, 0.3 * k, 0.01), 0.7) for k in (1, 2, 3)),
    )
    weights = image_weights(spectrum=colours, std=0.2, schedule=schedule)
    start = None if schedule else 30.0
    spec = ImageRefineSpec(factor=2.5, rule="bicubic", steps=3, sampler=sampler, lambda_start=start)
    refiner = _ImageRefiner(weights, spec, (7, 6), (18, 15))
    if schedule is None:
        assert {0.7 * (18 / 9) ** 2, 0.7 * (15 / 4) ** 2} < {*refiner.lambdas}
    low = np.random.default_rng(1).standard_normal((2, 3, 7, 6)).astype(np.float32)
    made = refiner(low, [Streams.of(0, i) for i in range(2)])
    seen = LowResolution("bicubic", (18, 15), (7, 6)).apply(made.astype(np.float64))
    assert seen == pytest.approx(low, abs=1e-4)


def test_a_mean_that_is_never_erased_stays() -> None:
    """kappa_c = 0, as in the paper's super-resolution: the mean is not uncertain, and not moved."""
    weights = replace(image_weights(std=0.2), cutoff=0.0)
    refiner = _ImageRefiner(weights, ImageRefineSpec(factor=2.0, steps=4), (6, 5), (12, 10))
    low = np.random.default_rng(1).standard_normal((2, 3, 6, 5)).astype(np.float32)
    made = refiner(low, [Streams.of(0, i) for i in range(2)])
    seen = LowResolution("area", (12, 10), (6, 5)).apply(made.astype(np.float64))
    assert seen == pytest.approx(low, abs=1e-4)


def test_from_store_to_store(tmp_path: Path) -> None:
    """Parents, resumption and threads; 8-bit intensities are what is lost of the consistency."""
    fine = image_store(tmp_path / "f.zarr", photographs(9), tests=5)
    tests = ImageLattices(fine, "test")
    low = coarsen_images(tests, tmp_path / "l.zarr", "area", 2.0, Run()).lattices
    assert low.variable("parent").tolist() == [4, 5, 6, 7, 8]
    blocks = fine.read(4, 9).reshape(5, 3, 8, 2, 8, 2).mean((3, 5))
    assert np.abs(low.read(0, 5) - blocks).max() <= 0.5 + 1e-4
    weights, spec = image_weights(), ImageRefineSpec(factor=2.0, steps=3, seed=7)
    _, misfit = refine_images(low, tmp_path / "a.zarr", spec, weights, Run(threads=1))
    assert (misfit or 1.0) < 0.3
    refine_images(low, tmp_path / "b.zarr", spec, weights, Run(threads=2))
    one, two = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert np.array_equal(one.read(0, 5), two.read(0, 5))
    assert one.variable("parent").tolist() == [4, 5, 6, 7, 8]
    again = one.read(0, 5).reshape(5, 3, 8, 2, 8, 2).mean((3, 5))
    assert np.abs(again - low.read(0, 5)).max() <= 0.5 + 0.05
    assert refine_images(low, tmp_path / "b.zarr", spec, weights, Run())[0].made == 0
    own = replace(spec, sampler=STEPS["angle3"])
    refine_images(low, tmp_path / "own.zarr", own, weights, Run())
    named = replace(spec, sampler="angle3")
    refine_images(low, tmp_path / "named.zarr", named, weights, Run())
    by_object, by_name = open_store(tmp_path / "own.zarr"), open_store(tmp_path / "named.zarr")
    assert np.array_equal(by_object.read(0, 5), by_name.read(0, 5))
    bicubic = ImageRefineSpec(factor=2.0, method="bicubic")
    assert (refine_images(low, tmp_path / "c.zarr", bicubic, None, Run())[1] or 0.0) > 1.0


def test_black_and_white_edges_are_consistent_too(tmp_path: Path) -> None:
    """What is cut off at black and white is made good elsewhere in the block, up to 8 bits."""
    edges = np.zeros((2, 3, 16, 16), np.uint8)
    edges[0, :, :, 7:] = 255
    edges[1, :, 5:11, 3:] = 255
    store = image_store(tmp_path / "f.zarr", edges)
    for factor in (2, 4):
        path = tmp_path / f"l{factor}.zarr"
        low = coarsen_images(ImageLattices(store), path, "area", factor, Run()).lattices
        made, spec = tmp_path / f"r{factor}.zarr", ImageRefineSpec(factor=factor, steps=4)
        _, misfit = refine_images(low, made, spec, image_weights(), Run())
        seen = open_store(made).read(0, 2).reshape(2, 3, 16 // factor, factor, -1, factor)
        missing = seen.mean((3, 5)) - low.read(0, 2)
        assert float(np.sqrt((missing**2).mean())) == pytest.approx(misfit, rel=1e-3)
        assert (misfit or 1.0) < 0.4


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    low = image_store(tmp_path / "l.zarr", photographs(2))
    spec = ImageRefineSpec(factor=2.0, rule="area")
    for weights, message in (
        (None, "missing option --checkpoint|missing checkpoint"),
        (image_weights(channels=1), "1 channels"),
        (replace(image_weights(), channels=0), "weights of images"),
    ):
        with pytest.raises(BadInput, match=message):
            refine_images(low, tmp_path / "o.zarr", spec, weights, Run())
    assert not (tmp_path / "o.zarr").exists()
    for change, message in (({"rule": "max"}, "rule"), ({"method": "x"}, "method"),
                            ({"steps": 0}, "steps"), ({"seed": -1}, "seed")):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            replace(spec, **change)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ImageRefineSpec(2.0)  # type: ignore[misc]
    from skild_phys.skild.coarse import open_coarse

    with pytest.raises(StoreError, match="images refine"):
        open_coarse(tmp_path / "l.zarr", 2, "block_mean")


def test_directions_of_colour_are_found_and_whitened() -> None:
    """Channels mixed from independent fields: the directions come back, each with its power."""
    random, basis = torch.Generator().manual_seed(1), make_basis("dct", (16, 16))
    laws = (PowerLaw(4.0, 1.0, 0.02), PowerLaw(0.5, 0.8, 0.02), PowerLaw(0.1, 0.8, 0.02))
    angles = np.linalg.qr(np.array([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]).T)[0].T
    white = torch.randn((3, 600, 16, 16), generator=random)
    fields = torch.stack([Process(law, (16, 16), basis="dct").gaussian(w)
                          for law, w in zip(laws, white)], 1)  # fmt: skip
    images = np.einsum("kc,nkyx->ncyx", angles, fields.double().numpy())
    found = fit_channels([images[:300], images[300:]], basis)
    matrix = np.array(found.mixing)
    for k, row in enumerate(matrix):
        assert abs(row @ angles[k]) == pytest.approx(1.0, abs=2e-3)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-12)
    process = Process(found, (16, 16), basis="dct")
    modes = process.modes(torch.from_numpy(images))
    assert np.asarray(modes.square().mean((0, 2, 3))) == pytest.approx(np.ones(3), abs=0.05)
    assert process.fields(modes).numpy() == pytest.approx(images, abs=1e-5)
    assert spectrum_from_record(found.record()) == found
    # Noise of the process has the colours of the images.
    noise = process.gaussian(torch.randn((600, 3, 16, 16), generator=random)).numpy()
    covariances = [np.cov(np.moveaxis(x, 1, 0).reshape(3, -1)) for x in (noise, images)]
    assert covariances[0] == pytest.approx(covariances[1], rel=0.1, abs=0.02)


def test_grey_images_have_next_to_no_colours() -> None:
    """Three equal channels: colours are whitened by a small number, not by rounding."""
    grey = fields_of(photographs(40, 16)[:, :1].repeat(3, axis=1))
    found = fit_channels([grey.astype(np.float64)], make_basis("dct", (16, 16)))
    process = Process(found, (16, 16), basis="dct")
    noisy = process.modes(torch.from_numpy(grey).double() + 1e-4)
    assert float(noisy[:, 1:].abs().max()) < 1.0
    assert 1e-6 < float(process.power[1].mean() / process.power[0].mean()) < 1e-3


def test_pixels_of_photographs_survive_the_process() -> None:
    """Nothing is erased at lambda -> 0, everything at its largest."""
    process = Process(SPECTRUM, (16, 16), basis="dct")
    x0 = torch.from_numpy(fields_of(photographs(4)))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    near, far = (process.forward(x0, torch.full((4,), lam), noise) for lam in (1e-9, 1e4))
    assert near.numpy() == pytest.approx(x0.numpy(), abs=1e-3)
    assert far.numpy() == pytest.approx(process.gaussian(noise).numpy(), abs=1e-3)


def test_low_resolution_by_dask_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    fine = ImageLattices(image_store(tmp_path / "f.zarr", photographs(9)))
    runs = {"a": Run(), "b": Run(dask="local:2")}
    one, two = (
        coarsen_images(fine, tmp_path / f"{name}.zarr", "bicubic", 2.5, run).lattices
        for name, run in runs.items()
    )
    assert np.array_equal(one.read(0, 9), two.read(0, 9))
