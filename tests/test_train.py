"""Training: it learns, it stops and resumes to the same bytes, it reports what is wrong."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from skild_helpers import TC, TINY, critical_lattices, tiny_weights

import skild_phys as sp
from skild_phys.errors import BadInput, Interrupted, OutputTaken, StoreError, WeightsError
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy, kaufman_specific_heat
from skild_phys.rules import RULES, coarsen
from skild_phys.rules.conditions import Blocks
from skild_phys.skild import train as module
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.data import (
    SimulationSource,
    Source,
    _StoreSource,
    symmetry,
    training_source,
)
from skild_phys.skild.losses import GridLoss, _drawn_groups, _Group, _SpinLoss
from skild_phys.skild.measured import measure
from skild_phys.skild.networks import SYMMETRIES
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.skild.spectrum import PowerLaw
from skild_phys.skild.train import Trainer, _averaged, _learning_rate, train
from skild_phys.skild.weights import FAR, load_weights, read_tensors, save_weights, write_tensors
from skild_phys.store import create_store, open_lattices, open_store

CONFIG = Recipe(
    side=16, steps=12, batch=8, warmup=4, save_every=5, spectrum_batches=4, ema=0.5, network=TINY,
    lambda_min=0.06,
)  # fmt: skip

SCHEDULE = SCHEDULES["geometric"](0.06, 40.0)

LOSSES = {
    "logits": [0.2305199, 0.2745608, 0.2731247],
    "v": [2.3994116, 2.4072026, 2.1719825],
    "eps": [1.5110943, 0.8340873, 0.8123013],
    "x0": [1.0, 0.9984610, 0.9956595],
}
CHECKSUM = 3212852264


def source(config: Recipe = CONFIG) -> Source:
    return SimulationSource(config.side, TC, config.batch, 2, config.seed, burn_in=20)


def finest(config: Recipe) -> _SpinLoss:
    """Return the loss of spins on the lattice."""
    loss = Trainer(config, source(config)).loss
    assert isinstance(loss, GridLoss)
    own = loss._levels((config.side, config.side))[0]
    assert isinstance(own, _SpinLoss)
    return own


def weights_after(trainer: Trainer, checkpoint: Path) -> dict[str, torch.Tensor]:
    train(trainer, checkpoint)
    return trainer.weights({}).tensors


@pytest.mark.parametrize(("output", "basis"), [("logits", "dft"), ("v", "dft"), ("eps", "dct")])
def test_stopped_and_resumed_ends_in_the_same_bytes(
    tmp_path: Path, output: str, basis: str
) -> None:
    torch.set_num_threads(1)
    symmetries = tuple(s for s in SYMMETRIES if basis == "dft" or s != "shift")
    schedule = SCHEDULE if output == "eps" else None
    config = replace(CONFIG, output=output, basis=basis, symmetries=symmetries, lambdas=schedule)
    whole = weights_after(Trainer(config, source()), tmp_path / "whole")
    first = Trainer(config, source())
    with pytest.raises(Interrupted, match="step 7"):
        train(first, tmp_path / "part", stop=lambda: first.step == 7)
    second = Trainer.resume(tmp_path / "part", config, source())
    assert second.step == 7
    parts = weights_after(second, tmp_path / "part")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_checkpoints_go_by_time_and_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, seen to fail: saves each `save_every` steps only, minutes apart where steps are."""
    torch.set_num_threads(1)
    saves: list[int] = []

    def run(name: str) -> dict[str, torch.Tensor]:
        saves.clear()
        trainer = Trainer(CONFIG, source())
        train(trainer, tmp_path / name, saved=lambda: saves.append(trainer.step))
        return trainer.weights({}).tensors

    plain = run("a")
    assert saves == [1, 5, 10, 12]
    monkeypatch.setattr(module, "_next_save", lambda began, ended: 0.0)
    often = run("b")
    assert saves == list(range(1, 13))
    assert all(torch.equal(plain[k], often[k]) for k in plain)


def test_a_checkpoint_takes_a_few_per_cent_of_the_time() -> None:
    assert module._next_save(100.0, 100.1) == pytest.approx(108.1)
    assert module._next_save(100.0, 102.0) == pytest.approx(162.0)


def test_a_run_that_saves_every_step_can_be_stopped(tmp_path: Path) -> None:
    trainer = Trainer(replace(CONFIG, save_every=1), source())
    with pytest.raises(Interrupted, match="step 2"):
        train(trainer, tmp_path / "c", stop=lambda: trainer.step == 2)


def test_a_short_run_is_not_averaged_with_the_weights_it_began_with() -> None:
    """Weights 0 at the first step, 1 from then on. Planted, seen to fail: one decay throughout."""
    weight = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    average = _averaged(weight, 0.999)
    for step in range(30):
        weight.weight.fill_(float(step > 0))
        average.update_parameters(weight)
    assert float(average.module.weight) > 0.99
    average.n_averaged.fill_(10**6)
    weight.weight.fill_(0.0)
    average.update_parameters(weight)
    assert float(average.module.weight) == pytest.approx(0.999, rel=0.01)


def test_every_sample_is_as_likely_to_be_shown_what_is_known() -> None:
    """Of one sample, too. 2,000 draws: 0.25(1) and 0.5(1); within 0.055: 2e-6 a number.

    Planted, seen to fail: the first place of an even spacing not drawn.
    """
    random, tasks = torch.Generator().manual_seed(1), [(RULES["majority"], b) for b in (2, 4)]
    for n, share in ((1, 0.25), (3, 0.5), (8, 0.25)):
        shown, drawn = np.zeros(n), []
        for _ in range(2000):
            groups = _drawn_groups(n, share, tasks, random)
            places = [place for group in groups for place in group.at.tolist()]
            assert len(places) == len({*places})
            assert abs(len(places) - share * n) < 1
            shown[places] += 1
            drawn += [group.factor for group in groups for _ in group.at]
        assert np.allclose(shown / 2000, share, atol=0.055)
        assert np.mean(np.array(drawn) == 2) == pytest.approx(0.5, abs=0.1)
    assert _drawn_groups(8, 0.5, [], random) == []


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = weights_after(Trainer(CONFIG, source()), tmp_path / "whole")
    killed = Trainer(CONFIG, source())

    def die(step: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed, tmp_path / "part", progress=die)
    again = Trainer.resume(tmp_path / "part", CONFIG, source())
    assert again.step == 5
    parts = weights_after(again, tmp_path / "part")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_it_learns(tmp_path: Path) -> None:
    """Without pair couplings the mean field costs 0.56 nats per site, and the network mends it."""
    config = replace(CONFIG, steps=120, learning_rate=3e-3, couplings_reach=0, coarse_share=0.0)
    trainer = Trainer(config, source(config))
    assert trainer.measured.couplings.offsets == ()
    train(trainer, tmp_path / "run")
    assert trainer.log[-1][1] < 0.45


def test_it_learns_continuous_fields(tmp_path: Path) -> None:
    """An untrained network gives 0: the error is the mean square of the spins, 1."""
    config = replace(CONFIG, output="x0", steps=150, learning_rate=3e-3, lambdas=SCHEDULE)
    trainer = Trainer(config, source(config))
    assert trainer.train_step() == pytest.approx(1.0, abs=1e-6)
    train(trainer, tmp_path / "run")
    assert trainer.log[-1][1] < 0.65


def test_the_weights_file_and_the_log_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """The window of the logged loss is part of the state: a stop may fall anywhere in it."""
    torch.set_num_threads(1)
    whole = Trainer(CONFIG, source())
    train(whole, tmp_path / "whole", log_every=4)
    part = Trainer(CONFIG, source())
    for last in (2, 7, 11):
        with pytest.raises(Interrupted, match="without overwrite=True"):
            train(part, tmp_path / "part", stop=lambda: part.step == last, log_every=4)  # noqa: B023
        part = Trainer.resume(tmp_path / "part", CONFIG, source())
    train(part, tmp_path / "part", log_every=4)
    assert [row[:4] for row in part.log] == [row[:4] for row in whole.log]
    for name, trainer in (("whole.w", whole), ("part.w", part)):
        save_weights(tmp_path / name, trainer.weights({}))
    assert (tmp_path / "part.w").read_bytes() == (tmp_path / "whole.w").read_bytes()


@pytest.mark.parametrize("output", LOSSES)
def test_an_uninterrupted_run_draws_what_it_always_drew(output: str) -> None:
    """Loss and lattices of the first steps, pinned: a change of a stream is seen."""
    torch.set_num_threads(1)
    schedule = SCHEDULE if output in ("eps", "x0") else None
    config = replace(CONFIG, precision="float32", output=output, lambdas=schedule)
    stream = SimulationSource(16, TC, 8, 6, 20261123)
    trainer = Trainer(config, stream)
    losses = [trainer.train_step() for _ in range(3)]
    assert losses == pytest.approx(LOSSES[output], rel=1e-5)
    assert zlib.crc32(stream.spins[0].tobytes()) == CHECKSUM


def test_weights_and_noise_have_streams_of_their_own() -> None:
    """Another seed changes both; numbers drawn elsewhere change neither."""
    torch.manual_seed(1)
    one = Trainer(CONFIG, source())
    torch.manual_seed(2)
    torch.rand(100)
    same = Trainer(CONFIG, source())
    other = Trainer(replace(CONFIG, seed=1), source())
    first, again, new = (t.network.state_dict()["enter.weight"] for t in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, new)
    draws = [torch.rand(8, generator=t.random) for t in (one, same, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    # A network of another size takes nothing from the noise.
    wide = Trainer(replace(CONFIG, network=replace(TINY, channels=(16, 16))), source())
    assert torch.equal(draws[0], torch.rand(8, generator=wide.random))


def test_a_share_of_each_batch_knows_its_coarse_lattices() -> None:
    """Each by a rule and factor of its own, at lambdas that a chain from there visits; spins only.

    Planted, seen to fail: groups put back in the order of the groups; one task for all.
    """
    loss, random = finest(replace(CONFIG, coarse_share=0.5)), torch.Generator()
    spins = critical_lattices(8, 16)
    x0 = torch.from_numpy(spins.astype(np.float32))
    seen = set()
    for _ in range(40):
        lam, groups = loss.draw(8, random)
        bound = loss.condition(x0, groups)
        assert lam.shape == (8,)
        assert lam.min() >= CONFIG.lambda_min
        assert lam.max() <= CONFIG.window[1] * (1 + 1e-6)
        means, free = bound.alone(x0).numpy(), np.ones(8, bool)
        for places, rule, factor in groups:
            at = places.numpy()
            free[at] = False
            seen.add((rule.name, factor, len(groups) > 1))
            if rule.name == "block_mean":
                sums = coarsen(spins[at], "block_mean", factor)
                blocks = np.kron(sums / factor**2, np.ones((1, factor, factor)))
                assert np.allclose(means[at], blocks, atol=1e-6)
            elif rule.name == "decimate":
                assert np.array_equal(means[at, ::factor, ::factor], spins[at, ::factor, ::factor])
        assert free.sum() == 4
        assert not means[free].any()
    rules = ("block_mean", "majority", "decimate")
    assert {(rule, factor, True) for rule in rules for factor in (2, 4, 8)} <= seen
    odd = replace(CONFIG, side=15)
    for config in (replace(CONFIG, coarse_share=0.0), odd):
        assert finest(config).draw(8, random)[1] == []


def test_what_is_measured_goes_into_the_weights(tmp_path: Path) -> None:
    """Spectrum, couplings, basis, symmetries: as the configuration asks for them."""
    spins = Trainer(replace(CONFIG, network_from=0.4), source()).weights({})
    assert spins.couplings.offsets == ((0, 1), (1, 0))
    assert (spins.network_from, spins.symmetries) == (0.4, CONFIG.symmetries)
    assert spins.lambda_range == (0.0, FAR)
    # A network for fields is called at every lambda: what it has not seen it does not know.
    other = Trainer(replace(CONFIG, output="v", network_from=0.4), source()).weights({})
    assert other.lambda_range == (0.06, FAR)
    changes = {
        "output": "eps",
        "basis": "dct",
        "spectrum": "power_law",
        "symmetries": ("flip",),
        "lambdas": SCHEDULE,
    }
    fields = Trainer(replace(CONFIG, **changes), source()).weights({})  # type: ignore[arg-type]
    assert isinstance(fields.spectrum, PowerLaw)
    assert (fields.basis, fields.symmetries) == ("dct", ("flip",))
    assert fields.couplings.offsets == ()
    save_weights(tmp_path / "w", fields)
    loaded = load_weights(tmp_path / "w")
    for name in {*vars(fields)} - {"tensors", "training"}:
        assert getattr(loaded, name) == getattr(fields, name)


def test_resuming_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trainer(CONFIG, source()).save(tmp_path / "a")
    stream = source()
    monkeypatch.setattr(stream, "next", None)
    assert Trainer.resume(tmp_path / "a", CONFIG, stream).step == 0


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    Trainer(CONFIG, source()).save(tmp_path / "a")
    with pytest.raises(OutputTaken, match=r"learning_rate = 0.0001: there it is 0.001"):
        Trainer.resume(tmp_path / "a", replace(CONFIG, learning_rate=1e-4), source())
    warm = SimulationSource(16, 2.5, 8, 2, 0, burn_in=20)
    with pytest.raises(OutputTaken, match=r"temperature = 2.5: there it is 2.26"):
        Trainer.resume(tmp_path / "a", CONFIG, warm)
    for seed in (1, 2):
        spins = critical_lattices(10, 16, seed)
        np.save(tmp_path / f"{seed}.npy", spins)
    one, other = (_StoreSource(open_lattices(tmp_path / f"{i}.npy", "spins"), 0) for i in (1, 2))
    Trainer(CONFIG, one).save(tmp_path / "b")
    assert Trainer.resume(tmp_path / "b", CONFIG, one).step == 0
    with pytest.raises(OutputTaken, match="data = "):
        Trainer.resume(tmp_path / "b", CONFIG, other)


def test_an_interrupted_burn_in_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, ran = source(), []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skild_phys.skild.data.wolff", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.next(CONFIG.batch)
    monkeypatch.setattr("skild_phys.skild.data.wolff", lambda *given: ran.append(given[-1]))
    stream.next(CONFIG.batch)
    stream.next(CONFIG.batch)
    assert ran == [22] * CONFIG.batch + [2] * CONFIG.batch


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    Trainer(CONFIG, source()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        Trainer.resume(path, CONFIG, source())
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data), (len(data) - header) // 20):
        flipped = bytearray(data)
        flipped[place] ^= 16
        path.write_bytes(flipped)
        with pytest.raises(WeightsError, match="SHA-256"):
            Trainer.resume(path, CONFIG, source())


@pytest.mark.parametrize(
    "lost", ["config", "source", "spectrum", "couplings", "window", "log", "step"]
)
def test_checkpoints_that_lack_something_are_refused(tmp_path: Path, lost: str) -> None:
    Trainer(CONFIG, source()).save(tmp_path / "a")
    record, tensors = read_tensors(tmp_path / "a", "record", "checkpoint", module._FORMAT)
    for changed in ({k: v for k, v in record.items() if k != lost}, record | {lost: None}):
        write_tensors(tmp_path / "b", "record", changed, tensors)
        with pytest.raises(WeightsError, match="no state of this run"):
            Trainer.resume(tmp_path / "b", CONFIG, source())
    write_tensors(tmp_path / "b", "record", record, {"random": tensors["random"]})
    with pytest.raises(WeightsError, match="no state of this run"):
        Trainer.resume(tmp_path / "b", CONFIG, source())


def test_checkpoints_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    """The chains lay in other tensors then. Planted, seen to fail: the format of before."""
    Trainer(CONFIG, source()).save(tmp_path / "a")
    record, tensors = read_tensors(tmp_path / "a", "record", "checkpoint", module._FORMAT)
    old = {k.removesuffix(".0") if k.startswith("source.") else k: v for k, v in tensors.items()}
    write_tensors(tmp_path / "a", "record", record | {"format": "skild-phys checkpoint 7"}, old)
    with pytest.raises(WeightsError, match="not a checkpoint of this version") as refused:
        Trainer.resume(tmp_path / "a", CONFIG, source())
    assert "\n" not in str(refused.value)


@pytest.mark.statistical
def test_the_simulation_is_in_equilibrium_away_from_tc() -> None:
    """Null: <e> of the first batch is exact (Kaufman); 5 sigma, false alarm 6e-7, seed 4.

    Planted fault: 200 clusters of burn-in are too few above Tc, where clusters are small.
    """
    side, temperature, chains = 64, 1.5 * TC, 48
    exact = kaufman_energy(side, temperature)
    sigma = np.sqrt(kaufman_specific_heat(side, temperature) / (side**2 * chains)) * temperature
    means = [
        MODELS["ising2d"].energy(
            SimulationSource(side, temperature, chains, n, 4, burn_in).next(chains)
        )
        for n, burn_in in ((0, None), (6, 200))
    ]
    good, bad = (float(np.mean(m)) for m in means)
    good, bad = (m if abs(m) < 4 else m / side**2 for m in (good, bad))
    assert abs(good - exact) < 5 * sigma
    assert abs(bad - exact) > 10 * sigma


def test_the_burn_in_of_the_shipped_recipe() -> None:
    stream = SimulationSource(64, TC, 2, 6, 0)
    assert (stream.clusters, stream.burn_in) == (6, 200)


def test_arrays_are_checked_and_distinguished(tmp_path: Path) -> None:
    spins = critical_lattices(5, 8)
    np.save(tmp_path / "s.npy", spins)
    lattices = open_lattices(tmp_path / "s.npy", "spins")
    assert (lattices.n_samples, lattices.shape) == (5, (8, 8))
    drawn = _StoreSource(lattices, 1).next(5)
    assert sorted(x.tobytes() for x in drawn) == sorted(x.tobytes() for x in spins)
    np.save(tmp_path / "bits.npy", (spins + 1) // 2)
    with pytest.raises(StoreError, match=r"bits.npy.* hold 0, .*2\*s.astype"):
        open_lattices(tmp_path / "bits.npy", "spins").digest()
    fields = spins.astype(np.float32)
    np.save(tmp_path / "f.npy", fields)
    assert open_lattices(tmp_path / "f.npy", "spins").digest() != lattices.digest()
    np.save(tmp_path / "zero.npy", 0 * fields)
    with pytest.raises(BadInput, match="mean square"):
        Trainer(CONFIG, _StoreSource(open_lattices(tmp_path / "zero.npy", "field"), 1))
    fields[3, 1, 2] = np.nan
    np.save(tmp_path / "nan.npy", fields)
    with pytest.raises(StoreError, match="1 missing values"):
        open_lattices(tmp_path / "nan.npy", "field").digest()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("seed = -1", "seed: -1"),
        ("seed = 9223372036854775808", "seed"),
        ("side = 1", "side: 1"),
        ("batch = 2.5", "batch: 2.5"),
        ("batch = true", "batch: True"),
        ('warmup = "x"', "warmup: 'x'"),
        ("warmup = -1", "warmup: -1"),
        ("clip = 0", "clip: 0"),
        ("clip = nan", "clip: nan"),
        ("ema = 1", "ema: 1"),
        ("decay_fraction = 0.0", "decay_fraction: 0"),
        ("learning_rate = inf", "learning_rate: inf"),
        ("output = 3", "output: 3"),
        ('output = "magic"', "output: 'magic'"),
        ('basis = "fft"', "basis: 'fft'"),
        ('basis = "dct"', "basis: 'dct'"),
        ('output = "v"\nbasis = "dct"', "symmetries without 'shift'"),
        ("preset = ['ising2d']", "preset: "),
        ('spectrum = "round"', "spectrum: 'round'"),
        ('symmetries = ["shift", "glide"]', "symmetries: 'glide'"),
        ("symmetries = [1]", "symmetries"),
        ("couplings_reach = -1", "couplings_reach: -1"),
        ("network_from = -1.0", "network_from: -1"),
        ("coarse_share = 1.0", "coarse_share: 1"),
        ("coarse_factors = [1, 2]", "coarse_factors: 1"),
        ("cutoff = 0.0", "cutoff: 0"),
        ("window = [0.7, 2.0]", "window: "),
        ("sample_every = 5", "sample_every: 5"),
        ("network = 3", "network: 3"),
        ("[steps]\na = 1", "steps"),
        ("window = [2.8, 0.7]", "window: [2.8, 0.7]"),
        ("window = [1]", "window: [1.0]"),
        ("window = [0, 1]", "window: [0.0, 1.0]"),
        ('window = ["a"]', "a list of numbers"),
        ("shapes = [32]", "shapes: [32]"),
        ("shapes = [32, 1]", "shapes: [32, 1]"),
        (
            'output = "v"\nshapes = [32, 32]\n[lambdas]\nkind = "geometric"\nlow = 1\nhigh = 2',
            "shapes: [32, 32]",
        ),
        ('output = "eps"', "output: 'eps'"),
        ('output = "v"\naccumulate = 2', "accumulate: 2"),
        ("[network]\npatch = 0", "patch: 0"),
        ("[network]\nchannels = []", "channels"),
        ("[network]\nchannels = [8, 0]", "channels"),
        ("[network]\nchannels = [8, 1.5]", "channels"),
        ("[network]\nblocks = [1]", "blocks"),
        ("preset = 3", "preset: 3"),
        ('preset = "run.toml"', "preset: 'run.toml'"),
    ],
)
def test_bad_values_of_a_recipe(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "run.toml").write_text(line + "\n")
    with pytest.raises(BadInput, match=re.escape(named)):
        read_recipe(tmp_path / "run.toml")


def test_configuration_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "ising2d"\nseed = 7\n[network]\npatch = 2\n')
    config = read_recipe(file, steps=3)
    assert (config.seed, config.steps, config.network.patch) == (7, 3, 2)
    preset = read_recipe("ising2d")
    assert config.batch == preset.batch
    assert config.network == replace(preset.network, patch=2)
    file.write_text("clip = 2\ntemperature = 2.5\n")
    assert (read_recipe(file).clip, read_recipe(file).temperature) == (2.0, "2.5")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="a TOML file"):
        read_recipe(file)
    file.write_text("learning_rat = 1e-3\n")
    with pytest.raises(BadInput, match="'learning_rate'"):
        read_recipe(file)
    file.write_text("steps = 0\n")
    with pytest.raises(BadInput, match="steps: 0"):
        read_recipe(file)
    file.write_text("steps = \n")
    with pytest.raises(BadInput, match="a TOML file"):
        read_recipe(file)
    with pytest.raises(BadInput, match="ising2d"):
        read_recipe("ising3")


def test_learning_rates() -> None:
    config = replace(CONFIG, steps=100, warmup=10, decay_fraction=0.4, learning_rate=1.0)
    assert _learning_rate(0, config) == pytest.approx(0.1)
    assert _learning_rate(50, config) == 1.0
    assert _learning_rate(80, config) == pytest.approx(0.5)
    cosine = replace(config, schedule="cosine")
    assert _learning_rate(50, cosine) == pytest.approx(0.5)


def test_symmetries_keep_the_energy() -> None:
    spins = critical_lattices(3, 12)
    model, random = MODELS["ising2d"], torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(40):
        moved = symmetry(torch.from_numpy(spins.astype(np.float32)), random).numpy()
        assert np.allclose(model.energy(moved.astype(np.int8)), model.energy(spins))
        seen.add(moved.tobytes())
    assert len(seen) > 30


def test_only_symmetries_that_hold_are_applied() -> None:
    """A configuration without any symmetry has as many versions as the group has elements."""
    random = torch.Generator().manual_seed(2)
    lattice = torch.randn((1, 4, 4), generator=random)
    for some, number in (((), 1), (("sign",), 2), (("flip",), 4), (("flip", "turn"), 8)):
        seen = {symmetry(lattice, random, some).numpy().tobytes() for _ in range(200)}
        assert len(seen) == number
    shifted = {symmetry(lattice, random, ("shift",)).numpy().tobytes() for _ in range(400)}
    assert len(shifted) == 16
    tall = torch.randn((1, 4, 6), generator=random)
    assert {symmetry(tall, random, ("turn",)).shape for _ in range(20)} == {(1, 4, 6)}


def test_a_store_is_seen_once_an_epoch_and_taken_up_again(tmp_path: Path) -> None:
    spins = np.ones((11, 4, 4), dtype=np.int8)
    for i in range(11):
        spins[i].flat[:i] = -1
    with create_store(
        tmp_path / "s.zarr", field="spins", n_samples=11, shape=(4, 4), chunk=4,
        attrs={"model": "ising2d"}, variables=(),
    ) as writer:  # fmt: skip
        writer.commit({"spins": spins})
    store = open_store(tmp_path / "s.zarr")
    stream = _StoreSource(store, seed=3)
    epochs = [stream.next(11), stream.next(11)]
    for epoch in epochs:
        assert sorted((epoch == -1).sum(axis=(1, 2))) == list(range(11))
    assert not np.array_equal(*epochs)
    first = _StoreSource(store, seed=3)
    first.next(5)
    second = _StoreSource(store, seed=3)
    second.restore(first.state())
    assert np.array_equal(first.next(17), second.next(17))


def test_no_lattice_of_a_store_is_measured_twice(tmp_path: Path) -> None:
    """However many batches are asked for; else the errors of couplings would be too small.

    Planted, seen to fail: as many batches as asked for.
    """
    np.save(tmp_path / "s.npy", critical_lattices(43, 16))
    stream = _StoreSource(open_lattices(tmp_path / "s.npy", "spins"), seed=3)
    measure(stream, replace(CONFIG, batch=8, spectrum_batches=50))
    assert (stream.epoch, stream.position) == (0, 40)


def test_chains_of_the_simulation_go_on_where_they_stood() -> None:
    one = source()
    one.next(8)
    two = source()
    two.restore(one.state())
    assert np.array_equal(one.next(8), two.next(8))
    with pytest.raises(ValueError, match="8 chains"):
        one.next(7)


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate"])
def test_targets_keep_what_a_lattice_knows(rule: str) -> None:
    """Known sites are trained to be what they are, blocks to their sums; free lattices come first.

    Of majorities the spins without which a block had another sign. Planted, seen to fail: known
    sites of decimation, and all of majorities, with the mean given the others.
    """
    loss = finest(replace(CONFIG, targets="conditional"))
    x0 = torch.from_numpy(source().next(8).astype(np.float32))
    random, group = torch.Generator(), _Group(torch.arange(3, 8), RULES[rule], 2)
    bound = loss.condition(x0, [group])
    lam = torch.full((8,), 1.0)
    likelihood = loss.mean_field.likelihood(x0 + 0.1, lam)
    targets = loss.targets(likelihood, x0, bound, random)
    field = likelihood.field + loss.mean_field.coupled(likelihood, x0)
    assert torch.equal(targets[:3], torch.tanh(field)[:3])
    assert not torch.equal(targets[3:], x0[3:])
    kept = [f[3:, ::2, ::2] for f in (targets, x0)]
    if rule == "majority":
        blocks = bound.parts[1][1]
        assert isinstance(blocks, Blocks)
        signs = torch.from_numpy(blocks.raw.repeat(2, 1).repeat(2, 2)).float()
        sums = 4 * torch.nn.functional.avg_pool2d(x0[3:], 2)
        sums = sums.repeat_interleave(2, 1).repeat_interleave(2, 2)
        decisive = (sums - 2 * x0[3:]) * signs < 0
        assert 0 < int(decisive.sum()) < decisive.numel()
        kept = [f[decisive] for f in (targets[3:], x0[3:])]
    elif rule == "block_mean":
        kept = [torch.nn.functional.avg_pool2d(f[3:], 2) for f in (targets, x0)]
    assert torch.allclose(*kept, atol=1e-5)
    plain = finest(replace(CONFIG, targets="spins"))
    assert torch.equal(plain.targets(likelihood, x0, bound, random), x0)


def test_every_preset_can_be_read_and_built_on(tmp_path: Path) -> None:
    folder = Path(str(resources.files("skild_phys.skild").joinpath("presets")))
    names = [file.stem for file in folder.glob("*.toml")]
    assert len(names) >= 9
    for name in names:
        (tmp_path / "r.toml").write_text(f'preset = "{name}"\nseed = 7\n')
        assert read_recipe(tmp_path / "r.toml") == replace(read_recipe(name), seed=7)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('output = "v"\n[lambdas]\nkind = "geometric"\nlow = 0.0\nhigh = 1.0', "low: 0.0"),
        ('output = "v"\n[lambdas]\nkind = "geometric"\nlow = 0.1', "high: expected a value"),
        ('output = "v"\n[lambdas]\nkind = "cubic"', "kind: 'cubic'"),
        ('output = "v"\n[lambdas]\nkind = "geometric"\nlow = 1\nhigh = 2\nside = 3', "side"),
        ("cutoff = nan", "cutoff: nan"),
        ('spectrum = "paper"', "spectrum: 'paper'"),
        ('preset = "cifar10"\n[paper_spectrum]\nside = 0', "side: 0"),
        ('preset = "cifar10"\n[lambdas]\nside = 64', "side: 64"),
        ('preset = "cifar10-small-ddpm"\ncutoff = 5.0', "cutoff: 5.0"),
        ('weighting = "scales"', "weighting: 'scales'"),
        ('[network]\nkind = "ncsnpp"\nside = 64\nattention = [32]', "ncsnpp"),
        ('[network]\nkind = "vit"', "kind: 'vit'"),
        ('preset = "cifar10"\n[network]\nattention = [7]', "attention"),
    ],
)
def test_bad_values_of_a_recipe_of_fields(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "run.toml").write_text(line + "\n")
    with pytest.raises(BadInput, match=re.escape(named)):
        read_recipe(tmp_path / "run.toml")


def test_a_run_that_diverges_stops(tmp_path: Path) -> None:
    """At the first loss that is no number; what was saved stays."""
    trainer = Trainer(replace(CONFIG, save_every=2), source())
    for _ in range(2):
        trainer.train_step()
    trainer.save(tmp_path / "c")
    with torch.no_grad():
        trainer.network.enter.weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="at step 3 the loss is nan"):
        train(trainer, tmp_path / "c")
    assert Trainer.resume(tmp_path / "c", replace(CONFIG, save_every=2), source()).step == 2


def test_weights_with_other_grids_are_no_start() -> None:
    trainer = Trainer(replace(CONFIG, output="v"), source())
    with pytest.raises(BadInput, match=r"window = None.*weights with a grid for every scale"):
        trainer.start_from(replace(tiny_weights("v"), window=None))


def test_fields_of_several_components_are_refused(tmp_path: Path) -> None:
    """By training, refinement and the paper's protocol, with one line each."""
    values = np.random.default_rng(1).normal(size=(64, 2, 8, 8)).astype(np.float32)
    with create_store(
        tmp_path / "xy.zarr", field="field", n_samples=64, shape=(8, 8), chunk=64, components=2,
        attrs={}, variables=(),
    ) as writer:  # fmt: skip
        writer.commit({"field": values})
    with pytest.raises(BadInput, match=r"of 2 components.*one number per site"):
        training_source(tmp_path / "xy.zarr", replace(CONFIG, output="v"))
    weights = tiny_weights("v")
    coarse = sp.coarsen(tmp_path / "xy.zarr", 2, output=tmp_path / "coarse.zarr")
    with pytest.raises(BadInput, match=r"of several components.*one number per site"):
        sp.refine(coarse, checkpoint=weights, any_system=True)
    with pytest.raises(BadInput, match="one number per site"):
        sp.generate(truth=tmp_path / "xy.zarr", factor=2, checkpoint=weights)
