"""Does SKILD refine better than other methods with equal network, data and training time?

Critical Ising configurations of 128^2 are refined by a factor of 4 from their block means. Each
trained method has the U-Net of the preset `ising2d`, the same stream of simulated configurations of
64^2 and the same wall time of training steps, with AdamW and a learning rate that is constant and
then falls to 0 over the last half of that time; in the processor's arithmetic (bfloat16 or
float32), with averaged weights, on one thread.

- skild: this package's method, trained as usual on a mixture of tasks (coarse configurations by
  three rules and factors 2, 4 and 8, and none), with the default number of denoiser evaluations.
- sr3: conditional diffusion with white noise (Saharia et al., arXiv 2104.07636), trained on this
  task alone: the network takes x_t and the block means, each repeated over its block, and predicts
  the noise. sqrt(abar) = cos(pi t / 2), abar from 1 - 1e-4 to 1e-4, t uniform both in training
  and along the chain; ancestral steps, x0 clipped to [-1, 1] as is common. Its spins are the signs
  of the last x0; in the rows `_exact` they are sampled given the block sums, with odds so sharp
  that the largest x0 are up.
- skild_paper: SKILD as published (arXiv 2605.26032): DCT, power-law spectrum, noise predicted, the
  linear schedule, 1000 ancestral steps, signs. Its chains start from the forward marginal of the
  TRUTH, which has more information than block means: `start` is 'truth' there, 'coarse' elsewhere.
- gaussian: a Gaussian field of the measured spectrum given the block means; in each block the
  largest sites are up, as many as the block sum requires.
- local_rule: after Rancon, Rancon, Ivek and Balog, arXiv 2506.04016, in our reading
  (`fitted_rule`); from majorities, factor 2 twice, which have less information than block means
  (column `rule`).
- fill, exact: a random fill, and the conditional Monte Carlo of the known Hamiltonian.

All stores are made in the given folder, which belongs to one number of minutes and configurations;
an interrupted run resumes.

    python analysis/rivals_ising2d.py runs/rivals --minutes 15 --lattices 24
        -> rivals_ising2d.csv, .md
"""

# %% What is needed
import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from local_rule import LocalRule
from study import Study, kept, residuals, skild_phys

from skild_phys.models import MODELS
from skild_phys.rng import Streams, kernel_state
from skild_phys.rules import RULES, coarsen
from skild_phys.rules.conditions import Blocks
from skild_phys.runner import Run, fill_store
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.data import SimulationSource
from skild_phys.skild.equations import Evaluate, Process, y0_from_output
from skild_phys.skild.losses import Batch, Loss, stratified
from skild_phys.skild.networks import UNet, network_dtype, see_through_symmetries
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.skild import Skild
from skild_phys.skild.spectrum import PowerLaw
from skild_phys.skild.train import Trainer
from skild_phys.skild.weights import save_weights
from skild_phys.store import LatticeStore, Plan, open_store


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the methods ordered by the residual of their energy, and all residuals."""
    own = table[table["observable"] == "energy"].set_index("model")
    nearest = own["residual"].abs().sort_values()
    lines = [f"By |residual| of the energy, smallest first: {', '.join(nearest.index)}."]
    return [*lines, residuals(table, ["model", "network_calls", "seconds"])]


# %% What is run
study = Study(
    __file__, __doc__, verdict, "runs/rivals",
    minutes=15.0, lattices=24, side=128, trained=64, calls=1000,
)  # fmt: skip
FOLDER, MINUTES, N = study.options.folder, study.options.minutes, study.options.lattices
SIDE, TRAINED, FACTOR, SEED, THREADS = study.options.side, study.options.trained, 4, 20261203, 1
PAPER_CALLS, SAVE_EVERY = study.options.calls, 250
SR3_CALLS = (study.options.calls, max(2, study.options.calls // 31))
ISING = MODELS["ising2d"]
SYSTEM = {"model": "ising2d", "temperature": ISING.critical_temperature, "side": TRAINED}
PAPER = SCHEDULES["linear"](TRAINED, 9.0 * (128 / TRAINED) ** 2, 564.2461, 275.4361)
"""The paper's schedule for Ising 128^2 at 4x, in sites^2: the same for all sides."""
FIXED = ("flip", "turn", "sign")
"""Symmetries that leave blocks and edges in place: those of sr3 and skild_paper."""
CPU = torch.device("cpu")


# %% Trained methods
class Sr3:
    """White noise, the same abar for all modes, and the block means as a second input."""

    divisible = True

    def __init__(self, recipe: Recipe, shape: tuple[int, int]) -> None:
        self.network, self.process = recipe.network, white_process(shape)

    def make_network(self) -> UNet:
        return UNet(self.network, inputs=2)

    def draw(self, n: int, random: torch.Generator) -> tuple[torch.Tensor, None]:
        return cosine_lambdas(stratified(n, random)), None

    def __call__(self, network: Evaluate, batch: Batch) -> torch.Tensor:
        known = repeated(coarsen(batch.x0.numpy().astype(np.int8), "block_mean", FACTOR))
        xt = self.process.forward(batch.x0, batch.lam, batch.noise)
        eps = network(torch.stack([xt, known], 1), batch.lam)[:, 0]
        return (eps - batch.noise).square().mean()


EVERY_K = 4.5
"""Above every |k| of the square lattice (at most pi sqrt 2): as the cutoff it makes all equal."""


def white_process(shape: tuple[int, int]) -> Process:
    """Return the process of white noise, abar = exp(-EVERY_K^2 lambda) for every mode."""
    return Process(PowerLaw(1.0, 0.0, 1.0), shape, cutoff=EVERY_K)


def cosine_lambdas(t: torch.Tensor) -> torch.Tensor:
    """Return lambda at `t` in [0, 1]: sqrt(abar) = cos, abar from 1 - 1e-4 to 1e-4."""
    low, high = math.asin(1e-2), math.acos(1e-2)
    return (-2.0 * torch.log(torch.cos(low + (high - low) * t.double())) / EVERY_K**2).float()


def repeated(sums: np.ndarray) -> torch.Tensor:
    """Return the means of block sums (n, ly, lx) at the sites of their blocks, float32."""
    fine = (sums / FACTOR**2).repeat(FACTOR, axis=-2).repeat(FACTOR, axis=-1)
    return torch.from_numpy(fine.astype(np.float32))


def trained(name: str, recipe: Recipe, loss: Loss | None = None) -> Trainer:
    """Return a trainer after MINUTES of training steps; an interrupted training resumes."""
    path, limit = FOLDER / f"{name}.checkpoint", 60.0 * MINUTES
    source = SimulationSource(TRAINED, SYSTEM["temperature"], recipe.batch, 6, recipe.seed)
    there = path.exists()
    trainer = (Trainer.resume if there else Trainer)(*[path] * there, recipe, source, loss)
    while trainer.seconds < limit:
        # The learning rate depends on step / steps: steps is extrapolated from the pace so far.
        share = trainer.seconds / limit
        steps = math.ceil(trainer.step / share) if share else 10**6
        trainer.recipe = replace(recipe, steps=steps)
        loss_now = trainer.train_step()
        if trainer.step % SAVE_EVERY == 0 or trainer.seconds >= limit:
            trainer.recipe = recipe  # a run resumes with the recipe it was started with
            trainer.save(path)
            print(f"{name}: {trainer.seconds / 60:.1f} min, step {trainer.step}, {loss_now:.4f}")
    return trainer


torch.set_num_threads(THREADS)
ours = replace(read_recipe("ising2d"), side=TRAINED, seed=SEED, shapes=())
fields = {"output": "eps", "symmetries": FIXED, "couplings_reach": 0, "lambdas": PAPER}
paper_recipe = replace(ours, basis="dct", spectrum="power_law", **fields)
skild = trained("skild", ours)
sr3_recipe = replace(ours, **fields)
sr3 = trained("sr3", sr3_recipe, Sr3(sr3_recipe, (TRAINED, TRAINED)))
paper = trained("skild_paper", paper_recipe)


# %% The local rule
def majority2(spins: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the majorities of 2 x 2 blocks; fair tie-breaks depend on side and `ids`."""
    return coarsen(spins, "majority", 2, tie_seed=SEED + spins.shape[-1], sample_ids=ids)


def fitted_rule() -> dict:
    """Fit the local rule to configurations and their majorities."""
    began = time.perf_counter()
    source = SimulationSource(TRAINED, SYSTEM["temperature"], ours.batch, 6, SEED)
    spins = np.concatenate([source.next(ours.batch) for _ in range(16)])
    fitted = LocalRule.fit(spins, majority2(spins, np.arange(len(spins))))
    return {"rule": asdict(fitted), "seconds": time.perf_counter() - began}


rule = kept(FOLDER / "local_rule_weights.json", fitted_rule)

# %% True and coarse configurations
truth_path, coarse_path = FOLDER / "truth.zarr", FOLDER / "coarse.zarr"
skild_phys("simulate", "--L", SIDE, "--T", "Tc", "-n", N, "--chains", 8, "--seed", SEED,
           "-o", truth_path)  # fmt: skip
skild_phys("coarsen", truth_path, "--rule", "block_mean", "--factor", FACTOR, "-o", coarse_path)
truth, coarse = open_store(truth_path), open_store(coarse_path)
shape, rows = (SIDE, SIDE), {}
Index = Sequence[int]


def read(store: LatticeStore, index: Index) -> np.ndarray:
    """Return configurations `index` as stored: spins, block sums, or fields."""
    return np.concatenate([store.read(i, i + 1) for i in index])


def streams_of(index: Index) -> list[Streams]:
    """Return the random streams of configurations `index`."""
    return [Streams.of(SEED, i) for i in index]


def white_noise(streams: list[Streams]) -> torch.Tensor:
    """Return standard normal fields, one stream a field."""
    fields = [one.noise.standard_normal(shape, dtype=np.float32) for one in streams]
    return torch.from_numpy(np.stack(fields))


def refined(name: str, make: Callable[[Index], np.ndarray], *, spins=True, local=False) -> float:
    """Refine into FOLDER / name.zarr as `refine` does; return seconds per configuration."""
    parent = truth if local else coarse
    attrs = {"model": "ising2d", "temperature": truth.attrs["temperature"], "L": SIDE}
    attrs |= {"method": name, "seed": SEED, "parent_store": parent.path.name}
    attrs |= {"parent_sha256": parent.digest()}
    # compare checks the block means; the local rule was given other coarse configurations.
    attrs |= {} if local else {"rule": "block_mean", "factor": FACTOR}

    field = "spins" if spins else "field"
    plan = Plan(
        field=field, n_samples=N, shape=shape, chunk=16, attrs=attrs,
        variables=("parent", "energy", "magnetization") if spins else ("parent",),
    )  # fmt: skip

    def sample(index, *, stop):
        made = make(index.tolist())
        scalars = {"energy": ISING.energy, "magnetization": ISING.order_parameter} if spins else {}
        arrays = {field: made, "parent": index}
        return arrays | {key: of(made) for key, of in scalars.items()}

    def run() -> dict:
        print("refining", name, flush=True)
        filled = fill_store(FOLDER / f"{name}.zarr", plan, sample, Run(threads=THREADS))
        return {"seconds": filled.each if filled.made else math.nan}

    return kept(FOLDER / f"{name}.json", run)["seconds"]


def note(name: str, seconds: float, *, start="coarse", trainer=None, minutes=0.0, parameters=0,
         calls=0, rule="block_mean") -> None:  # fmt: skip
    """Keep the columns of a method that are not observables."""
    if trainer is not None:
        parameters = sum(p.numel() for p in trainer.network.parameters())
        minutes = trainer.seconds / 60
    rows[name] = {"start": start, "rule": rule, "seconds": seconds, "training_minutes": minutes}
    rows[name] |= {"training_steps": trainer.step if trainer else 0}
    rows[name] |= {"parameters": parameters, "network_calls": calls}


# %% Refinements by commands of the package
save_weights(FOLDER / "skild.safetensors", skild.weights(SYSTEM))
checkpoint = ("--checkpoint", FOLDER / "skild.safetensors")
for name, words in {"skild": checkpoint, "fill": (), "exact": ()}.items():
    words = ("refine", coarse_path, "--method", name, *words, "--threads", THREADS)
    made = kept(FOLDER / f"{name}.json", skild_phys, *words, "-o", FOLDER / f"{name}.zarr")
    calls = int(open_store(FOLDER / f"{name}.zarr").attrs.get("steps", 0))
    own = {"trainer": skild, "calls": calls} if name == "skild" else {}
    note(name, made["seconds_per_lattice"], **own)

# %% sr3: the last x0, then signs or samples with the right block sums
sr3_process = white_process(shape)
network = copy.deepcopy(sr3.ema.module).cast(network_dtype(CPU)).eval()


def sr3_field(index: Index, calls: int) -> np.ndarray:
    """Return the last x0 of ancestral chains of `calls` network evaluations."""
    process, streams = sr3_process, streams_of(index)
    lambdas = cosine_lambdas(torch.linspace(1.0, 0.0, calls)).tolist()
    with torch.inference_mode():
        known = repeated(read(coarse, index))
        white = lambda: process.white(white_noise(streams))  # noqa: E731
        y = white()
        for lam, to in zip(lambdas, [*lambdas[1:], 0.0]):
            at = torch.full((len(y),), lam)
            seen = torch.stack([process.fields(y), known], 1)
            eps = see_through_symmetries(network, streams, FIXED, (True,), seen, at)[:, 0]
            x0 = process.fields(y0_from_output(eps, "eps", process, y, at))
            if to:
                y = process.bridge_modes(y, process.modes(x0.clamp(-1, 1)), lam, to, white)
    return x0.numpy()


def signs(values: np.ndarray) -> np.ndarray:
    """Return -1 and +1."""
    return np.where(values < 0, -1, 1).astype(np.int8)


for calls in SR3_CALLS:
    name = f"sr3_{calls}"
    seconds = refined(f"{name}_field", lambda i, calls=calls: sr3_field(i, calls), spins=False)
    last = open_store(FOLDER / f"{name}_field.zarr")

    def signs_of(index: Index, last=last) -> np.ndarray:
        return signs(read(last, index))

    def exact_of(index: Index, last=last) -> np.ndarray:
        return np.stack([
            Blocks(read(coarse, [i]), FACTOR).draw(
                20.0 * read(last, [i])[0], 0, kernel_state(SEED, "sweeps", i)) for i in index
        ])  # fmt: skip

    for variant, make in ((name, signs_of), (f"{name}_exact", exact_of)):
        note(variant, seconds + refined(variant, make), trainer=sr3, calls=calls)

# %% skild_paper: from the truth's forward marginal
chain = PAPER.lambdas(float(PAPER(np.array(1.0))), float(PAPER(np.array(1 / PAPER_CALLS))),
                      PAPER_CALLS)  # fmt: skip
published = Skild.of(paper.weights(SYSTEM), shape, sampler="ancestral")


def paper_spins(index: Index) -> np.ndarray:
    """Return the signs of the fields of the published protocol."""
    streams, known = streams_of(index), torch.from_numpy(read(truth, index).astype(np.float32))
    y = published.from_fields(known, float(chain[0]), streams)
    return signs(published.run(y, chain, streams))


seconds = refined("skild_paper", paper_spins)
note("skild_paper", seconds, start="truth", trainer=paper, calls=PAPER_CALLS)

# %% gaussian: no network
prior, blocks = Process(skild.measured.spectrum, shape), RULES["block_mean"].operator(shape, FACTOR)


def gaussian_spins(index: Index) -> np.ndarray:
    """Return spins that are up on the largest sites of each block of a conditional field."""
    sums, n, side = read(coarse, index), FACTOR**2, SIDE // FACTOR
    field = prior.gaussian(white_noise(streams_of(index))).double().numpy()
    field = blocks.correct(field, sums / n, prior.power.numpy())
    cut = (len(sums), side, FACTOR, side, FACTOR)
    block = field.reshape(cut).swapaxes(2, 3).reshape(len(sums), side, side, n)
    rank = (-block).argsort(axis=-1).argsort(axis=-1)
    spins = np.where(rank < ((sums + n) // 2)[..., None], 1, -1).astype(np.int8)
    return spins.reshape(len(sums), side, side, FACTOR, FACTOR).swapaxes(2, 3).reshape(field.shape)


note("gaussian", refined("gaussian", gaussian_spins))


# %% local_rule: factor 2 twice, from the majorities of majorities
def local_spins(index: Index) -> np.ndarray:
    """Return the local rule's fine configurations."""
    ids, streams, local = np.asarray(index), streams_of(index), LocalRule(**rule["rule"])
    spins = majority2(majority2(read(truth, index), ids), ids)
    for _ in range(2):
        fine = (2 * spins.shape[-2], 2 * spins.shape[-1])
        spins = local.draw(spins, np.stack([stream.noise.random(fine) for stream in streams]))
    return spins


seconds = refined("local_rule", local_spins, local=True)
note("local_rule", seconds, minutes=rule["seconds"] / 60, parameters=3, rule="majority 2x, twice")

# %% One table
stores = [FOLDER / f"{name}.zarr" for name in rows]
report = FOLDER / "report"
words = ("--coarse", coarse_path, "-o", report, "--overwrite", "--no-figures")
skild_phys("compare", truth_path, *stores, *words)
table = pd.read_csv(report / "comparison.csv")
every = np.arange(N)
again = [majority2(majority2(s.read(0, N), every), every)
         for s in (truth, open_store(FOLDER / "local_rule.zarr"))]  # fmt: skip
same = (again[0] == again[1]).mean(axis=(1, 2))
row = {"model": "local_rule", "observable": "coarse_agreement", "unit": 1, "value": same.mean()}
row |= {"err": same.std(ddof=1) / math.sqrt(N)}
table = pd.concat([table, pd.DataFrame([row])])
KEPT = ("connected_four_point", "energy", "patterns_tv", "site_agreement", "coarse_agreement")
table = table[table["observable"].isin(KEPT)]
paired = table.loc[table["observable"] == "site_agreement", "model"]
if missing := set(rows) - set(paired):
    raise SystemExit(f"not compared sample by sample: {', '.join(sorted(missing))}")
columns = pd.DataFrame.from_dict(rows, orient="index")
table = table.sort_values("model", key=lambda m: m.map(list(rows).index), kind="stable")
table = table.join(columns, on="model").assign(L=SIDE, factor=FACTOR, lattices=N)
study.finish(table)
