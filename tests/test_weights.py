"""Weights on disk: the round trip, and everything that must be refused without being run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from skild_helpers import TC, tiny_weights

from skild_phys.errors import WeightsError
from skild_phys.skild.recipe import as_record, read_recipe
from skild_phys.skild.weights import (
    load_weights,
    save_weights,
    shipped_weights,
    weights_sha256,
    write_tensors,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_weights(tmp_path / "w.safetensors", tiny_weights())
    return tmp_path / "w.safetensors"


def test_round_trip(path: Path) -> None:
    loaded, original = load_weights(path), tiny_weights()
    assert weights_sha256(loaded) == weights_sha256(original)
    assert vars(loaded) | {"tensors": 0} == vars(original) | {"tensors": 0}
    x, lam = torch.randn(1, 7, 16, 16), torch.tensor([1.0])
    with torch.inference_mode():
        assert torch.equal(loaded.build()(x, lam), original.build()(x, lam))


def test_the_same_weights_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "again.safetensors", load_weights(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_every_truncation_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=r"w\.safetensors"):
            load_weights(path)


def test_flipped_bits_are_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data), max(1, (len(data) - header) // 40)):
        data[place] ^= 16
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="SHA-256"):
            load_weights(path)
        data[place] ^= 16


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("bomb-went-off"),)  # type: ignore[return-value]


def test_a_pickle_in_disguise_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(WeightsError, match="not a readable"):
        load_weights(tmp_path / "bad.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.safetensors")
    with pytest.raises(WeightsError, match="not a readable"):
        load_weights(tmp_path / "torch.safetensors")
    assert not (tmp_path / "bomb-went-off").exists()


def rewrite(path: Path, record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a weights file whose SHA-256 is right, whatever its record is."""
    write_tensors(path, "skild-phys", record, tensors)


def test_an_altered_record_is_refused(path: Path) -> None:
    """Spectrum and reach of lambda decide a refinement as much as the tensors do."""
    data = path.read_bytes()
    for was, now in (
        (b"0.66", b"0.67"),
        (b"1000000000000.0", b"2000000000000.0"),
        (b"45.0", b"44.0"),
    ):
        altered = data.replace(was, now, 1)
        assert altered != data
        path.write_bytes(altered)
        with pytest.raises(WeightsError, match="SHA-256"):
            load_weights(path)


def test_numbers_that_are_not_finite_are_refused(path: Path) -> None:
    weights = load_weights(path)
    name = next(iter(weights.tensors))
    for bad in (float("nan"), float("inf")):
        weights.tensors[name].view(-1)[0] = bad
        save_weights(path, weights)
        with pytest.raises(WeightsError, match="not finite"):
            load_weights(path)


@pytest.mark.parametrize("number", [float, np.float64])
def test_samples_of_another_temperature_do_not_fit(number: type) -> None:
    weights = tiny_weights()
    at = {"model": "ising2d", "temperature": number(TC)}
    assert weights.check_fit(at, Path("c.zarr")) == []
    at["temperature"] = number(2.5)
    with pytest.raises(WeightsError, match=r"is at T = 2\.5, the weights are of T = 2\.26919"):
        weights.check_fit(at, Path("c.zarr"))
    assert len(weights.check_fit(at, Path("c.zarr"), any_system=True)) == 1


def test_the_shipped_weights_are_whole() -> None:
    """One run of the preset made them, from nothing."""
    weights = load_weights(shipped_weights())
    assert weights.system["model"] == "ising2d"
    config = weights.training["config"]
    recipe = read_recipe("ising2d", seed=config["seed"])
    assert config == json.loads(json.dumps(as_record(recipe)))
    assert (config["initial"], weights.training["steps"]) == ("", recipe.steps)


def test_foreign_and_inconsistent_files_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such"):
        load_weights(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not a weights file"):
        load_weights(tmp_path / "foreign.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    for change, message in (
        (
            {"network": {"kind": "unet", "patch": 4, "channels": [8, 8], "blocks": [1, 1]}},
            "do not fit",
        ),
        ({"network": {"layers": 3}}, "incomplete"),
        ({"network": {"patch": 0}}, "incomplete"),
        ({"output": "magic"}, "magic"),
        ({"spectrum": {}}, "incomplete"),
    ):
        rewrite(tmp_path / "odd.safetensors", json.loads(header["skild-phys"]) | change, tensors)
        with pytest.raises(WeightsError, match=message):
            load_weights(tmp_path / "odd.safetensors")
