"""Figures: complete, labelled, the same bytes each time, and legible."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skild_phys.measurement.compare import Comparison, compare
from skild_phys.models import MODELS
from skild_phys.plots.comparison import FIGURES, draw
from skild_phys.plots.style import COLOURS, MARKERS, STYLE, figure_bytes, save_figure
from skild_phys.rng import kernel_state
from skild_phys.rules import coarsen
from skild_phys.simulation.wolff import wolff
from skild_phys.store import LatticeStore, create_store, open_store

SIDE, N = 32, 24


def save(path: Path, spins: np.ndarray, parents: bool) -> LatticeStore:
    attrs = {"model": "ising2d", "temperature": MODELS["ising2d"].critical_temperature}
    scalars = {"parent": np.arange(N)} if parents else {}
    if parents:
        attrs |= {"rule": "block_mean", "factor": 4, "method": "fill"}
    options = {"field": "spins", "n_samples": N, "shape": (SIDE, SIDE), "chunk": 8}
    with create_store(path, attrs=attrs, variables=tuple(scalars), **options) as writer:
        writer.commit({"spins": spins, **scalars})
    return open_store(path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("plots")
    state, spins = kernel_state(50), np.ones((SIDE, SIDE), dtype=np.int8)
    lattices = np.empty((N, SIDE, SIDE), dtype=np.int8)
    for i in range(N):
        wolff(spins, MODELS["ising2d"].critical_temperature, state, 30)
        lattices[i] = spins
    flat = np.random.default_rng(51).permuted(lattices.reshape(N, 8, 4, SIDE), axis=2)
    rolled = np.roll(lattices.reshape(N, 8, 4, SIDE), 1, axis=2)
    models = [
        save(folder / f"{name}.zarr", s.reshape(lattices.shape).copy(), True)
        for name, s in (("rows_permuted", flat), ("rows_rolled", rolled))
    ]
    truth = save(folder / "truth.zarr", lattices, False)
    assert np.array_equal(
        coarsen(lattices, "block_mean", 4), coarsen(models[1].read(0, N), "block_mean", 4)
    )
    return compare(truth, models)


@pytest.fixture(scope="module")
def figures(comparison: Comparison) -> dict[str, Figure]:
    drawn = {name: draw(name, comparison) for name in FIGURES}
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    for figure in found.values():
        with mpl.rc_context(STYLE):
            figure.canvas.draw()
    return found


def axes_of(figures: dict[str, Figure]) -> list[tuple[str, Axes]]:
    return [(name, ax) for name, figure in figures.items() for ax in figure.axes]


def test_every_figure_is_drawn(figures: dict[str, Figure]) -> None:
    assert set(figures) == set(FIGURES)


def test_axes_with_ticks_have_labels(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        labels = [ax.get_xlabel() for ax in figure.axes if len(ax.get_xticks())]
        assert any(labels), name
        assert any(ax.get_ylabel() for ax in figure.axes), name
    words = " ".join(ax.get_xlabel() for _, ax in axes_of(figures))
    for unit in ("(lattice constants)", "(rad / lattice constant)", "(J)"):
        assert unit in words


def test_tick_labels_do_not_overlap(figures: dict[str, Figure]) -> None:
    for (name, ax), axis in product(axes_of(figures), ("x", "y")):
        renderer = ax.figure.canvas.get_renderer()  # type: ignore[union-attr]
        labels = getattr(ax, f"{axis}axis").get_ticklabels(which="both")
        shown = [t.get_window_extent(renderer) for t in labels if t.get_text() and t.get_visible()]
        inside = sorted((b for b in shown if b.width > 0), key=lambda b: (b.x0, b.y0))
        for a, b in pairwise(inside):
            assert not a.overlaps(b), f"{name}: tick labels overlap along {axis}"


def test_truth_coarse_and_models_are_shown(figures: dict[str, Figure]) -> None:
    titles = [ax.get_title() for ax in figures["four_point"].axes if ax.images]
    assert titles[0].startswith("truth, 32x32")
    assert titles[1].startswith("coarse, 8x8")
    assert titles[2].startswith("rows_permuted")
    shapes = [ax.images[0].get_array().shape for ax in figures["four_point"].axes if ax.images]
    assert shapes == [(SIDE, SIDE), (8, 8), (SIDE, SIDE), (SIDE, SIDE)]


def test_theory_is_drawn_beside_the_estimate(
    figures: dict[str, Figure], comparison: Comparison
) -> None:
    lines = {line.get_label(): line for line in figures["four_point"].axes[0].lines}
    theory = np.abs(comparison.truth["connected_four_point_theory"].values)
    assert np.isnan(theory).tolist() == [True, True, False, False, False]
    drawn = lines["torus, continuum limit"].get_ydata()
    assert np.allclose(drawn, theory, equal_nan=True)


def test_without_a_ratio_only_a_structure_factor_is_drawn(comparison: Comparison) -> None:
    data = comparison.stores[0].data.copy(deep=True)
    shown = replace(comparison, stores=(replace(comparison.stores[0], data=data),))
    for name in ("two_point_axis", "structure_factor"):
        data[f"{name}_ratio"][1] = np.nan
    left_out, own = (
        next(
            line for line in draw(name, shown).axes[0].lines if line.get_label() == "rows_permuted"
        )
        for name in ("two_point", "structure_factor")
    )
    place = int(np.flatnonzero(left_out.get_xdata() == 1.0)[0])
    assert np.isnan(left_out.get_ydata()).nonzero()[0].tolist() == [place]
    assert data["structure_factor"].values[1] in own.get_ydata()


def test_equal_comparisons_give_equal_bytes(comparison: Comparison) -> None:
    for kind in ("png", "pdf"):
        drawn = (draw("structure_factor", comparison) for _ in range(2))
        first, second = (figure_bytes(figure, kind) for figure in drawn if figure)
        assert first == second


def test_figures_are_saved_as_png_and_pdf(figures: dict[str, Figure], tmp_path: Path) -> None:
    save_figure(figures["patterns"], tmp_path / "patterns")
    assert (tmp_path / "patterns.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "patterns.pdf").read_bytes().startswith(b"%PDF")


def test_models_differ_by_colour_and_marker() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == len(set(MARKERS))
