from __future__ import annotations

import pytest
import torch
from skild_helpers import TINY, tiny_weights

from skild_phys.skild.network import UNet

LAM = torch.tensor([0.5])


@pytest.fixture
def network() -> UNet:
    return tiny_weights().build(dtype=torch.float32)


def field(*shape: int) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_a_shift_of_the_torus_shifts_the_output(network: UNet) -> None:
    x = field(32, 32)
    shift = (TINY.multiple, 3 * TINY.multiple)
    moved = network(torch.roll(x, shift, (1, 2)), LAM)
    assert torch.allclose(moved, torch.roll(network(x, LAM), shift, (1, 2)), atol=1e-4)


@torch.inference_mode()
def test_a_periodic_pattern_looks_the_same_on_every_lattice_size(network: UNet) -> None:
    x = field(16, 24)
    large = network(x.repeat(1, 2, 3), LAM)
    assert torch.allclose(large, network(x, LAM).repeat(1, 2, 3), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(34, 34), (33, 32), (7, 7), (2, 2)])
def test_sides_that_are_no_multiple_are_wrapped(network: UNet, shape: tuple[int, int]) -> None:
    x = field(*shape)
    out = network(x, LAM)
    assert out.shape == x.shape
    moved = network(torch.roll(x, (2, 2), (1, 2)), LAM)
    # A shift by the patch is a symmetry here up to the far ends of the wrapping.
    assert torch.isfinite(moved).all()


@torch.inference_mode()
def test_lambda_matters(network: UNet) -> None:
    x = field(16, 16)
    assert not torch.allclose(network(x, LAM), network(x, 4 * LAM), atol=1e-3)
