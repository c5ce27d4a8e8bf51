"""How a chain of SKILD runs: its steps, and the lambdas that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput, check_whole

if TYPE_CHECKING:
    from skild_phys.rules import Rule
    from skild_phys.skild.equations import Step
    from skild_phys.skild.weights import Weights

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """How a chain runs; what is None follows from where it starts and from the weights.

    Attributes
    ----------
    steps : network evaluations per sample (`schedule.restarting_lambdas`).
    sampler : of `equations.STEPS`, or a step of one's own.
    restarts : how often the chain goes back up (`schedule.restarting_lambdas`).
    lambda_start, lambda_end : its ends.
    """

    steps: int | None = field(
        default=None,
        metadata={"help": "Network evaluations per sample.  [default: by where it starts]"},
    )
    sampler: str | Step | None = field(
        default=None,
        metadata={
            "help": "stochastic, ancestral (the paper's), angle1 or angle2.  [default: stochastic;"
            " images: ancestral for eps, angle2 for v]"
        },
    )
    restarts: int | None = field(
        default=None,
        metadata={
            "help": "Times the chain goes back up.  [default: refine 2, or 0 with few steps or"
            " another sampler; generate 0]"
        },
    )
    lambda_start: float | None = field(
        default=None, metadata={"help": "Where it starts, in sites squared."}
    )
    lambda_end: float | None = field(
        default=None, metadata={"help": "Where its last network evaluation is."}
    )

    def __post_init__(self) -> None:
        from skild_phys.skild.equations import make_step

        if self.steps is not None:
            check_whole("steps", self.steps)
        if self.sampler is not None:
            make_step(self.sampler)
        for name in ("lambda_start", "lambda_end"):
            if not isinstance(value := getattr(self, name), Real | None):
                raise BadInput(name, value, "a number")

    def refining(self, weights: Weights, rule: Rule, factor: int) -> Array:
        """Return the lambdas of a chain that refines by `factor`; raises BadInput.

        It starts where the coarse lattice's finest mode is erased, or farther out, as far as the
        weights have seen, for rules that say less.
        """
        from skild_phys.skild.schedule import check_restarts, starting_lambda, usual_restarts

        tuning, start, end = weights.tuning, self.lambda_start, self.lambda_end
        if start is None:
            scale = tuning.start_scale.get(rule.name, rule.start_scale)
            wanted = starting_lambda(factor, scale)
            start = max(starting_lambda(factor), min(wanted, weights.lambda_range[1]))
        if end is None and weights.output == "logits":
            own = tuning.rule_end.get(rule.name, rule.end_lambda)
            end = None if own is None else max(own, weights.lambda_range[0])
        sampler = self.sampler or "stochastic"
        restarts = usual_restarts(self.restarts, self.steps, sampler, tuning)
        lambdas = weights.lambdas(start, end, self.steps, restarts)
        check_restarts(lambdas, self.restarts, tuning)
        return lambdas

    def generating(
        self, weights: Weights, shape: tuple[int, int], factor: int | None
    ) -> tuple[Array, list[str]]:
        """Return the lambdas of a chain from noise, or from a truth, and what is to be minded.

        From noise it starts where no mode is left, or at the largest lambda that the weights have
        seen; from a truth where refinement by `factor` would. Raises BadInput.
        """
        from skild_phys.skild.schedule import check_restarts, starting_lambda, usual_restarts
        from skild_phys.skild.spectrum import make_basis
        from skild_phys.skild.weights import refining_lambda

        start, sampler = self.lambda_start, self.sampler or weights.usual_sampler
        if start is None and factor is not None:
            start = (
                refining_lambda(weights, factor) if weights.channels else starting_lambda(factor)
            )
        elif start is None:
            start = weights.largest_lambda(make_basis(weights.basis, shape).lowest)
        restarts = usual_restarts(self.restarts or 0, self.steps, sampler, weights.tuning)
        lambdas = weights.lambdas(start, self.lambda_end, self.steps, restarts)
        check_restarts(lambdas, restarts, weights.tuning)
        return lambdas, weights.warnings(shape, start)
