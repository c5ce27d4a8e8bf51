"""Training: it learns, it stops and goes on to the same bytes, it says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skild_helpers import TC, TINY, critical_lattices

from skild_phys.errors import BadInput, Interrupted, WeightsError
from skild_phys.lattice.models import Ising2D
from skild_phys.skild.config import TrainConfig, read_config
from skild_phys.skild.source import SimulationSource, Source, StoreSource
from skild_phys.skild.train import Trainer, learning_rate, symmetry, train
from skild_phys.store import create_store, open_store

CONFIG = TrainConfig(
    side=16, steps=12, batch=8, warmup=4, save_every=5, spectrum_batches=4, ema=0.5, network=TINY
)


def source(config: TrainConfig = CONFIG) -> Source:
    return SimulationSource(config.side, TC, config.batch, 2, config.seed, burn_in=20)


def weights_after(trainer: Trainer, checkpoint: Path) -> dict[str, torch.Tensor]:
    train(trainer, checkpoint)
    return trainer.weights({}).tensors


@pytest.mark.parametrize("output", ["logits", "v"])
def test_stopped_and_resumed_ends_in_the_same_bytes(tmp_path: Path, output: str) -> None:
    torch.set_num_threads(1)
    config = replace(CONFIG, output=output)
    whole = weights_after(Trainer(config, source()), tmp_path / "whole")
    first = Trainer(config, source())
    with pytest.raises(Interrupted, match="step 7"):
        train(first, tmp_path / "part", stop=lambda: first.step == 7)
    second = Trainer(config, source())
    second.restore(tmp_path / "part")
    assert second.step == 7
    parts = weights_after(second, tmp_path / "part")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = weights_after(Trainer(CONFIG, source()), tmp_path / "whole")
    killed = Trainer(CONFIG, source())

    def die(step: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed, tmp_path / "part", progress=die)
    again = Trainer(CONFIG, source())
    again.restore(tmp_path / "part")
    assert again.step == 5
    parts = weights_after(again, tmp_path / "part")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_it_learns(tmp_path: Path) -> None:
    """The start costs ln 2 = 0.693 nats a site; far below it after 150 small steps."""
    config = replace(CONFIG, steps=150, learning_rate=3e-3)
    trainer = Trainer(config, source(config))
    train(trainer, tmp_path / "run")
    assert trainer.log[-1][1] < 0.42


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, source())
    trainer.save(tmp_path / "a")
    other = Trainer(replace(CONFIG, learning_rate=1e-4), source())
    with pytest.raises(WeightsError, match=r"learning_rate = 0.001, not 0.0001"):
        other.restore(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-9])
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        trainer.restore(tmp_path / "a")


def test_configuration_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "ising2d"\nseed = 7\n[network]\npatch = 2\n')
    config = read_config(file, steps=3)
    assert (config.seed, config.steps, config.network.patch) == (7, 3, 2)
    assert config.batch == read_config("ising2d").batch
    file.write_text("learning_rat = 1e-3\n")
    with pytest.raises(BadInput, match="'learning_rate'"):
        read_config(file)
    file.write_text("steps = 0\n")
    with pytest.raises(BadInput, match="steps: 0"):
        read_config(file)
    file.write_text("steps = \n")
    with pytest.raises(BadInput, match="readable TOML"):
        read_config(file)
    with pytest.raises(BadInput, match="ising2d"):
        read_config("ising3")


def test_learning_rates() -> None:
    config = replace(CONFIG, steps=100, warmup=10, decay_fraction=0.4, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(50, config) == 1.0
    assert learning_rate(80, config) == pytest.approx(0.5)
    cosine = replace(config, schedule="cosine")
    assert learning_rate(50, cosine) == pytest.approx(0.5)


def test_symmetries_keep_the_energy() -> None:
    spins = critical_lattices(3, 12)
    model, random = Ising2D(), torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(40):
        moved = symmetry(torch.from_numpy(spins.astype(np.float32)), random).numpy()
        assert np.allclose(model.energy(moved.astype(np.int8)), model.energy(spins))
        seen.add(moved.tobytes())
    assert len(seen) > 30


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
    stream = StoreSource(store, seed=3)
    epochs = [stream.next(11), stream.next(11)]
    for epoch in epochs:
        assert sorted((epoch == -1).sum(axis=(1, 2))) == list(range(11))
    assert not np.array_equal(*epochs)
    first = StoreSource(store, seed=3)
    first.next(5)
    second = StoreSource(store, seed=3)
    second.restore(first.state())
    assert np.array_equal(first.next(17), second.next(17))


def test_chains_of_the_simulation_go_on_where_they_stood() -> None:
    one = source()
    one.next(8)
    two = source()
    two.restore(one.state())
    assert np.array_equal(one.next(8), two.next(8))
    with pytest.raises(ValueError, match="8 chains"):
        one.next(7)
