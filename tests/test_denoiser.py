"""The output of the network, of each kind, and its use."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from skild_helpers import NEIGHBOURS, POWER_LAW, TINY, critical_lattices, tiny_weights, white
from torch.nn.functional import softplus

from skild_phys.rules import coarsen
from skild_phys.rules.conditions import Blocks
from skild_phys.skild.equations import Process, field_target, y0_from_output
from skild_phys.skild.losses import _spin_surrogate
from skild_phys.skild.networks import OUTPUTS
from skild_phys.skild.spectrum import BASES
from skild_phys.skild.spins import MeanField, SpinLogits, half_tanh, spin_logits

FIELD_OUTPUTS = [kind for kind in OUTPUTS if kind != "logits"]


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("kind", FIELD_OUTPUTS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 6)])
def test_what_is_trained_gives_back_y0(name: str, kind: str, shape: tuple[int, int]) -> None:
    """Each output, as the network is trained to give it, is Y_0 again where cos > 0.001."""
    process, lam = Process(POWER_LAW, shape, basis=name), torch.tensor([0.01, 0.1, 0.3])
    x0, noise = white(3, shape, 1), white(3, shape, 2)
    y = process.modes(process.forward(x0, lam, noise))
    target = field_target(kind, process, x0, noise, lam)
    assert target.shape == x0.shape
    y0 = y0_from_output(target, kind, process, y, lam)
    # 1 / cos, up to 20 here, magnifies the rounding of eps.
    assert (y0 - process.modes(x0)).abs().max() < (1e-3 if "eps" in kind else 1e-4)


@pytest.mark.parametrize("name", BASES)
def test_targets_of_noise(name: str) -> None:
    """eps has the spectrum P, white_eps and v are white: mean squares over sites."""
    n, shape = 400, (12, 10)
    process, lam = Process(POWER_LAW, shape, basis=name), torch.full((400,), 0.8)
    x0, noise = process.gaussian(white(n, shape, 1)), white(n, shape, 2)
    total = float((process.power.numpy() * process.basis.weight).sum()) / 120
    for kind, want in (("eps", total), ("white_eps", 1.0), ("x0", total), ("v", 1.0)):
        target = field_target(kind, process, x0, noise, lam)
        assert float(target.square().mean()) == pytest.approx(want, rel=0.1)


def test_the_inversion_of_eps_is_bounded_where_nothing_is_left() -> None:
    process, lam = Process(POWER_LAW, (8, 8)), torch.tensor([1000.0])
    y, nothing = process.white(white(1, (8, 8), 1)), torch.zeros(1, 8, 8)
    y0 = y0_from_output(nothing, "eps", process, y, lam)
    assert torch.allclose(y0, 1e6 * y)


def test_which_outputs_change_sign_with_the_field() -> None:
    for output in OUTPUTS:
        network = TINY.build(output, "dft")
        assert network.outputs == len(OUTPUTS[output].odd)
    assert OUTPUTS["logits"].odd == (True, False, True, False)


def silent(features: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    return torch.zeros((len(features), 4, *features.shape[2:]))


@pytest.fixture
def model() -> MeanField:
    return MeanField(Process(POWER_LAW, (16, 16)), NEIGHBOURS)


def noisy(model: MeanField, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return critical lattices and their X_t."""
    x0 = torch.from_numpy(critical_lattices(len(lam), 16).astype(np.float32))
    return x0, model.process.forward(x0, lam, white(len(lam), (16, 16), 3))


def test_spins_can_be_read_off_where_little_is_erased(model: MeanField) -> None:
    lam = torch.full((8,), 0.07)
    x0, xt = noisy(model, lam)
    for sight in (None, silent):
        found = spin_logits(sight, model, xt, lam)
        assert float(softplus(-x0 * found.logits).mean()) < 0.01
    # One lambda for all is the same.
    assert torch.allclose(spin_logits(None, model, xt, lam[:1]).logits,
                          spin_logits(None, model, xt, lam).logits, atol=1e-4)  # fmt: skip


@torch.inference_mode()
def test_logits_change_sign_with_the_field(model: MeanField) -> None:
    """The mean field is odd; a network whose outputs have the given parities is too."""
    lam = torch.full((4,), 1.0)
    _, xt = noisy(model, lam)
    network = tiny_weights().build(dtype=torch.float32)
    signs = torch.tensor([1.0 if odd else 0.0 for odd in OUTPUTS["logits"].odd])[:, None, None]

    def sight(features: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        there, back = network(features, at), network(-features, at)
        outputs: torch.Tensor = 0.5 * (there + (1.0 - 2.0 * signs) * back)
        return outputs

    for look in (None, sight):
        there, back = (spin_logits(look, model, x, lam).logits for x in (xt, -xt))
        assert torch.allclose(there, -back, rtol=1e-3, atol=2e-3 * float(there.abs().max()))


def test_the_gradient_is_that_of_the_cross_entropy(model: MeanField) -> None:
    """Without a condition: of softplus(-s l), a mean over sites, and a share of the draft's."""
    lam = torch.tensor([0.3, 1.0, 4.0])
    x0, xt = noisy(model, lam)
    found = spin_logits(silent, model, xt, lam)
    gradients = []
    for loss in (
        lambda a, b: _spin_surrogate(SpinLogits(a, b, found.likelihood), x0, half_tanh),
        lambda a, b: (softplus(-x0 * a) + 0.1 * softplus(-x0 * b)).mean(),
    ):
        both = found.logits.clone().requires_grad_(), found.draft.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(*both), both))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-8)


def test_the_gradient_under_a_condition(model: MeanField) -> None:
    """Of -ln p(block | its sum) in the logits, by enumeration of 2 x 2 blocks."""
    x0 = torch.from_numpy(critical_lattices(2, 4).astype(np.float32))
    raw = coarsen(x0.numpy().astype(np.int8), "block_mean", 2)
    logits = white(2, (4, 4), 3).requires_grad_()
    bound = Blocks(raw, 2)
    no_draft = torch.zeros_like(logits)
    likelihood = model.likelihood(white(1, model.process.shape, 1), torch.tensor([1.0]))
    loss = _spin_surrogate(SpinLogits(logits, no_draft, likelihood), x0, bound.means)
    (told,) = torch.autograd.grad(loss, logits)
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    exact = torch.zeros(())
    for i, y, x in itertools.product(range(2), range(2), range(2)):
        block = slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2)
        ls, truth = logits[i][block].flatten(), x0[i][block].flatten()
        allowed = states[states.sum(1) == float(raw[i, y, x])]
        exact = exact + torch.logsumexp(allowed @ ls / 2, 0) - (truth * ls).sum() / 2
    (want,) = torch.autograd.grad(exact / 32, logits)
    assert torch.allclose(told, want, atol=1e-6)


def test_known_block_sums_make_logits_better(model: MeanField) -> None:
    """Cross-entropy under the condition is far below that of the free field, where spins are."""
    lam = torch.full((8,), 4.0)
    x0, xt = noisy(model, lam)
    bound = Blocks(coarsen(x0.numpy().astype(np.int8), "block_mean", 4), 4)
    error = []
    for means in (half_tanh, bound.means):
        found = spin_logits(None, model, xt, lam, means)
        error.append(float((means(found.logits) - x0).square().mean()))
    assert error[1] < 0.8 * error[0]
    seen: list[torch.Tensor] = []

    def look(features: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(features[:, 4])
        return silent(features, at)

    spin_logits(look, model, xt, lam, bound.means, bound.alone(xt))
    spin_logits(look, model, xt, lam)
    assert torch.equal(seen[0], bound.alone(xt))
    assert seen[1].count_nonzero() == 0
    assert torch.equal(spin_logits(silent, model, xt, lam, half_tanh).logits,
                       spin_logits(silent, model, xt, lam).logits)  # fmt: skip
