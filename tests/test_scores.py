"""Scores: the libraries' numbers where they are known, and honest names and messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import image_store, photographs
from safetensors.torch import save_file

from skild_phys.errors import BadInput, StoreError, WeightsError
from skild_phys.images import scores
from skild_phys.images.refine import coarsen_images, refine_images
from skild_phys.images.scores import evaluate
from skild_phys.images.spec import ImageRefineSpec
from skild_phys.runner import Run
from skild_phys.skild.data import ImageLattices
from skild_phys.store import open_store


class Images:
    """Images in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: Sequence[int]) -> np.ndarray:
        return self.images[list(index)]


def pairs_of(a: np.ndarray, b: np.ndarray) -> scores.Pairs:
    return [(a[i : i + 3], b[i : i + 3]) for i in range(0, len(a), 3)]


def random_file(path: Path, convolutions: dict[int, tuple[int, int, int]]) -> Path:
    """Write random weights `features.N.weight` and `.bias` under the names of torchvision."""
    torch.manual_seed(1)
    tensors = {}
    for n, (inputs, outputs, side) in convolutions.items():
        tensors[f"features.{n}.weight"] = 0.1 * torch.randn(outputs, inputs, side, side)
        tensors[f"features.{n}.bias"] = torch.zeros(outputs)
    save_file(tensors, path)
    return path


ALEXNET = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}


def test_psnr_and_ssim_of_known_pairs() -> None:
    """An error of 1 grey level everywhere: 20 log10(255) = 48.13 dB; SSIM of equals is 1."""
    a = photographs(4, 24).clip(1, 254)
    off = a.copy()
    off[1] += 1
    off[2] -= 2
    for name, wanted in (("psnr", 48.1308), ("ssim", 1.0)):
        score = scores._paired_score(name, pairs_of(off[1:2], a[1:2]))
        assert score.value == pytest.approx(wanted, abs=2e-3)
    twice = scores._paired_score("psnr", pairs_of(off[1:3], a[1:3]))
    assert twice.value == pytest.approx(48.1308 - 10 * np.log10(4.0) / 2, abs=1e-3)
    assert twice.n == 2
    assert twice.error == pytest.approx(10 * np.log10(4.0) / 2, abs=1e-3)
    large = photographs(2, 176)
    assert scores._paired_score("ms-ssim", pairs_of(large, large)).value == pytest.approx(1.0)
    with pytest.raises(BadInput, match="176 pixels"):
        scores._paired_score("ms-ssim", pairs_of(a, a))


def test_lpips_takes_its_weights_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79\.pth: not found in .*https"):
        scores._paired_score("lpips", pairs_of(*[photographs(1, 64)] * 2), tmp_path)
    random_file(tmp_path / "alexnet-owt-7be5be79.safetensors", ALEXNET)
    a, b = photographs(2, 64), photographs(2, 64, seed=9)
    assert scores._paired_score("lpips", pairs_of(a, a), tmp_path).value == 0.0
    other = scores._paired_score("lpips", pairs_of(a, b), tmp_path).value
    assert other > 1e-3
    assert scores._paired_score("lpips", pairs_of(b, a), tmp_path).value == pytest.approx(other)
    grey = photographs(2, 64, channels=2)[:, :1]
    assert scores._paired_score("lpips", pairs_of(grey, grey), tmp_path).value == 0.0
    random_file(tmp_path / "alexnet-owt-7be5be79.safetensors", {0: (3, 64, 3)})
    with pytest.raises(WeightsError, match="no AlexNet"):
        scores._paired_score("lpips", pairs_of(a, b), tmp_path)


def test_the_frechet_distance_of_gaussians() -> None:
    """b = 2 a + 3: |m|^2 with m the shift of the mean, and tr C (1 - 2)^2. Planted, seen to fail:
    the root of C_a times that of C_b, of features that are not uncorrelated."""
    random = np.random.default_rng(1)
    a = random.standard_normal((500, 6)) @ random.standard_normal((6, 6))
    shift = a.mean(0) + 3.0
    wanted = shift @ shift + np.trace(np.cov(a.T))
    assert scores.frechet_distance(a, 2.0 * a + 3.0) == pytest.approx(wanted, rel=1e-9)
    assert scores.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    # Two Gaussians in the plane whose covariances do not commute; tr of a root by hand.
    x = random.standard_normal((4000, 2))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
    one, two = np.diag([2.0, 1.0]), np.array([[1.0, 0.6], [0.6, 1.0]])
    product = one @ one @ two @ two.T
    root = np.sqrt(np.trace(product) + 2.0 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(one @ one) + np.trace(two @ two.T) - 2.0 * root
    assert scores.frechet_distance(x @ one.T, x @ two.T) == pytest.approx(wanted, rel=1e-9)


def test_a_distance_of_other_features_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.safetensors"
    with pytest.raises(WeightsError, match=r"vgg16\.safetensors"):
        scores.feature_network(path)
    sides = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512,
             24: 512, 26: 512, 28: 512}  # fmt: skip
    inputs = [3, *sides.values()]
    random_file(path, {n: (inputs[i], out, 3) for i, (n, out) in enumerate(sides.items())})
    images, others = Images(photographs(6, 32)), Images(photographs(7, 32, seed=5))
    score = scores._frechet_score(images, others, path)
    assert "fid" not in score.name.lower()
    assert "vgg16.safetensors" in score.name
    assert score.value > 0.0
    found = scores.features(scores.feature_network(path), images)
    assert (found.shape, found.dtype) == ((6, 512), np.float64)
    random_file(path, ALEXNET)
    with pytest.raises(WeightsError, match="VGG16"):
        scores.feature_network(path)


@pytest.mark.slow
def test_inception_scores_run_and_are_no_fid_with_other_weights(tmp_path: Path) -> None:
    """torch-fidelity's own path, on a random network of Inception's shape."""
    scores._library("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *args: object, **kwargs: object) -> None: ...

    torch.save({}, tmp_path / "none.pth")
    torch.manual_seed(1)
    network = Untrained("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth"))
    torch.save(network.state_dict(), tmp_path / scores.INCEPTION)
    images, others = Images(photographs(12, 32)), Images(photographs(10, 32, seed=5))
    fid, inception = scores._inception_scores(["fid", "is"], images, others, tmp_path)
    assert fid.name.startswith("frechet of the features of weights-inception")
    assert inception.name.startswith("is of the features")
    assert fid.value >= 0.0
    assert inception.value == pytest.approx(1.0, abs=0.2)


def test_a_file_is_what_its_name_says(tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(b"x").hexdigest()
    good, bad = tmp_path / f"w-{digest[:8]}.pth", tmp_path / "w-00000000.pth"
    for path in (good, bad):
        path.write_bytes(b"x")
    assert scores._named_so(good)
    assert not scores._named_so(bad)


def test_images_beside_their_truths(tmp_path: Path) -> None:
    """Parents decide what belongs to what, in a store whose order is another one."""
    store = image_store(tmp_path / "f.zarr", photographs(9, 24), tests=5)
    fine = ImageLattices(store, "test")
    low = coarsen_images(fine, tmp_path / "l.zarr", "area", 2.0, Run()).lattices
    bicubic = ImageRefineSpec(factor=2.0, method="bicubic")
    refine_images(low, tmp_path / "b.zarr", bicubic, None, Run())
    made = ImageLattices(open_store(tmp_path / "b.zarr"))
    found = evaluate(made, ["psnr", "ssim"], fine, low=ImageLattices(low))
    images, truths = open_store(tmp_path / "b.zarr").read(0, 5), store.read(4, 9)
    error = ((images.astype(float) - truths) ** 2).mean((1, 2, 3))
    assert found[0].value == pytest.approx((10 * np.log10(255.0**2 / error)).mean(), rel=1e-5)
    assert [score.name for score in found] == ["psnr", "ssim", "consistency"]
    assert found[2].value > 0.5
    assert evaluate(made, ["psnr"], ImageLattices(store))[0].value == found[0].value
    two = ImageLattices(open_store(tmp_path / "b.zarr"), n=2)
    assert evaluate(two, ["psnr"], fine)[0].n == 2
    for words, message in (
        ((["psnr"], None), "missing against"),
        ((["psnr", "best"], fine), "scores: 'best'"),
        ((["psnr"], ImageLattices(store, "train")), "the store or split"),
        ((["psnr"], ImageLattices(low)), "against"),
        ((["frechet"], fine), "missing features"),
    ):
        with pytest.raises(BadInput, match=message):
            evaluate(made, *words)
    with pytest.raises(BadInput, match="no paired score"):
        evaluate(fine, ["psnr"], fine)
    with pytest.raises(BadInput, match="low"):
        evaluate(made, ["psnr"], fine, low=ImageLattices(store))


def test_pyiqa_is_its_own_extra() -> None:
    if scores.importlib.util.find_spec("pyiqa") is not None:
        pytest.skip("pyiqa is installed")
    with pytest.raises(StoreError, match=r"\.\[quality\]"):
        scores._quality_score("musiq", Images(photographs(2)))
