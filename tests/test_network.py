from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from skild_helpers import TINY, tiny_weights

from skild_phys.errors import BadInput
from skild_phys.rng import Streams
from skild_phys.skild.data import symmetry
from skild_phys.skild.networks import (
    _CONV,
    _TORUS,
    SYMMETRIES,
    NetworkConfig,
    UNet,
    _Symmetry,
    _Wrapped,
    turns,
)

LAM = torch.tensor([0.5])


@pytest.fixture
def network() -> UNet:
    return tiny_weights("eps").build(dtype=torch.float32)


def field(*shape: int) -> torch.Tensor:
    return torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_a_shift_of_the_torus_shifts_the_output(network: UNet) -> None:
    x = field(32, 32)
    shift = (TINY.multiple, 3 * TINY.multiple)
    moved = network(torch.roll(x, shift, (2, 3)), LAM)
    assert torch.allclose(moved, torch.roll(network(x, LAM), shift, (2, 3)), atol=1e-4)


@torch.inference_mode()
def test_a_periodic_pattern_looks_the_same_on_every_lattice_size(network: UNet) -> None:
    x = field(16, 24)
    large = network(x.repeat(1, 1, 2, 3), LAM)
    assert torch.allclose(large, network(x, LAM).repeat(1, 1, 2, 3), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(34, 34), (33, 32), (7, 7), (2, 2)])
def test_sides_that_are_no_multiple_are_wrapped(network: UNet, shape: tuple[int, int]) -> None:
    x = field(*shape)
    out = network(x, LAM)
    assert out.shape == x.shape
    moved = network(torch.roll(x, (2, 2), (2, 3)), LAM)
    # A shift by the patch is a symmetry here up to the far ends of the wrapping.
    assert torch.isfinite(moved).all()


WRAPPED = [(5, 7), (4, 2), (1, 6), (2, 1), (1, 1), (3, 4, 2), (1, 2, 1)]


@pytest.mark.parametrize("sides", WRAPPED)
def test_wrapping_is_circular_padding(sides: tuple[int, ...]) -> None:
    """Value and gradient, in two and three dimensions, down to sides of one site.

    Planted, seen to fail: the gradients of the two edges exchanged.
    """
    random = torch.Generator().manual_seed(2)
    x = torch.randn((2, 3, *sides), generator=random, dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.functional.pad(x, [1] * (2 * len(sides)), mode="circular")
    found = _Wrapped.apply(x)
    assert torch.equal(found, wanted)
    slope = torch.randn(wanted.shape, generator=random, dtype=torch.float64)
    both = [torch.autograd.grad((y * slope).sum(), x)[0] for y in (found, wanted)]
    assert torch.allclose(*both, rtol=1e-12)
    assert torch.autograd.gradcheck(_Wrapped.apply, x[:1, :1].detach().requires_grad_())


@pytest.mark.parametrize("sides", [(5, 8), (2, 1), (4, 6, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_on_a_torus_are_pytorchs(sides: tuple[int, ...], stride: int) -> None:
    d, random = len(sides), torch.Generator().manual_seed(3)
    options = {"kernel_size": 3, "stride": stride, "padding": 1, "padding_mode": "circular"}
    ours, theirs = (kind[d](2, 3, **options).double() for kind in (_TORUS, _CONV))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn((2, 2, *sides), generator=random, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(6, 12), (3, 3), (2, 12), (18, 5), (1, 1)])
def test_small_tori_are_repeated(network: UNet, shape: tuple[int, int]) -> None:
    """A torus of few sites, some times over, is an endless one: it looks the same from farther off.

    Against the torus extended by hand by 32 sites and more to each side, which is beyond what the
    output at a site depends on. Planted, seen to fail: zeros beyond.
    """
    x, m = field(*shape), TINY.multiple
    assert any(side % m for side in shape)
    at = [torch.arange(-32, -32 + m * math.ceil((side + 80) / m)) % side for side in shape]
    wide = x[:, :, at[0]][:, :, :, at[1]]
    wanted = network(wide, LAM)[:, :, 32 : 32 + shape[0], 32 : 32 + shape[1]]
    assert torch.allclose(network(x, LAM), wanted, atol=1e-5)


@torch.inference_mode()
def test_a_side_that_cannot_be_repeated_has_a_margin(network: UNet) -> None:
    """Of 79 sites, which repeated were 316: within the margin it is as good as endless."""
    x, m = field(79, 8), TINY.multiple
    assert network._extended(x)[0].shape[2] <= 79 + 2 * 32 + m
    at = torch.arange(-64, -64 + m * math.ceil((79 + 144) / m)) % 79
    wanted = network(x[:, :, at], LAM)[:, :, 64 : 64 + 79]
    assert torch.allclose(network(x, LAM), wanted, atol=1e-5)


@torch.inference_mode()
def test_lambda_matters(network: UNet) -> None:
    x = field(16, 16)
    assert not torch.allclose(network(x, LAM), network(x, 4 * LAM), atol=1e-3)


def wide(config: NetworkConfig, basis: str = "dft") -> UNet:
    """Return a random network from 4 numbers per site to 3."""
    torch.manual_seed(5)
    network = UNet(config, inputs=4, outputs=3, basis=basis).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@torch.inference_mode()
def test_several_numbers_a_site() -> None:
    x = torch.randn((2, 4, 16, 24), generator=torch.Generator().manual_seed(1))
    out = wide(TINY)(x, torch.tensor([0.5, 4.0]))
    assert out.shape == (2, 3, 16, 24)
    alone = wide(TINY)(x[1:], torch.tensor([4.0]))
    assert torch.allclose(out[1:], alone, atol=1e-4)


@torch.inference_mode()
def test_an_untrained_network_says_nothing() -> None:
    x = field(16, 16)
    assert not UNet(TINY)(x, LAM).any()


@torch.inference_mode()
def test_open_edges_do_not_wrap() -> None:
    """What is at one edge is felt at the opposite one on a torus alone."""
    x = torch.zeros((1, 4, 64, 64))
    other = x.clone()
    other[..., 0] = 3.0
    for basis, felt in (("dft", True), ("dct", False)):
        network = wide(NetworkConfig(2, (8,), (1,), 16), basis)
        moved = (network(x, LAM) - network(other, LAM)).abs()
        assert bool(moved[..., -1].max() > 1e-4) is felt
        assert network(x[..., :35, :33], LAM).shape == (1, 3, 35, 33)


@pytest.mark.parametrize("change", [{"patch": 0}, {"channels": (8,)}, {"blocks": (1, 0)}])
def test_networks_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(
        BadInput, match=next(iter(change)) if "channels" not in change else "blocks"
    ):
        NetworkConfig(**change)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize(("level", "inputs", "even"), [(0, 7, 2), (1, 8, 3)])
def test_numbers_beside_the_fields_count_over_grids_alone(
    level: int, inputs: int, even: int
) -> None:
    """The last inputs: their mean changes the output, where they are does not; on one grid neither.

    Planted, seen to fail: numbers that are not told; inputs that the convolutions see.
    """
    torch.manual_seed(1)
    x = torch.randn(1, inputs, 16, 16)
    spread = torch.zeros_like(x)
    spread[:, -even:, ::2] = 0.3
    spread[:, -even:, 1::2] = -0.3
    x[:, -even:] = 0.5
    for grids in (True, False):
        network = TINY.build("logits", "dft", grids=grids)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        if not grids and level:
            continue
        plain, same = network(x, LAM, level), network(x + spread, LAM, level)
        more = network(x + (torch.arange(inputs) >= inputs - even)[:, None, None] * 0.2, LAM, level)
        assert torch.allclose(plain, same, atol=1e-5)
        assert torch.equal(plain, more) != grids


@pytest.mark.parametrize(("shape", "orders"), [((4, 4, 4), 6), ((4, 4, 8), 2), ((4, 8), 1)])
def test_turns_are_drawn_alike(shape: tuple[int, ...], orders: int) -> None:
    """Those in training and those along a chain; 600 draws, chi^2 of p > 1e-3 (seeded).

    Planted, seen to fail: a transposition of each pair of axes, drawn one after the other.
    """
    assert len(turns(shape)) == orders
    found = [tuple(_Symmetry(Streams.of(1, i), shape, SYMMETRIES, None).order) for i in range(600)]
    field, random = torch.arange(float(np.prod(shape))).reshape(1, *shape), torch.Generator()
    seen = [symmetry(field, random, ["turn"], dimension=len(shape)) for _ in range(600)]
    for drawn in (found, [tuple(one.flatten().tolist()) for one in seen]):
        counts = [drawn.count(one) for one in {*drawn}]
        assert len(counts) == orders
        assert scipy.stats.chisquare(counts).pvalue > 1e-3 or orders == 1
