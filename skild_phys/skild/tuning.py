"""Numbers that were tuned, not derived, each with how it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tuning:
    """Numbers of the chain and of the spin denoiser that suit one system.

    They belong to the weights and are kept in their record where they differ from the defaults.
    These were chosen on critical 2D Ising configurations of 64^2 and 128^2, by trial on tuning
    configurations that no result is reported on (`simulations/ising2d-weights.md`), and never
    change: weights without a record mean them. Lambda is in sites squared.

    Attributes
    ----------
    lambda_end : last network evaluation of a chain. X_t shows all but 1 spin in 100 there.
    rule_end, start_scale : by rule, `Rule.end_lambda` and `Rule.start_scale` where they are other
        than the rule's own.
    restart, turn, low : a restart goes from `turn` back up to `restart`, and the chain at last from
        `low` to its end: what is wrong above is made good by a few evaluations. The shipped
        weights evaluate no network from `turn` down.
    again, tail : evaluations of a restart, and of the end; the others go where the start is.
    restarts : of a chain that refines.
    stride, fine_stride : largest distance in log lambda between evaluations of a chain that
        restarts (as far as `turn`), and of one that falls all the way.
    alone, first, second, parts : mean-field iterations without a network, before and after it, and
        after a part of the spins has been sampled.
    rate, momentum : of the damped iteration, m += rate (tanh(l / 2) - m) + momentum (m - m before):
        after 8 iterations at lambda = 0.59 five times nearer its end than with 0.4 and 0.3.
    sure : lambda below which the sign of sqrt(abar) X_t is the spin at all but a few sites; only a
        start at the spins themselves converges there.
    sharper : how much more X_t says of spins than of a Gaussian field (1 for that) in the posterior
        spectrum: within 0.05 of it free at lambda = 4 .. 36, or with majorities of 4 and 8.
    modes_above : lambda above which Fourier modes are sampled in place of spins, unless block sums
        are known: there spins sampled in parts have too little power (0.6 of it at lambda = 12).
    same_temperature : largest relative distance from the weights' temperature that is refined
        without being told.
    poor_misfit : share of the input's rms that the low-pass field of refined spins may be off by
        before a warning asks whether the input is of this system; the shipped weights reach 0.08.
    """

    lambda_end: float = 0.1
    rule_end: Mapping[str, float] = field(default_factory=dict)
    start_scale: Mapping[str, float] = field(default_factory=dict)
    restart: float = 1.5
    turn: float = 0.44
    low: float = 0.35
    again: int = 3
    tail: int = 3
    restarts: int = 2
    stride: float = 0.75
    fine_stride: float = 0.45
    alone: int = 8
    first: int = 4
    second: int = 2
    parts: int = 2
    rate: float = 0.7
    momentum: float = 0.2
    sure: float = 0.05
    sharper: float = 1.9
    modes_above: float = 2.0
    same_temperature: float = 0.005
    poor_misfit: float = 0.2


USUAL = Tuning()
"""What weights without a record of their own mean."""
