"""The paper's backbone: it computes what the published NCSN++ does, on boxes and on tori."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_helpers import image_weights
from safetensors.torch import load_file, save_file

from skild_phys.errors import BadInput, WeightsError
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.ncsnpp import (
    Ncsnpp,
    NcsnppConfig,
    _doubled,
    _halved,
    from_published,
    read_published,
)

PAPER = SCHEDULES["linear"](32, 5.0, 137.7294, 1.57)
SMALL = NcsnppConfig(width=8, multipliers=(1, 2), blocks=1, side=8, attention=(4,))
PUBLISHED = Path(__file__).parent / "data" / "ncsnpp_reference.safetensors"
"""A random network of the shape SMALL, 3 channels, under the names of the published code, with an
input, times, and the output of a transcription of that code (see tests/data/README.md)."""


def small(basis: str = "dct", channels: int = 3, config: NcsnppConfig = SMALL) -> Ncsnpp:
    torch.manual_seed(1)
    network = config.build("eps", basis, channels, PAPER)
    assert isinstance(network, Ncsnpp)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@torch.no_grad()
def test_published_weights_give_the_published_outputs() -> None:
    given, network = load_file(PUBLISHED), small()
    network.load_state_dict(from_published(network, given))
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
        from_published(network, load_file(PUBLISHED))


def test_a_tensor_too_many_is_refused() -> None:
    given = load_file(PUBLISHED)
    for name in ("all_modules.3.Conv_7.weight", "all_modules.99.weight"):
        with pytest.raises(WeightsError, match=r"all_modules\.(3: 'Conv_7.weight'|99: one module)"):
            from_published(small(), given | {name: torch.ones(1)})


def test_only_tensors_are_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    tensors = {"a": torch.ones(2)}
    torch.save({"step": 3, "model": tensors}, tmp_path / "good.pth")
    assert torch.equal(read_published(tmp_path / "good.pth")["a"], tensors["a"])
    save_file(tensors, tmp_path / "good.safetensors")
    assert torch.equal(read_published(tmp_path / "good.safetensors")["a"], tensors["a"])
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": tensors, "other": Evil()}, tmp_path / "worse.pth")
    for name in ("evil.pth", "worse.pth"):
        with pytest.raises(WeightsError, match=f"{name}: holds no tensors alone"):
            read_published(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@torch.no_grad()
def test_resampling_keeps_constants_inside_and_shifts_nothing() -> None:
    """FIR of [1, 3, 3, 1] / 8: half the sides average 4 sites, twice the sides interpolate."""
    line = torch.arange(12.0)[None, None, None, :].expand(1, 1, 12, 12)
    for beyond in ("zeros", "circular"):
        half, double = _halved(line, beyond), _doubled(line, beyond)
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


@torch.no_grad()
def test_in_bfloat16_the_ends_stay_exact() -> None:
    """A change of the input that bfloat16 would round away goes through the ends of the network."""
    network, given = small().cast(torch.bfloat16), load_file(PUBLISHED)
    assert network.enter.weight.dtype == network.leave.weight.dtype == torch.float32
    x, time = given["input"], given["time"]
    exact = small().at_time(x, time)
    out = network.at_time(x, time)
    assert out.dtype == torch.float32
    assert (out - exact).abs().max() < 0.1 * exact.abs().max()
    weights = replace(image_weights("eps"), network=SMALL, schedule=PAPER)
    built = replace(weights, tensors=small().state_dict()).build(dtype=torch.bfloat16)
    assert isinstance(built, Ncsnpp)
    assert built.at_time(x, time).numpy() == pytest.approx(out.numpy(), abs=1e-6)
    seen = []
    network.enter.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        network.at_time(x + 1e-4, time)
    assert seen[0].numpy() == pytest.approx(network.enter(x + 1e-4).numpy(), abs=2e-5)


def test_averages_of_the_published_code_are_taken(tmp_path: Path) -> None:
    """Its `ema` is a list without names, in the order of the parameters."""
    given = {k: v for k, v in load_file(PUBLISHED).items() if "all_modules" in k}
    network = small()
    order = list(given)
    held = {
        "optimizer": {"state": {}, "param_groups": []},
        "model": {"module.sigmas": torch.ones(3), **given},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": [2.0 * given[k] for k in order]},
        "step": 3,
    }
    torch.save(held, tmp_path / "c.pth")
    state = from_published(network, read_published(tmp_path / "c.pth"))
    plain = from_published(network, given)
    assert torch.equal(state["enter.weight"], 2.0 * plain["enter.weight"])
    held["ema"]["shadow_params"] = [torch.ones(2)]  # type: ignore[index]
    torch.save(held, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="shadow_params"):
        read_published(tmp_path / "c.pth")
    for i, other in enumerate((torch.ones(2), [torch.ones(2)], {"a": 1})):
        torch.save(other, tmp_path / f"{i}.pth")
        with pytest.raises(WeightsError, match="no named tensors"):
            read_published(tmp_path / f"{i}.pth")
    for i, data in enumerate((b"", b"\x80\x02.")):
        (tmp_path / f"junk{i}.pth").write_bytes(data)
        with pytest.raises(WeightsError, match=f"junk{i}.pth: holds no tensors"):
            read_published(tmp_path / f"junk{i}.pth")


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
