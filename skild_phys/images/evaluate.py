"""Images of a store, judged beside others: which belongs to which, and the scores of all."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.images import metrics
from skild_phys.images.lowres import LowResolution
from skild_phys.images.metrics import ALONE, OF_SETS, PAIRED, SCORES, Pixels, Score
from skild_phys.skild.data import ImageLattices, fields_of


class StoredImages:
    """The first `n` images of a store or split, read chunk by chunk."""

    def __init__(self, images: ImageLattices, n: int | None = None) -> None:
        self.images, self._n = images, min(n or images.n_samples, images.n_samples)
        self._chunk = functools.lru_cache(1)(self._read)

    def __len__(self) -> int:
        return self._n

    def _read(self, chunk: int) -> Pixels:
        first, images = chunk * self.images.chunk, self.images
        last = min(first + images.chunk, images.n_samples)
        return images.store.read(images.first + first, images.first + last)

    def pixels(self, index: Sequence[int]) -> Pixels:
        """Return images (n, channels, Ly, Lx)."""
        places = (divmod(int(i), self.images.chunk) for i in index)
        return np.stack([self._chunk(chunk)[i] for chunk, i in places])


def evaluate(
    images: ImageLattices,
    scores: Sequence[str],
    reference: ImageLattices | None = None,
    *,
    n: int | None = None,
    weights: Path | None = None,
    features: Path | None = None,
    low: ImageLattices | None = None,
    device: str = "cpu",
) -> list[Score]:
    """Return scores of the first `n` images of a store (None: all).

    Parameters
    ----------
    scores : of `metrics.SCORES`.
    reference : of scores of sets, all that belong to them; of paired ones the truths, of which the
        store's variable `parent` says which: an index in their whole store.
    weights : folder with weights of networks; PyTorch's cache is looked through as well.
    features : weights of VGG16 for the score 'frechet'.
    low : low-resolution images that these were made from: adds 'consistency', the rms of A x - y in
        units of 8-bit intensities.

    Raises BadInput, WeightsError or StoreError if something is missing.
    """
    for name in scores:
        if name not in SCORES:
            raise BadInput("scores", name, ", ".join(SCORES))
        if name != "is" and name not in ALONE and reference is None:
            raise BadInput("against", None, f"a store of images for {name}")
    if "frechet" in scores and features is None:
        raise BadInput("features", None, "weights of VGG16 for the score frechet")
    mine = StoredImages(images, n)
    if len(mine) < 2 and set(scores) & set(OF_SETS):
        raise BadInput("n", len(mine), "2 images or more for a distance of sets")
    theirs = None if reference is None else StoredImages(reference)
    found: list[Score] = []
    paired = [name for name in scores if name in PAIRED]
    if paired and reference is not None:
        parents, truths = _parents(images, reference), StoredImages(reference)

        def pairs() -> Iterator[tuple[Pixels, Pixels]]:
            for index in metrics.batches(len(mine)):
                yield mine.pixels(index), truths.pixels(parents[index.start : index.stop].tolist())

        found += [metrics.paired_score(name, pairs, weights) for name in paired]
    if low is not None:
        found.append(consistency(mine, low, images))
    inception = [name for name in scores if name in ("fid", "is")]
    if inception:
        # The paper's protocol: 50,000 images beside CIFAR-10's own 50,000 to train on.
        own = reference is not None and reference.store.attrs.get("source") == "official"
        counts = [len(mine), reference.n_samples, reference.first] if reference and own else []
        paper = metrics.PAPER if counts == [50_000, 50_000, 0] else {}
        made = metrics.inception_scores(inception, mine, theirs, weights, device)
        found += [replace(score, paper=paper.get(score.name)) for score in made]
    if "frechet" in scores and theirs is not None and features is not None:
        found.append(metrics.frechet_score(mine, theirs, features))
    return found + [metrics.quality_score(name, mine, weights) for name in scores if name in ALONE]


def _parents(images: ImageLattices, reference: ImageLattices) -> NDArray[np.int64]:
    """Return the place of each image's truth in `reference`; raises BadInput."""

    def refuse(unless: bool, accepted: str) -> None:
        if not unless:
            raise BadInput("against", str(reference.path), accepted)

    sizes = [(one.channels, *one.shape) for one in (images, reference)]
    refuse(sizes[0] == sizes[1], f"images of {sizes[0]}, as {images.path} has")
    refuse(images.store.has("parent"), f"no paired score: {images.path} has no parents")
    truth = images.store.attrs.get("truth_sha256")
    same = truth is None or truth == reference.identity()
    refuse(same, f"the store that {images.path} comes from")
    parents = images.store.variable("parent").astype(np.int64) - reference.first
    inside = parents.min() >= 0 and parents.max() < reference.n_samples
    refuse(inside, f"the store or split that {images.path} comes from")
    return parents


def consistency(mine: StoredImages, low: ImageLattices, images: ImageLattices) -> Score:
    """Return the rms of A x - y over pixels, images as they are stored, in 8-bit intensities."""
    attrs = low.store.attrs
    if "rule" not in attrs:
        raise BadInput("low", str(low.path), "images that 'images coarsen' made")
    operator = LowResolution(str(attrs["rule"]), images.shape, low.shape)
    own = images.store.attrs.get("parent_sha256")
    if own is not None and own != low.store.digest():
        raise BadInput("low", str(low.path), f"the store that {images.path} was made from")
    given = StoredImages(low, len(mine))
    if len(given) < len(mine):
        raise BadInput("low", str(low.path), f"{len(mine)} images or more")
    squares = []
    for index in metrics.batches(len(mine)):
        seen = operator.apply(fields_of(mine.pixels(index)).astype(np.float64))
        missing = 127.5 * (seen - fields_of(given.pixels(index)))
        squares.append((missing**2).mean((1, 2, 3)))
    return Score("consistency", float(np.sqrt(np.concatenate(squares).mean())), None, len(mine))
