"""The paper's backbone: it computes what the published NCSN++ does, on boxes and on tori."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skild_phys.errors import BadInput, WeightsError
from skild_phys.skild.convert import convert_ncsnpp, read_tensors
from skild_phys.skild.denoiser import make_network
from skild_phys.skild.ncsnpp import Ncsnpp, NcsnppConfig, doubled, halved
from skild_phys.skild.schedule import Linear

PAPER = Linear(32, 5.0, 137.7294, 1.57)
SMALL = NcsnppConfig(width=8, multipliers=(1, 2), blocks=1, side=8, attention=(4,))
PUBLISHED = Path(__file__).parent / "data" / "ncsnpp_reference.safetensors"
"""A random network of the shape SMALL, 3 channels, under the names of the published code, with an
input, times, and the output of a transcription of that code (see tests/data/README.md)."""


def small(basis: str = "dct", channels: int = 3, config: NcsnppConfig = SMALL) -> Ncsnpp:
    torch.manual_seed(1)
    network = make_network(config, "eps", basis, channels, PAPER)
    assert isinstance(network, Ncsnpp)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@torch.no_grad()
def test_published_weights_give_the_published_outputs() -> None:
    given, network = load_file(PUBLISHED), small()
    network.load_state_dict(convert_ncsnpp(network, given))
    found = network.at_time(given["input"], given["time"])
    assert found == pytest.approx(given["output"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 2}, "all_modules"),
        ({"multipliers": (1, 1)}, "has shape"),
        ({"attention": ()}, "all_modules"),
        ({"width": 16}, "has shape"),
    ],
)
def test_weights_of_another_shape_are_refused(change: dict, message: str) -> None:
    network = small(config=replace(SMALL, **change))
    with pytest.raises(WeightsError, match=message):
        convert_ncsnpp(network, load_file(PUBLISHED))


def test_only_tensors_are_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    tensors = {"a": torch.ones(2)}
    torch.save({"step": 3, "model": tensors}, tmp_path / "good.pth")
    assert torch.equal(read_tensors(tmp_path / "good.pth")["a"], tensors["a"])
    save_file(tensors, tmp_path / "good.safetensors")
    assert torch.equal(read_tensors(tmp_path / "good.safetensors")["a"], tensors["a"])
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": tensors, "other": Evil()}, tmp_path / "worse.pth")
    for name in ("evil.pth", "worse.pth"):
        with pytest.raises(WeightsError, match=f"{name}: holds no tensors alone"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@torch.no_grad()
def test_resampling_keeps_constants_inside_and_shifts_nothing() -> None:
    """FIR of [1, 3, 3, 1] / 8: half the sides average 4 sites, twice the sides interpolate."""
    line = torch.arange(12.0)[None, None, None, :].expand(1, 1, 12, 12)
    for beyond in ("zeros", "circular"):
        half, double = halved(line, beyond), doubled(line, beyond)
        assert half[0, 0, 2, 1:-1] == pytest.approx(2.0 * torch.arange(1, 5) + 0.5)
        assert double[0, 0, 5, 2:-2] == pytest.approx(torch.arange(20) / 2.0 + 0.75)
        assert half.shape[-2:] == (6, 6)
        assert double.shape[-2:] == (24, 24)


@torch.no_grad()
def test_on_a_torus_a_shift_by_whole_cells_goes_through() -> None:
    x, lam = torch.randn((2, 1, 8, 12)), torch.tensor([0.3, 5.0])
    periodic, box = small("dft", 1), small("dct", 1)
    moved = periodic(x.roll((2, 4), (-2, -1)), lam).roll((-2, -4), (-2, -1))
    assert moved == pytest.approx(periodic(x, lam), abs=1e-5)
    other = box(x.roll((2, 4), (-2, -1)), lam).roll((-2, -4), (-2, -1))
    assert (other - box(x, lam)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("basis", ["dct", "dft"])
def test_any_sides_will_do(basis: str) -> None:
    x, lam = torch.randn((1, 3, 7, 10)), torch.tensor([1.0])
    assert small(basis)(x, lam).shape == x.shape


def test_time_is_counted_along_the_schedule() -> None:
    network = small()
    seen = []
    network.at_time = lambda x, time: seen.append(time) or x  # type: ignore[method-assign]
    t = torch.tensor([0.001, 0.25, 1.0])
    network(torch.zeros(3, 3, 8, 8), torch.from_numpy(PAPER(t.numpy())).float())
    assert seen[0] == pytest.approx(1000.0 * t, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"width": 10}, "width"), ({"blocks": 0}, "blocks"), ({"attention": (5,)}, "attention"),
     ({"multipliers": ()}, "multipliers"), ({"dropout": 1.0}, "dropout")],
)  # fmt: skip
def test_a_shape_that_cannot_be_built_is_refused(change: dict, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        replace(SMALL, **change)
