"""Which parts of the training recipe matter, at equal training time?

Each row changes one entry of the preset `ising2d`, with one grid for every lambda, and trains from
random initial weights for the same wall time on one thread; the learning rate is constant and then
falls to 0 over the last 45 % of that time. The measure is the mean square of E[s | X_t] - s on 32
held-out critical configurations of 128^2, at six values of lambda, given nothing else or given the
block means at factor 4. The table has its excess over the row `preset`, paired, in 1e-4.

    python analysis/trials_ising2d.py runs/trials --minutes 3 --together 2
        -> trials_ising2d.csv, .md

MINUTES is the training time per row, TOGETHER the number of rows trained at the same time. A
finished row is not trained again.
"""

# %% What is needed
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from study import Study, signed

from skild_phys.models import MODELS
from skild_phys.rules import coarsen
from skild_phys.rules.conditions import Blocks
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.equations import Process, evaluate_fields, y0_from_output
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.spins import MeanField, half_tanh, spin_logits
from skild_phys.skild.train import Trainer
from skild_phys.skild.weights import load_weights, save_weights


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the excess of each row at three values of lambda."""
    lines = ["Mean square of E[s | X_t] - s minus that of the preset, in 1e-4:"]
    for (name, known, steps), own in table.groupby(["row", "known", "steps"], sort=False):
        at = own.set_index("lambda")
        said = [f"{signed(at.loc[lam, 'excess'], at.loc[lam, 'excess_err'])} at lambda = {lam:g}"
                for lam in (1.0, 4.0, 16.0)]  # fmt: skip
        lines.append(f"{name}, given {known} ({steps} steps): {', '.join(said)}.")
    return lines


# %% What is run
study = Study(
    __file__,
    __doc__,
    verdict,
    "runs/trials",
    minutes=3.0,
    together=2,
    side=128,
    trained=64,
    rows=10,
)
FOLDER, MINUTES = study.options.folder, study.options.minutes
SEED, SIDE, FACTOR, N = 20261210, study.options.side, 4, 32
LAMBDAS = (0.6, 1.0, 2.0, 4.0, 8.0, 16.0)
TC = MODELS["ising2d"].critical_temperature
PRESET = replace(
    read_recipe("ising2d"),
    octaves=False,  # the lattice's grid alone, on which errors at every lambda are measured
    shapes=(),
    network_from=0.45,
    lambda_min=0.45,
    lambda_far=12.0,
    lambda_max=4000.0,
    far_share=0.25,
    seed=SEED,
    side=study.options.trained,
    spectrum_batches=4 * study.options.trained,
)


def shape(**changes: object) -> dict:
    """Return a change of the network's shape."""
    return {"network": replace(PRESET.network, **changes)}


ROWS: dict[str, dict] = {
    "preset": {},
    "output v": {"output": "v"},
    "channels 96, 192": shape(channels=(96, 192)),
    "blocks 1, 2": shape(blocks=(1, 2)),
    "patch 2": shape(patch=2, channels=(32, 64, 128), blocks=(1, 2, 3)),
    "patch 8": shape(patch=8),
    "lambda_far 4": {"lambda_far": 4.0},
    "spectrum power_law": {"spectrum": "power_law"},
    "ema 0.9": {"ema": 0.9},
    "side 32, batch 64": {"side": 32, "batch": 64},
}


# %% Training and the measure
def trained(recipe: Recipe) -> Trainer:
    """Return a trainer after MINUTES of training steps."""
    source = SimulationSource(recipe.side, TC, recipe.batch, 6, recipe.seed)
    trainer, limit = Trainer(recipe, source), 60.0 * MINUTES
    while trainer.seconds < limit:
        # The learning rate depends on step / steps: steps is extrapolated from the pace so far.
        share = trainer.seconds / limit
        steps = math.ceil(trainer.step / share) if share else 10**6
        trainer.recipe = replace(recipe, steps=steps)
        trainer.train_step()
    trainer.recipe = recipe
    return trainer


def errors(path: Path) -> dict[tuple[str, float], np.ndarray]:
    """Return each configuration's mean square of E[s | X_t] - s, by what is given and lambda."""
    weights = load_weights(path)
    network = weights.build(dtype=torch.float32)
    process = Process(weights.spectrum, (SIDE, SIDE), basis=weights.basis)
    source = SimulationSource(SIDE, TC, N, 24, SEED + 1)
    x0 = torch.from_numpy(source.next(N).astype(np.float32))
    found: dict[tuple[str, float], np.ndarray] = {}
    for lam in LAMBDAS:
        at, noise = torch.full((N,), lam), torch.Generator().manual_seed(SEED)
        xt = process.forward(x0, at, torch.randn(x0.shape, generator=noise))
        sums = coarsen(x0.numpy().astype(np.int8), "block_mean", FACTOR)
        bound = Blocks(sums, FACTOR)
        known = {"nothing": (half_tanh, None), "block means": (bound.means, bound.alone(x0))}
        for name, (means, alone) in known.items():
            if weights.output == "logits":
                mean_field = MeanField(process, weights.couplings)
                logits = spin_logits(network, mean_field, xt, at, means, alone).logits
                m = means(logits)
            elif name == "nothing":
                y = process.modes(xt)
                out = evaluate_fields(network, weights.output, process, y, at)
                m = process.fields(y0_from_output(out, weights.output, process, y, at))
            else:
                continue
            found[name, lam] = (m - x0).square().mean((1, 2)).double().numpy()
    return found


def row(name: str) -> list[dict]:
    """Train and measure one row."""
    torch.set_num_threads(1)
    path = FOLDER / f"{name.replace(' ', '_').replace(',', '')}.safetensors"
    if not path.exists():
        trainer = trained(replace(PRESET, **ROWS[name]))
        save_weights(path, trainer.weights({"model": "ising2d", "temperature": TC}))
    weights = load_weights(path)
    kept = {"row": name, "minutes": MINUTES, "steps": weights.training["steps"]}
    kept |= {"lattices": weights.training["lattices"]}
    kept |= {"parameters": sum(t.numel() for t in weights.tensors.values())}
    with torch.inference_mode():
        return [kept | {"known": k, "lambda": lam, "errors": e}
                for (k, lam), e in errors(path).items()]  # fmt: skip


# %% One table
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with ProcessPoolExecutor(study.options.together, mp_context=spawn) as pool:
        for found in pool.map(row, list(ROWS)[: study.options.rows]):
            rows += found
            print(found[0]["row"], found[0]["steps"], "steps", flush=True)
    base = {(r["known"], r["lambda"]): r["errors"] for r in rows if r["row"] == "preset"}
    for one in rows:
        own = one.pop("errors")
        excess = 1e4 * (own - base[one["known"], one["lambda"]])
        one |= {"mean_square": own.mean(), "excess": excess.mean()}
        one |= {"excess_err": excess.std(ddof=1) / math.sqrt(N)}
    study.finish(pd.DataFrame(rows), digits=5)
