"""Scores of images by the libraries that define them, with weights from a folder or a cache.

FID and Inception Score are torch-fidelity's, PSNR, SSIM and MS-SSIM torchmetrics', LPIPS that of
its authors, MUSIQ and CLIP-IQA pyiqa's (whose licence is non-commercial: its own extra). A Frechet
distance of other features than those of the Inception network of 2015 is never called FID.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skild_phys.errors import BadInput, StoreError, WeightsError, how_to_install
from skild_phys.files import sha256_file
from skild_phys.images.refine import LowResolution
from skild_phys.skild.data import ImageLattices, fields_of
from skild_phys.skild.ncsnpp import read_published

_Array = NDArray[np.float64]
_Pixels = NDArray[np.uint8]
Pairs = Iterable[tuple[_Pixels, _Pixels]]
"""Batches of images and their truths."""

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_ALEXNET = "alexnet-owt-7be5be79.pth"
_FROM = {
    INCEPTION: "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + INCEPTION,
    _ALEXNET: "https://download.pytorch.org/models/" + _ALEXNET,
}
_PAIRED = {
    "psnr": (1, "peak_signal_noise_ratio", {"dim": (1, 2, 3)}),
    "ssim": (11, "structural_similarity_index_measure", {}),
    "ms-ssim": (176, "multiscale_structural_similarity_index_measure", {}),
    "lpips": (32, "", {}),
}
"""Scores beside a truth: the smallest side (a window of 11 pixels, also at the coarsest of five
scales; what is left of it after AlexNet's strides), torchmetrics' name and options."""
_OF_SETS = ("fid", "is", "frechet")
_ALONE = {"musiq": "musiq", "clip-iqa": "clipiqa"}
"""Scores of an image by itself: pyiqa's names."""
_SCORES = (*_OF_SETS, *_PAIRED, *_ALONE)
_PAPER = {"fid": 2.65, "is": 9.63}
"""The paper's figures, 50,000 images beside CIFAR-10's 50,000 for training (arXiv 2605.26032)."""
_BATCH = 64


class _ImageSet(Protocol):
    """Images that can be read by their index."""

    def __len__(self) -> int: ...

    def pixels(self, index: Sequence[int]) -> _Pixels:
        """Return images (len(index), channels, Ly, Lx), 8-bit."""


@dataclass(frozen=True)
class Score:
    """A score with its spread.

    Attributes
    ----------
    name : what it is; a distance of other features than FID's names their file.
    value, error : of means over images the standard error; of an Inception Score the standard
        deviation over its ten parts; None where there is none.
    n : images.
    paper : the paper's figure, where the protocol is the same.
    """

    name: str
    value: float
    error: float | None
    n: int
    paper: float | None = None


def evaluate(
    images: ImageLattices,
    scores: Sequence[str],
    reference: ImageLattices | None = None,
    *,
    weights: Path | None = None,
    features: Path | None = None,
    low: ImageLattices | None = None,
    device: str = "cpu",
) -> list[Score]:
    """Return scores of the images of a store.

    Parameters
    ----------
    scores : fid, is, frechet, psnr, ssim, ms-ssim, lpips, musiq, clip-iqa.
    reference : of scores of sets, all that belong to them; of paired ones the truths, of which the
        store's variable `parent` says which: an index in their whole store.
    weights : folder with weights of networks; PyTorch's cache is looked through as well.
    features : weights of VGG16 for the score 'frechet'.
    low : low-resolution images that these were made from: adds 'consistency', the rms of A x - y in
        units of 8-bit intensities.

    Raises BadInput, WeightsError or StoreError if something is missing.
    """
    for name in scores:
        if name not in _SCORES:
            raise BadInput("scores", name, ", ".join(_SCORES))
        if name != "is" and name not in _ALONE and reference is None:
            raise BadInput("against", None, f"a store of images for {name}")
    if "frechet" in scores and features is None:
        raise BadInput("features", None, "weights of VGG16 for the score frechet")
    if len(images) < 2 and set(scores) & set(_OF_SETS):
        raise BadInput("n", len(images), "2 images or more for a distance of sets")
    found: list[Score] = []
    if reference is not None and (paired := [name for name in scores if name in _PAIRED]):
        parents = _parents(images, reference)
        for name in paired:
            pairs = (
                (images.pixels(index), reference.pixels(parents[index].tolist()))
                for index in _batches(len(images))
            )
            found.append(_paired_score(name, pairs, weights))
    if low is not None:
        found.append(_consistency(images, low))
    if inception := [name for name in scores if name in ("fid", "is")]:
        # The paper's protocol: 50,000 images beside CIFAR-10's own 50,000 to train on.
        official = reference is not None and reference.store.attrs.get("source") == "official"
        counts = [len(images), len(reference), reference.first] if reference and official else []
        paper = _PAPER if counts == [50_000, 50_000, 0] else {}
        made = _inception_scores(inception, images, reference, weights, device)
        found += [replace(score, paper=paper.get(score.name)) for score in made]
    if "frechet" in scores and reference is not None and features is not None:
        found.append(_frechet_score(images, reference, features))
    return found + [_quality_score(name, images, weights) for name in scores if name in _ALONE]


def _batches(n: int) -> Iterator[range]:
    """Yield the indices of `n` images, _BATCH at once."""
    for first in range(0, n, _BATCH):
        yield range(first, min(first + _BATCH, n))


def _parents(images: ImageLattices, reference: ImageLattices) -> NDArray[np.int64]:
    """Return the place of each image's truth in `reference`; raises BadInput."""

    def check(right: bool, accepted: str) -> None:
        if not right:
            raise BadInput("against", str(reference.path), accepted)

    sizes = [(one.channels, *one.shape) for one in (images, reference)]
    check(sizes[0] == sizes[1], f"images of {sizes[0]}, as {images.path} has")
    check("parent" in images.store.variables, f"no paired score: {images.path} has no parents")
    parents = images.store.variable("parent").astype(np.int64) - reference.first
    inside = parents.min() >= 0 and parents.max() < len(reference)
    check(inside, f"the store or split that {images.path} comes from")
    # Last: an identity takes all images of a store.
    truth = images.store.attrs.get("truth_sha256")
    same = truth is None or truth == reference.identity()
    check(same, f"the store that {images.path} comes from")
    return parents


def _consistency(images: ImageLattices, low: ImageLattices) -> Score:
    """Return the rms of A x - y over pixels, images as they are stored, in 8-bit intensities."""
    rule, own = low.store.attrs.get("rule"), images.store.attrs.get("parent_sha256")
    if rule is None:
        raise BadInput("low", str(low.path), "images that 'images coarsen' made")
    if len(low) < len(images):
        raise BadInput("low", str(low.path), f"{len(images)} images or more")
    if own is not None and own != low.store.digest():
        raise BadInput("low", str(low.path), f"the store that {images.path} was made from")
    operator = LowResolution(str(rule), images.shape, low.shape)
    squares = [
        operator.misfit(fields_of(images.pixels(index)), fields_of(low.pixels(index)))
        for index in _batches(len(images))
    ]
    value = float(np.sqrt(np.concatenate(squares).mean()))
    return Score("consistency", value, None, len(images))


def _library(name: str, extra: str = "images") -> Any:
    """Return a module of an optional extra; StoreError says how to get it."""
    try:
        _torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise StoreError(f"{missing}: is not installed; {how_to_install(extra)}") from None


def _torchvision() -> None:
    """Import torchvision, beside a PyTorch that its compiled part was not built for as well.

    Only networks and transforms in Python are used; what would describe the compiled operators
    to PyTorch is what then fails, and is left out.
    """
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        absent = "torchvision._meta_registrations"
        sys.modules[absent] = types.ModuleType(absent)
        importlib.import_module("torchvision")


def _weights_file(name: str, folder: Path | None) -> Path:
    """Return where the weights `name` lie: in `folder`, or in PyTorch's cache; WeightsError."""
    places = [*([folder] if folder else []), Path(torch.hub.get_dir()) / "checkpoints"]
    stem = name.removesuffix(".pth")
    for place in places:
        for file in (place / name, place / f"{stem}.safetensors"):
            if file.is_file():
                return file
    where = " or ".join(map(str, places))
    raise WeightsError(f"{name}: not found in {where}; it is at {_FROM[name]}")


def _named_so(path: Path) -> bool:
    """Return whether the SHA-256 of a file begins as the last part of its name says."""
    return sha256_file(path).startswith(path.stem.rpartition("-")[2])


def _mean(name: str, judged: Iterable[Any]) -> Score:
    """Return the mean of what a judge says of batches, lazily, and its standard error."""
    with torch.inference_mode():
        values = np.concatenate([np.asarray(one.double()).reshape(-1) for one in judged])
    known = len(values) > 1 and bool(np.isfinite(values).all())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if known else None
    return Score(name, float(values.mean()), error, len(values))


def _float(pixels: _Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32))


def _colours(images: _ImageSet, index: Sequence[int]) -> Tensor:
    """Return images of three channels, 0 to 1; grey ones have three equal channels."""
    return _float(images.pixels(index)).expand(-1, 3, -1, -1) / 255.0


def _paired_score(name: str, pairs: Pairs, folder: Path | None = None) -> Score:
    """Return the mean over images of `name`, one of _PAIRED; intensities are 0 to 255."""
    smallest, function, options = _PAIRED[name]
    of: Callable[[Tensor, Tensor], Any]
    if name == "lpips":
        of = _lpips(folder)
    else:
        image: Any = _library("torchmetrics.functional.image")
        known = {"data_range": 255.0, "reduction": "none", **options}
        of = functools.partial(getattr(image, function), **known)

    def judged() -> Iterator[Any]:
        for a, b in pairs:
            if min(a.shape[-2:]) < smallest:
                accepted = f"images of {smallest} pixels or more a side"
                raise BadInput("scores", f"{name} of {a.shape[-2:]}", accepted)
            yield of(_float(a), _float(b))

    return _mean(name, judged())


def _lpips(folder: Path | None) -> Callable[[Tensor, Tensor], Any]:
    """Return LPIPS of version 0.1 on AlexNet; ImageNet's weights lie in a file."""
    path = _weights_file(_ALEXNET, folder)
    lpips = _library("lpips")
    with contextlib.redirect_stdout(sys.stderr):
        judge = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    own = judge.net.state_dict()
    theirs = read_published(path)
    try:
        for key in own:
            _, layer, end = key.split(".")
            own[key] = theirs[f"features.{layer}.{end}"]
        judge.net.load_state_dict(own)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: is no AlexNet of torchvision ({error})") from None
    # A grey image is one of three equal channels.
    return lambda *both: judge(*(x.expand(-1, 3, -1, -1) / 127.5 - 1.0 for x in both))


class _Dataset(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: _ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(self.images.pixels([i])[0]).expand(3, -1, -1)


def _inception_scores(
    names: Sequence[str],
    images: _ImageSet,
    reference: _ImageSet | None,
    folder: Path | None = None,
    device: str = "cpu",
) -> list[Score]:
    """Return FID and Inception Score, those of them that `names` has."""
    path = _weights_file(INCEPTION, folder)
    fidelity, weights = _library("torch_fidelity"), io.BytesIO()
    # torch-fidelity would unpickle anything: it is given what was read as tensors alone.
    torch.save(read_published(path), weights)
    weights.seek(0)
    found = fidelity.calculate_metrics(
        input1=_Dataset(images), input2=None if reference is None else _Dataset(reference),
        cuda=device != "cpu", batch_size=_BATCH, verbose=False, save_cpu_ram=True,
        isc_splits=min(10, len(images)), samples_find_deep=False,
        feature_extractor_weights_path=weights, fid="fid" in names, isc="is" in names,
    )  # fmt: skip
    own = "" if _named_so(path) else f" of the features of {path.name}, not Inception's of 2015"
    scores = []
    if "fid" in names:
        distance = float(found["frechet_inception_distance"])
        scores.append(Score(f"frechet{own}" if own else "fid", distance, None, len(images)))
    if "is" in names:
        value, error = (float(found[f"inception_score_{which}"]) for which in ("mean", "std"))
        scores.append(Score(f"is{own}", value, error, len(images)))
    return scores


# -- the Frechet distance of features of one's own ---------------------------------------------

_FEATURE_SIDE = 64  # smaller images are enlarged to it before their features are taken
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


def feature_network(path: Path) -> nn.Module:
    """Return the convolutions of VGG16 up to relu5_3 with weights from a file.

    The file has the names of torchvision (`features.0.weight`, ...), as safetensors or a PyTorch
    file of tensors alone. WeightsError if it is something else.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for width in _VGG16:
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    network = nn.Sequential(*layers)
    theirs = read_published(path)
    kept = {k: theirs.get(f"features.{k}", torch.empty(0)) for k in network.state_dict()}
    try:
        network.load_state_dict(kept)
    except RuntimeError:
        names = "'features' of VGG16 as torchvision names them"
        raise WeightsError(f"{path}: has no {names}") from None
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def features(network: nn.Module, images: _ImageSet) -> _Array:
    """Return the features (n, 512) of all images: means over sites, float32's as float64."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (_MEAN, _STD))
    out = []
    for index in _batches(len(images)):
        x = _colours(images, index)
        if (least := min(x.shape[-2:])) < _FEATURE_SIDE:
            size = [round(side * _FEATURE_SIDE / least) for side in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", antialias=False)
        seen = network(((x - mean) / std).contiguous(memory_format=torch.channels_last))
        out.append(seen.mean((-2, -1)).double().numpy())
    return np.concatenate(out)


def frechet_distance(a: _Array, b: _Array) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of features (n, d), n >= 2."""
    (m, c), (other_m, other_c) = ((x.mean(0), np.atleast_2d(np.cov(x.T))) for x in (a, b))
    # C_a C_b has the eigenvalues of the symmetric S C_b S with S = C_a^1/2.
    values, vectors = np.linalg.eigh(c)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other_c @ root).clip(min=0.0)).sum()
    return float(((m - other_m) ** 2).sum() + np.trace(c) + np.trace(other_c) - 2.0 * shared)


def _frechet_score(images: _ImageSet, reference: _ImageSet, path: Path) -> Score:
    """Return the Frechet distance of the features of VGG16 with the weights in `path`."""
    network = feature_network(path)
    distance = frechet_distance(features(network, images), features(network, reference))
    return Score(f"frechet of VGG16 features ({path.name})", distance, None, len(images))


# -- no reference: pyiqa -----------------------------------------------------------------------


@contextlib.contextmanager
def _nothing_fetched(folder: Path | None) -> Iterator[None]:
    """Let pyiqa find weights in its cache, in `folder` if given, and nowhere else, in silence."""

    def refuse(url: str, target: str | None = None, *args: object, **kwargs: object) -> None:
        where = target or Path(torch.hub.get_dir(), "clip", Path(url).name)
        raise WeightsError(f"{where}: is missing, or another file; it is at {url}")

    loader: Any = importlib.import_module("pyiqa.utils.download_util")
    clip: Any = importlib.import_module("pyiqa.archs.clip_model")
    urllib = types.SimpleNamespace(request=types.SimpleNamespace(urlopen=refuse))
    home = {} if folder is None else {"TORCH_HOME": str(folder)}
    with patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", **home}):
        cache = str(Path(torch.hub.get_dir()) / "pyiqa")
        with (
            patch.multiple(loader, download_url_to_file=refuse, DEFAULT_CACHE_DIR=cache),
            patch.object(clip, "urllib", urllib),
            contextlib.redirect_stdout(io.StringIO()),  # it says "Downloading", and "Loading"
        ):
            yield


def _quality_score(name: str, images: _ImageSet, folder: Path | None = None) -> Score:
    """Return the mean MUSIQ or CLIP-IQA of images, by pyiqa.

    Its weights lie in PyTorch's cache, or in one that `folder` is; they are not fetched, and read
    as tensors alone.
    """
    pyiqa = _library("pyiqa", "quality")
    try:
        with _nothing_fetched(folder):
            judge = pyiqa.create_metric(_ALONE[name], device="cpu")
    except ImportError as error:
        raise StoreError(f"pyiqa cannot be imported here ({error}): needed for {name}") from None
    except pickle.UnpicklingError:
        raise WeightsError(f"{name}: its weights hold objects, which are not unpickled") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        where = f"neither in {folder or torch.hub.get_dir()} nor to be had"
        raise WeightsError(f"{name}: its weights are {where} ({reason})") from None
    return _mean(name, (judge(_colours(images, index)) for index in _batches(len(images))))
