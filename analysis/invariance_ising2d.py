"""How scale-invariant is the network: is one for all grids as good as a network for each?

Configurations of SIDE^2 are seen on grids of spacing 1, 2, 4 .. at the lambdas that each serves.
At Tc and at 1.1 Tc these networks learn to predict the field there, all from as many samples of
each grid:

- `shared`: one network, which is not told the grid;
- `told`: one network that is told the grid (spacings 1, 2, 4, and coarser ones as one);
- `alone S`: a network that has seen the grid of spacing S alone.

Each is measured on every grid: its loss on held-out configurations, at lambdas and with noise that
are the same for all. The loss weighs modes by how far a step of a chain moves them. What counts is
by how much it is below that of v = 0, the best for who knows no more than P(k), about 1.02.
Differences are paired.

    python analysis/invariance_ising2d.py runs/invariance --steps 7000
        -> invariance_ising2d.csv, .md

A finished network is not trained again.
"""

# %% What is needed
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from study import Study, kept, signed

from skild_phys.models import MODELS
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.equations import Process, evaluate_fields, field_loss, field_target
from skild_phys.skild.levels import coarser_grids
from skild_phys.skild.losses import Batch, stratified
from skild_phys.skild.measured import measure
from skild_phys.skild.networks import NetworkConfig
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.train import Trainer

POWER = "P(k) alone"


# %% Conclusions
def matrix(own: pd.DataFrame) -> str:
    """Return a Markdown table of losses minus P(k)'s, a line for each network."""
    spacings = sorted(own["spacing"].unique())
    lines = [["network", *(f"spacing {s:g}" for s in spacings)], ["---"] * (1 + len(spacings))]
    for name, line in own[own["network"] != POWER].groupby("network", sort=False):
        at = line.set_index("spacing")
        cells = [signed(*at.loc[s, ["over_power", "over_power_err"]]) for s in spacings]
        lines.append([str(name), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def verdict(table: pd.DataFrame) -> list[str]:
    """Return the losses by network and grid, and what sharing costs."""
    said = []
    for relative, own in table.groupby("T / Tc"):
        steps, side = own["steps"].iloc[0], own["L"].iloc[0]
        what = "Held-out loss, minus that of P(k) alone"
        said.append(f"T = {relative:g} Tc, {side}^2, {steps} steps. {what}:")
        said.append(matrix(own))
        for name in ("shared", "told"):
            lines = own[own["network"] == name].sort_values("spacing")
            costs = [f"{signed(line['excess'], line['excess_err'])} at spacing {line['spacing']:g}"
                     for _, line in lines.iterrows()]  # fmt: skip
            said.append(f"{name}, minus a network of each grid alone: {', '.join(costs)}.")
        alone = own[own["network"].str.startswith("alone")]
        away = alone[alone["network"] != "alone " + alone["spacing"].map("{:g}".format)]
        worst = away.loc[away["excess"].idxmax()]
        excess = signed(worst["excess"], worst["excess_err"])
        said.append(
            "On grids that they have not seen, networks of one grid are off by"
            f" {away['excess'].median():.4f} in the median, by {excess} at most"
            f" ({worst['network']} at spacing {worst['spacing']:g})."
        )
    return said


# %% What is run
study = Study(
    __file__,
    __doc__,
    verdict,
    "runs/invariance",
    side=64,
    steps=7000,
    batch=64,
    sites=8192,
    held=1024,
)
SIDE, HELD, FOLDER = study.options.side, study.options.held, study.options.folder
SEED, TC = 20270211, MODELS["ising2d"].critical_temperature
TEMPERATURES = (1.0, 1.1)
SIDES = [(SIDE, SIDE), *(sides for sides, _ in coarser_grids((SIDE, SIDE), "dft"))]
SHAPE = NetworkConfig(patch=2, channels=(32, 64), blocks=(1, 2), embedding=64)
RECIPE = Recipe(
    output="v",
    spectrum="torus",
    side=SIDE,
    batch=study.options.batch,
    steps=study.options.steps,
    sites=study.options.sites,
    learning_rate=1.5e-3,
    warmup=min(200, study.options.steps // 4),
    decay_fraction=0.5,
    ema=0.995,
    quality_every=0,
    spectrum_batches=8 * study.options.batch,
    seed=SEED,
    network=SHAPE,
)


# %% The loss on a few grids
Network = Callable[..., torch.Tensor]
"""(features, lam, level) -> outputs."""


class OnGrids:
    """The mean loss of v over `levels`, the lattice's own among them.

    Unlike `GridLoss` it takes spins for a field on the lattice too, so that all grids are one
    problem. A grid has as many samples whatever other grids there are.
    """

    divisible = False

    def __init__(self, processes: Sequence[Process], levels: Sequence[int], told: int) -> None:
        self.processes, self.levels, self.told = processes, levels, told

    def make_network(self) -> torch.nn.Module:
        return replace(SHAPE, levels=self.told).build("v", "dft")

    def draw(self, n: int, random: torch.Generator) -> tuple[torch.Tensor, None]:
        return torch.ones(n), None

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        losses = []
        for level in self.levels:
            n = max(1, RECIPE.sites // math.prod(self.processes[level].shape))
            missing, lam = self.missing(network, level, batch.x0[:n], batch.random)
            losses.append(field_loss(self.processes[level], missing, lam, "scales", octave=True))
        return torch.stack(losses).mean()

    def missing(
        self, network: Network, level: int, x0: torch.Tensor, random: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the errors of v for configurations on the grid of a level, and their lambdas."""
        process, (low, high) = self.processes[level], map(math.log, RECIPE.window)
        fields = process.fields(process.restricted(process.lattice_modes(x0)))
        lam = (low + (high - low) * stratified(len(x0), random)).exp() * process.spacing**2
        noise = torch.randn(fields.shape, generator=random)
        y = process.modes(process.forward(fields, lam, noise))
        found = evaluate_fields(functools.partial(network, level=level), "v", process, y, lam)
        return found - field_target("v", process, fields, noise, lam), lam


# %% Networks, and their losses on held-out configurations
def held_out(loss: OnGrids, network: Network, temperature: float) -> list[list[float]]:
    """Return the losses of each held-out configuration, by grid."""
    source = SimulationSource(SIDE, temperature, HELD, 0, SEED + 1)
    x0 = torch.from_numpy(source.next(HELD).astype(np.float32))
    found = []
    for level, process in enumerate(loss.processes):
        random = torch.Generator().manual_seed(SEED + level)
        # A few at once; lambdas run over the window in each part.
        parts = [loss.missing(network, level, part, random) for part in x0.split(32)]
        errors, lam = (torch.cat(one) for one in zip(*parts))
        each = [field_loss(process, errors[i : i + 1], lam[i : i + 1], "scales", octave=True)
                for i in range(HELD)]  # fmt: skip
        found.append([float(one) for one in each])
    return found


def no_more_than_power(features: torch.Tensor, lam: torch.Tensor, level: int) -> torch.Tensor:
    """Return v = 0, which is all that is known of a Gaussian field with spectrum P."""
    return torch.zeros_like(features[:, :1])


def losses(relative: float, levels: Sequence[int], told: int) -> dict:
    """Train a network on the grids `levels`; return its losses on all, by configuration."""
    temperature = relative * TC
    started = time.perf_counter()
    source = SimulationSource(SIDE, temperature, RECIPE.batch, 0, SEED)
    found = measure(source, RECIPE)
    processes = [found.process(RECIPE, (SIDE, SIDE), grid=grid) for grid in SIDES]
    loss = OnGrids(processes, levels, told)
    if not levels:
        return {"losses": held_out(loss, no_more_than_power, temperature)}
    trainer = Trainer(RECIPE, source, loss, measured=found)
    while trainer.step < RECIPE.steps:
        trainer.train_step()
        if trainer.step % 500 == 0:
            print(f"{relative:g} {levels} step {trainer.step}", file=sys.stderr, flush=True)
    network = functools.partial(trainer.evaluate, trainer.ema.module.eval())
    with torch.inference_mode():
        return {
            "losses": held_out(loss, network, temperature),
            "seconds": time.perf_counter() - started,
            "parameters": sum(p.numel() for p in trainer.network.parameters()),
        }


LEVELS = range(len(SIDES))
NETWORKS: dict[str, tuple[Sequence[int], int]] = {
    "shared": (LEVELS, 1),
    "told": (LEVELS, 4),
    **{f"alone {2**level}": ([level], 1) for level in LEVELS},
    POWER: ([], 1),
}
"""The grids that each is trained on, and how many of them it is told."""


# %% One table
def rows(relative: float) -> list[dict]:
    """Return the rows of one temperature."""
    found = {}
    for name, given in NETWORKS.items():
        path = FOLDER / f"{SIDE}-{RECIPE.steps}-{relative:g}Tc-{name.replace(' ', '-')}.json"
        found[name] = kept(path, losses, relative, *given)
        print(f"{relative:g} Tc, {name}", [f"{np.mean(x):.4f}" for x in found[name]["losses"]],
              flush=True)  # fmt: skip
    made = []
    for (name, one), level in itertools.product(found.items(), LEVELS):
        own = np.array(one["losses"][level])
        numbers = {
            "loss": own,
            "over_power": own - found[POWER]["losses"][level],
            "excess": own - found[f"alone {2**level}"]["losses"][level],
        }
        line: dict = {key: each.mean() for key, each in numbers.items()}
        line |= {f"{key}_err": x.std() / math.sqrt(HELD - 1) for key, x in numbers.items()}
        line |= {"T / Tc": relative, "network": name, "spacing": 2**level, "L": SIDE}
        share = max(1, RECIPE.sites // math.prod(SIDES[level]))
        line |= {"steps": RECIPE.steps, "samples": RECIPE.steps * min(RECIPE.batch, share)}
        made.append(line | {"seconds": one.get("seconds"), "parameters": one.get("parameters")})
    return made


torch.set_num_threads(1)
made: list[dict] = []
for relative in TEMPERATURES:
    made += rows(relative)
columns = ["T / Tc", "L", "steps", "network", "parameters", "seconds", "spacing", "samples"]
columns += ["loss", "loss_err", "over_power", "over_power_err", "excess", "excess_err"]
study.finish(pd.DataFrame(made)[columns])
