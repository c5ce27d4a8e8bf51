"""Posterior means of spins by mean-field iterations, with everything known about X_t in them.

Given X_t, spins s have p(s | X_t) ~ p(s) exp(h s - s K s / 2) with, mode by mode,
h = sqrt(abar) X_t / ((1 - abar) P) and K = abar / ((1 - abar) P): an Ising model in a field, whose
couplings J = J_prior - K are known up to the prior's. The equations of Thouless, Anderson and
Palmer (Phil. Mag. 35, 593 (1977)),

    m_i = tanh(h_i + sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2)),

give the means where X_t holds most spins in place: on critical Ising lattices within 4e-5 nats a
site below lambda = 0.5. With c = 1 a spin's reaction on itself goes along pairs alone. By larger
loops too, which K has at every length, it is R(chi) m_i in place of chi m_i sum_j J_ij^2, where
chi = <1 - m^2> and R(chi) = L - 1 / chi with L from chi = <1 / (L - J_k)>_k: exact for couplings
with random eigenvectors (Parisi and Potters, J. Phys. A 28, 5267 (1995); Opper and Winther, Phys.
Rev. E 64, 056131 (2001)); c is the ratio of the two. J_prior is learned from the data
(`couplings`). Where spins are free to move together the network corrects both the start and the
field of the iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skild_phys.skild.couplings import Couplings
from skild_phys.skild.draw import MOST
from skild_phys.skild.process import Process

RATE, MOMENTUM = 0.7, 0.2
"""Of the damped iteration: m += RATE (tanh(l / 2) - m) + MOMENTUM (m - m before)."""

LOOPS, NEAREST, FARTHEST = 12, 0.5, 1e3
"""Entries of the table of c, and how far its L are from the largest J_k. Nearer than that chi is
larger than it is where an iteration ends, and c returns to 1."""
FAINT = 1e-6
"""Sum of squared couplings up to which c is 1: there is no reaction to speak of."""

SILENT = 1e-30
"""Root mean square of what X_t still shows of the fields below which its whitened field is 0, not
the quotient of two numbers that float32 cannot hold."""

REMEMBERED = 2**22
"""Sites times lambdas of which what evidence is made of is kept, 10 bytes each."""

ANSWERS = 2
"""Iterations after a part of the spins has been drawn: neighbours hold most of what is left."""

Means = Callable[[Tensor], Tensor]
"""Logits (n, Ly, Lx) -> E[s] under whatever constraint holds."""


def half_tanh(logits: Tensor) -> Tensor:
    """Return the mean of a free spin, tanh(logit / 2)."""
    return torch.tanh(0.5 * logits)


@dataclass(frozen=True)
class Evidence:
    """What X_t says of the spins.

    Attributes
    ----------
    field : h, (n, Ly, Lx).
    wiener : sqrt(abar) X_t, the mean of x0 were it Gaussian, (n, Ly, Lx).
    whitened : sqrt(abar) X_t / sqrt(P), scaled to a mean square near 1: the same with all wave
        numbers that are left equally loud, (n, Ly, Lx). 0 where none is left (`SILENT`).
    kernels : DFT of J and of J^2 without their parts at r = 0, (n or 1, 2, *modes).
    loops : a table of chi, increasing, and of c, (n or 1, 2, LOOPS).
    """

    field: Tensor
    wiener: Tensor
    whitened: Tensor
    kernels: Tensor
    loops: Tensor


@dataclass(frozen=True)
class _AtLambda:
    """What evidence is made of, whatever X_t is: factors of its modes (n or 1, *modes)."""

    cosine: Tensor
    gain: Tensor
    whitening: Tensor
    kernels: Tensor
    loops: Tensor


def _interpolated(table: Tensor, at: Tensor) -> Tensor:
    """Return the values (n,) at `at` (n,) of a table (n or 1, 2, entries), constant beyond it."""
    x, y = table.unbind(dim=1)
    width = x.diff()
    along = (at[:, None] - x[:, :-1]).clamp(min=0.0).minimum(width)
    return y[:, 0] + (along * (y.diff() / width)).sum(dim=1)


class MeanField:
    """The iteration for lattices of one shape.

    Parameters
    ----------
    process : in the DFT basis; the field's mean square is the spins', 1.
    couplings : of the prior.
    """

    def __init__(self, process: Process, couplings: Couplings) -> None:
        self.process, self.shape = process, process.shape
        device = process.kappa2.device
        self.prior = torch.as_tensor(couplings.transfer(process.shape), device=device)
        self.weight = torch.as_tensor(process.basis.weight, device=device)
        self._sites = float(math.prod(process.shape))
        self._remembered: dict[float, _AtLambda] = {}

    def _real(self, modes: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft2(modes, s=self.shape)
        return out

    def evidence(self, xt: Tensor, lam: Tensor) -> Evidence:
        """Return what fields `xt` (n, Ly, Lx) at `lam` (n,), or (1,) for all, say of the spins."""
        at = self._recalled(lam) if len(lam) == 1 else self._at(lam.double())
        wiener = torch.fft.rfft2(xt) * at.cosine
        return Evidence(
            self._real(wiener * at.gain),
            self._real(wiener),
            self._real(wiener * at.whitening),
            at.kernels,
            at.loops,
        )

    def _recalled(self, lam: Tensor) -> _AtLambda:
        """Return `_at` of one lambda: the lambdas of a chain are those of the next."""
        one = float(lam)
        found = self._remembered.get(one)
        if found is None:
            # Under inference mode tensors would be made that no gradient may ever pass.
            with torch.inference_mode(False), torch.no_grad():
                at = torch.tensor([one], dtype=torch.float64, device=self.prior.device)
                found = self._at(at)
            if (len(self._remembered) + 1) * self._sites > REMEMBERED:
                self._remembered.clear()
            self._remembered[one] = found
        return found

    def _at(self, lam: Tensor) -> _AtLambda:
        p, at = self.process, lam[:, None, None]
        abar = torch.exp(-p.kappa2 * at)
        gain = 1.0 / (-torch.expm1(-p.kappa2 * at) * p.power)
        loudness = ((abar * self.weight).sum((-2, -1), keepdim=True) / self._sites).sqrt().float()
        couplings = self.prior - abar * gain
        by_site = self._real(couplings.to(torch.complex128))
        couplings = couplings - by_site[:, :1, :1]
        by_site[:, 0, 0] = 0.0
        squares = torch.fft.rfft2(by_site**2).real
        loops = self._loops(couplings, squares[:, 0, 0])
        return _AtLambda(
            abar.sqrt().float(),
            gain.float(),
            torch.where(loudness > SILENT, 1.0 / (p.amplitude * loudness), 0.0),
            torch.stack([couplings, squares], dim=1).float(),
            loops.float(),
        )

    def _loops(self, couplings: Tensor, squares: Tensor) -> Tensor:
        """Return chi and c, (n, 2, LOOPS); `squares` (n,) is sum_j J_ij^2."""
        top, table = couplings.amax((-2, -1)), []
        for gap in np.geomspace(FARTHEST, NEAREST, LOOPS - 1):
            at = top + float(gap)
            chi = (self.weight / (at[:, None, None] - couplings)).sum((-2, -1)) / self._sites
            c = torch.where(squares > FAINT, (at - 1.0 / chi) / (chi * squares), 1.0)
            table.append(torch.stack([chi, c], dim=1))
        table.append(torch.stack([2.0 * chi, torch.ones_like(chi)], dim=1))
        return torch.stack(table, dim=2)

    def couplings_by_site(self, evidence: Evidence) -> Tensor:
        """Return J (n or 1, Ly, Lx) by the displacement between two sites."""
        return self._real(evidence.kernels[:, 0].to(torch.complex64))

    def coupled(self, evidence: Evidence, m: Tensor) -> Tensor:
        """Return sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2), (n, Ly, Lx)."""
        pull, unknown = self._parts(evidence, m)
        return pull - m * unknown

    def _parts(self, evidence: Evidence, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return sum_j J_ij m_j, and c sum_j J_ij^2 (1 - m_j^2): what is unknown of the others."""
        left = 1.0 - m * m
        both = torch.fft.rfft2(torch.stack([m, left], dim=1)) * evidence.kernels
        pull, unknown = self._real(both).unbind(dim=1)
        share = _interpolated(evidence.loops, left.detach().mean((-2, -1)))
        return pull, share[:, None, None] * unknown

    def given(
        self, evidence: Evidence, logits: Tensor, known: Tensor, spins: Tensor, means: Means
    ) -> Tensor:
        """Return the logits of the other sites once those in `known` (bool) hold `spins`.

        `logits` are those before. What they have beyond the mean field's (from the network, from a
        constraint) fades as the others of a site become known: where all are, what is left is
        exact, 2 (h_i + sum_j J_ij s_j). Known sites get +-MOST.
        """
        m = means(logits)
        pull, unknown = self._parts(evidence, m)
        beyond = logits - 2.0 * (evidence.field + pull - m * unknown)
        m = torch.where(known, spins, m)
        for step in range(ANSWERS):
            pull, left = self._parts(evidence, m)
            share = (left / unknown.clamp(min=1e-12)).clamp(0.0, 1.0)
            moved = 2.0 * (evidence.field + pull - m * left) + share * beyond
            moved = torch.where(known, MOST * spins, moved)
            if step + 1 < ANSWERS:
                m = torch.where(known, spins, means(moved))
        return moved

    def iterate(
        self,
        evidence: Evidence,
        m: Tensor,
        steps: int,
        field: Tensor | float = 0.0,
        means: Means = half_tanh,
    ) -> Tensor:
        """Return the logits 2 (h + field + coupled(m)) after `steps` iterations from means `m`.

        `means` turns logits into means.
        """
        before, applied = m, evidence.field + field
        logits = m
        for step in range(steps):
            logits = 2.0 * (applied + self.coupled(evidence, m))
            if step + 1 < steps:
                new = means(logits)
                m, before = m + RATE * (new - m) + MOMENTUM * (m - before), m
        return logits
