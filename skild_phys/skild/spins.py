"""What is known of spins given X_t: couplings, mean field, logits, samples.

Given X_t, spins s have p(s | X_t) ~ p(s) exp(h s - s K s / 2) with, mode by mode,

    h = sqrt(abar) X_t / ((1 - abar) P)    and    K = abar / ((1 - abar) P):

an Ising model in a field, whose couplings J = J_prior - K are known up to the prior's, which are
learned from the data (`measured.fit_couplings`). The equations of Thouless, Anderson and Palmer
(Phil. Mag. 35, 593 (1977)),

    m_i = tanh(h_i + sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2)),

give the means where X_t holds most spins in place: on critical 2D Ising configurations within 4e-5
nats per site below lambda = 0.5. With c = 1 a spin's reaction on itself goes along pairs alone. By
larger loops too, which K has at every length, it is R(chi) m_i in place of chi m_i sum_j J_ij^2,
where chi = <1 - m^2> and R(chi) = L - 1 / chi with L from chi = <1 / (L - J_k)>_k: exact for
couplings with random eigenvectors (Parisi and Potters, J. Phys. A 28, 5267 (1995); Opper and
Winther, Phys. Rev. E 64, 056131 (2001)); c is the ratio of the two. Where spins are free to move
together a network corrects both the start and the field of the iteration (`spin_logits`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rng import Streams
from skild_phys.rules.conditions import MOST, Constraint
from skild_phys.skild.chain import USUAL, Tuning
from skild_phys.skild.equations import Evaluate, Process, Step, each

# Entries of the table of c, and how far its L are from the largest J_k. Nearer than that chi is
# larger than it is where an iteration ends, and c returns to 1.
_LOOPS, _NEAREST, _FARTHEST = 12, 0.5, 1e3
_FAINT = 1e-6  # sum of squared couplings up to which c is 1: there is no reaction to speak of
# Root mean square of what X_t still shows of the fields below which its whitened field is 0, not
# the quotient of two numbers that float32 cannot hold.
_SILENT = 1e-30
_REMEMBERED = 2**22  # sites times lambdas of which `_AtLambda` is kept, 10 bytes each

Means = Callable[[Tensor], Tensor]
"""Logits (n, *shape) -> E[s] under whatever constraint holds."""


def half_tanh(logits: Tensor) -> Tensor:
    """Return the mean of a free spin, tanh(logit / 2)."""
    return torch.tanh(0.5 * logits)


@dataclass(frozen=True)
class Couplings:
    """J of a homogeneous lattice by separation.

    Attributes
    ----------
    offsets : (dy, dx) of one of each pair of opposite separations, one number an axis.
    values : J / (k_B T) at `offsets`.
    """

    offsets: tuple[tuple[int, ...], ...] = ()
    values: tuple[float, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the couplings whose `dataclasses.asdict` went through JSON."""
        offsets = tuple(tuple(map(int, offset)) for offset in record["offsets"])
        return cls(offsets, tuple(float(value) for value in record["values"]))

    def transfer(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return sum over r of J(r) cos(k r) of every rfftn mode of a torus, float64."""
        waves = [*map(np.fft.fftfreq, shape[:-1]), np.fft.rfftfreq(shape[-1])]
        total = np.zeros([k.size for k in waves])
        for offset, value in zip(self.offsets, self.values, strict=True):
            turns = [2.0 * np.pi * k * step for k, step in zip(waves, offset, strict=True)]
            total += 2.0 * value * np.cos(functools.reduce(np.add.outer, turns))
        return total


class _AtLambda(NamedTuple):
    """What a likelihood is made of, whatever X_t is: factors of its modes (n or 1, *modes)."""

    cosine: Tensor
    gain: Tensor
    whitening: Tensor
    kernels: Tensor
    loops: Tensor


class Likelihood(NamedTuple):
    """The likelihood of spins given X_t.

    Attributes
    ----------
    field : h, (n, *shape).
    wiener : sqrt(abar) X_t, the mean of x0 were it Gaussian, (n, *shape).
    whitened : sqrt(abar) X_t / sqrt(P), scaled to a mean square near 1: the same with all wave
        numbers that are left equally loud, (n, *shape). 0 where none is left.
    kernels : DFT of J and of J^2 without their parts at r = 0, (n or 1, 2, *modes).
    loops : a table of chi, increasing, and of c, (n or 1, 2, entries).
    """

    field: Tensor
    wiener: Tensor
    whitened: Tensor
    kernels: Tensor
    loops: Tensor


class MeanField:
    """The iteration for lattices of one shape, of any dimension.

    Parameters
    ----------
    process : in the DFT basis; the field's mean square is the spins', 1.
    couplings : of the prior.
    tuning : how many iterations, and how fast.
    """

    def __init__(self, process: Process, couplings: Couplings, tuning: Tuning = USUAL) -> None:
        self.process, self.shape, self.tuning = process, process.shape, tuning
        self.axes = process.basis.axes
        device = process.kappa2.device
        self.prior = torch.as_tensor(couplings.transfer(process.shape), device=device)
        self.weight = torch.as_tensor(process.basis.weight, device=device)
        self._remembered: dict[float, _AtLambda] = {}

    def _real(self, modes: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfftn(modes, s=self.shape, dim=self.axes)
        return out

    def likelihood(self, xt: Tensor, lam: Tensor) -> Likelihood:
        """Return the likelihood of spins given fields `xt` (n, *shape) at `lam`, (n,) or (1,)."""
        # The lambdas of a chain are those of the next: what is known of one of them is kept.
        at = self._remembered.get(float(lam)) if len(lam) == 1 else self._at(lam.double())
        if at is None:
            # Under inference mode tensors would be made that no gradient may ever pass.
            with torch.inference_mode(False), torch.no_grad():
                one = torch.tensor([float(lam)], dtype=torch.float64, device=self.prior.device)
                at = self._at(one)
            if (len(self._remembered) + 1) * self.process.basis.sites > _REMEMBERED:
                self._remembered.clear()
            self._remembered[float(lam)] = at
        wiener = torch.fft.rfftn(xt, dim=self.axes) * at.cosine
        field, whitened = self._real(wiener * at.gain), self._real(wiener * at.whitening)
        return Likelihood(field, self._real(wiener), whitened, at.kernels, at.loops)

    def _at(self, lam: Tensor) -> _AtLambda:
        p, axes, sites = self.process, self.axes, float(self.process.basis.sites)
        at = each(lam, self.prior[None])
        abar, erased = p.abar(at), p.erased(at) * p.power
        gain = 1.0 / erased
        loudness = ((abar * self.weight).sum(axes, keepdim=True) / sites).sqrt().float()
        # The iteration converges up to a slope (chi times the strength of the mode that X_t holds
        # most firmly) of `steepest`. On large lattices the longest waves would be beyond; they are
        # held less firmly instead, still far better than their own size. chi is at most that of a
        # Gaussian field.
        mean = ((abar * gain * self.weight).sum(axes, keepdim=True) / sites).clamp(min=0.0)
        chi = (erased * self.weight).sum(axes, keepdim=True) / sites
        steepest = 2.0 * (1.0 + self.tuning.momentum) / self.tuning.rate - 1.0
        gain = gain.minimum((mean + self.prior.max() + steepest / chi) / abar)
        couplings = self.prior - abar * gain
        by_site = self._real(couplings.to(torch.complex128))
        origin = (slice(None), *[slice(1)] * len(axes))
        couplings = couplings - by_site[origin]
        by_site[origin] = 0.0
        squares = torch.fft.rfftn(by_site**2, dim=axes).real
        loops = self._loops(couplings, squares[origin].flatten())
        return _AtLambda(
            abar.sqrt().float(),
            gain.float(),
            torch.where(loudness > _SILENT, 1.0 / (p.amplitude * loudness), 0.0),
            torch.stack([couplings, squares], dim=1).float(),
            loops.float(),
        )

    def _loops(self, couplings: Tensor, squares: Tensor) -> Tensor:
        """Return chi and c, (n, 2, _LOOPS); `squares` (n,) is sum_j J_ij^2."""
        top, table = couplings.amax(self.axes, keepdim=True), []
        for gap in np.geomspace(_FARTHEST, _NEAREST, _LOOPS - 1):
            at = top + float(gap)
            total = (self.weight / (at - couplings)).sum(self.axes)
            chi, at = total / float(self.process.basis.sites), at.flatten()
            c = torch.where(squares > _FAINT, (at - 1.0 / chi) / (chi * squares), 1.0)
            table.append(torch.stack([chi, c], dim=1))
        table.append(torch.stack([2.0 * chi, torch.ones_like(chi)], dim=1))
        return torch.stack(table, dim=2)

    def couplings_by_site(self, likelihood: Likelihood) -> Tensor:
        """Return J (n or 1, *shape) by the displacement between two sites."""
        return self._real(likelihood.kernels[:, 0].to(torch.complex64))

    def coupled(self, likelihood: Likelihood, m: Tensor) -> Tensor:
        """Return sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2), (n, *shape)."""
        pull, unknown = self._parts(likelihood, m)
        return pull - m * unknown

    def _parts(self, likelihood: Likelihood, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return sum_j J_ij m_j, and c sum_j J_ij^2 (1 - m_j^2): what is unknown of the others."""
        left = 1.0 - m * m
        both = torch.fft.rfftn(torch.stack([m, left], dim=1), dim=self.axes) * likelihood.kernels
        pull, unknown = self._real(both).unbind(dim=1)
        chi, c = likelihood.loops.unbind(dim=1)  # interpolated, constant beyond the table
        width, at = chi.diff(), left.detach().mean(self.axes)[:, None]
        along = (at - chi[:, :-1]).clamp(min=0.0).minimum(width)
        share = c[:, 0] + (along * (c.diff() / width)).sum(dim=1)
        return pull, share.reshape(-1, *[1] * len(self.axes)) * unknown

    def given(
        self, likelihood: Likelihood, logits: Tensor, known: Tensor, spins: Tensor, means: Means
    ) -> Tensor:
        """Return the logits of the other sites once those in `known` (bool) hold `spins`.

        `logits` are those before. What they have beyond the mean field's (from the network, from a
        constraint) fades as the others of a site become known: where all are, what is left is
        exact, 2 (h_i + sum_j J_ij s_j). Known sites get +-MOST.
        """
        m = means(logits)
        pull, unknown = self._parts(likelihood, m)
        beyond = logits - 2.0 * (likelihood.field + pull - m * unknown)
        m = torch.where(known, spins, m)
        for step in range(self.tuning.parts):
            pull, left = self._parts(likelihood, m)
            share = (left / unknown.clamp(min=1e-12)).clamp(0.0, 1.0)
            moved = 2.0 * (likelihood.field + pull - m * left) + share * beyond
            moved = torch.where(known, MOST * spins, moved)
            if step + 1 < self.tuning.parts:
                m = torch.where(known, spins, means(moved))
        return moved

    def iterate(
        self,
        likelihood: Likelihood,
        m: Tensor,
        steps: int,
        field: Tensor | float = 0.0,
        means: Means = half_tanh,
    ) -> Tensor:
        """Return the logits 2 (h + field + `coupled`) after `steps` iterations from means `m`.

        `means` turns logits into means.
        """
        rate, momentum = self.tuning.rate, self.tuning.momentum
        before, applied = m, likelihood.field + field
        logits = m
        for step in range(steps):
            pull, unknown = self._parts(likelihood, m)
            logits = 2.0 * (applied + pull - m * unknown)
            if step + 1 < steps:
                new = means(logits)
                m, before = m + rate * (new - m) + momentum * (m - before), m
        return logits


class SpinLogits(NamedTuple):
    """Logits given X_t, the network's draft of them, and the likelihood."""

    logits: Tensor
    draft: Tensor
    likelihood: Likelihood


def spin_logits(
    network: Evaluate | None,
    mean_field: MeanField,
    xt: Tensor,
    lam: Tensor,
    means: Means = half_tanh,
    alone: Tensor | None = None,
) -> SpinLogits:
    """Return log odds of spin up given X_t, (n, *shape).

    The network works between two runs of the mean-field iteration: it is given the first one's
    result, and the means under the constraint, and returns, for each site, a better start, a field
    for the second, and how far to trust the two.

    Parameters
    ----------
    network : the network, with symmetries if any; None for the mean field alone.
    xt, lam : (n, *shape) and (n,), or (1,) for one lambda for all.
    means : logits to means. Where a constraint holds these are the means under it: the
        mean field then carries a block's sum to its neighbours, and what comes back are
        the logits of independent sites that have yet to be sampled under the constraint.
    alone : (n, *shape), E[s] by the constraint alone, without X_t; None for none. Without it the
        network cannot tell whether it is to say what the constraint does: from majority signs of
        4 x 4 blocks at lambda = 4, E[m s] - E[m^2] of the means m was then +0.015 instead of 0.
    """
    tuning, likelihood = mean_field.tuning, mean_field.likelihood(xt, lam)
    with torch.no_grad():
        guess = likelihood.wiener.clamp(-0.98, 0.98)
        sure = lam.reshape(-1, *[1] * (xt.dim() - 1)) < tuning.sure
        guess = torch.where(sure, 0.9999 * likelihood.wiener.sign(), guess)
        start = means(2.0 * torch.atanh(guess))
        steps = tuning.first if network else tuning.alone
        first = mean_field.iterate(likelihood, start, steps, means=means)
    if network is None:
        return SpinLogits(first, first, likelihood)
    alone = torch.zeros_like(xt) if alone is None else alone
    seen = [xt, likelihood.whitened, torch.tanh(first / 2), torch.tanh(first / 8), alone]
    sites = tuple(range(1, xt.dim()))
    known = (alone.square().mean(sites, True), alone.abs().mean(sites, True))
    seen += [one.expand_as(xt) for one in known]
    draft, trust, field, weight = network(torch.stack(seen, 1), lam.expand(len(xt))).unbind(dim=1)
    draft = draft + (1.0 + trust) * first
    second = mean_field.iterate(likelihood, means(draft), tuning.second, 0.5 * field, means)
    weight = torch.sigmoid(weight)
    return SpinLogits(weight * second + (1.0 - weight) * draft, draft, likelihood)


@functools.cache
def _sites_of_cell(dimension: int) -> tuple[tuple[int, ...], ...]:
    """Return the sites of a cell of 2^d in the order in which they are sampled: even ones first."""
    return tuple(sorted(itertools.product((0, 1), repeat=dimension), key=lambda x: sum(x) % 2))


@dataclass
class SpinPosterior:
    """Spins with the logits of the denoiser, under a constraint: sampled in 2^d parts.

    Spins sampled one by one from their own means are independent: on critical 2D Ising
    configurations at lambda = 1 the energy is then off by +0.10 per site. Here one site of each
    cell of 2^d is sampled so; the next part given those, and so on, by the couplings of the mean
    field, of which the strongest lie between the parts. Then it is off by -0.003(4), and by 0.02
    instead of 0.08 where block sums are known.

    Parameters
    ----------
    found : by the denoiser.
    streams : one for each configuration.
    """

    process: Process
    found: SpinLogits
    constraint: Constraint
    mean_field: MeanField
    lam: float
    streams: Sequence[Streams]

    @property
    def flows(self) -> bool:
        """Whether the mean serves a step as well as a sample: of spins most of which are open."""
        return self.lam > self.mean_field.tuning.flow_above

    def mean(self) -> Tensor:
        return self.process.modes(self.constraint.means(self.found.logits))

    def draw(self) -> Tensor:
        spins = torch.from_numpy(self.spins().astype(np.float32))
        return self.process.modes(spins.to(self.found.logits.device))

    def last(self, step: Step, y: Tensor) -> NDArray[np.int8]:
        """Return spins: the last sample of X_0 is the answer."""
        return self.spins()

    def spins(self) -> NDArray[np.int8]:
        """Return spins (n, *shape) sampled under the constraint."""
        logits, bound = self.constraint.settled(
            self.found.logits, [stream.state for stream in self.streams]
        )
        d, device = len(self.process.shape), logits.device
        starts = np.stack([stream.noise.integers(2, size=d) for stream in self.streams])
        # Which site of its cell each site is, one number an axis; each configuration's cells start
        # at a random one.
        sites = np.moveaxis(np.indices(self.process.shape), 0, -1)
        place = torch.from_numpy((sites + starts.reshape(-1, *[1] * d, d)) % 2).to(device)
        known, left = torch.zeros(logits.shape, dtype=torch.bool, device=device), logits
        for part in _sites_of_cell(d):
            configurations = enumerate(zip(left.cpu().numpy(), self.streams, strict=True))
            spins = np.stack([bound.draw(one, i, to.state) for i, (one, to) in configurations])
            known = known | (place == torch.tensor(part, device=device)).all(-1)
            if known.all():
                break
            held = torch.from_numpy(spins.astype(np.float32)).to(device)
            left = self.mean_field.given(self.found.likelihood, logits, known, held, bound.means)
        return spins
