"""Data sets of images into stores: CIFAR-10 as its authors give it, and folders of images.

Nothing is unpickled: of CIFAR-10 the binary version is read. Training images come first, then
those for testing, each split in an order of its own that depends on names and numbers alone: where
classes lie one after the other a chunk would hold one class.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from skild_phys.errors import BadInput, StoreError, how_to_install
from skild_phys.files import AnyPath
from skild_phys.rng import generator
from skild_phys.runner import Run, fill_store
from skild_phys.store import Lattices, Plan

_Pixels = NDArray[np.uint8]
_CHUNK_BYTES = 2**22

_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR10_SIDE, _ROW = 32, 1 + 3 * 32 * 32
_BINARIES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""SHA-256 of the files of CIFAR-10's binary version."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_TESTS = ("test", "val", "valid", "validation")
_TRAINS = ("train", "training")
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    RuntimeError, NotImplementedError,
)  # fmt: skip
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")


@dataclass(frozen=True)
class _ImageFiles:
    """Images that wait to be read.

    Attributes
    ----------
    n : how many.
    label, split : (n,) class, and 0 for training or 1 for testing.
    classes : names of the classes.
    read : index -> (channels, Ly, Lx) uint8.
    digest : SHA-256 that other images do not have.
    source : 'official' for CIFAR-10 byte for byte as its authors give it, 'binary' for other rows
        of that format, 'folder'.
    """

    n: int
    label: NDArray[np.int32]
    split: NDArray[np.int8]
    classes: tuple[str, ...]
    read: Callable[[int], _Pixels]
    digest: str
    source: str = "folder"


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a plain file of an archive below `folder`; links and devices are left out.

    `TarFile.extractall` refuses what lies outside from Python 3.11.4 on only.
    """
    path = Path(os.path.normpath(folder / member.name))
    content = tar.extractfile(member) if member.isreg() else None
    if content is not None:
        if not path.is_relative_to(folder):
            raise tarfile.TarError(f"'{member.name}' lies outside of it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, open(path, "wb") as file:
            shutil.copyfileobj(content, file)


@contextlib.contextmanager
def _opened(where: Path) -> Iterator[Path]:
    """Yield the folder `where`, or one with what the archive `where` holds; raises BadInput."""
    if where.is_dir():
        yield where
        return
    name = where.name.lower()
    if not where.is_file() or not name.endswith(_ARCHIVES):
        raise BadInput("from", str(where), "a folder, or an archive " + ", ".join(_ARCHIVES))
    with tempfile.TemporaryDirectory(prefix="skild-phys-") as folder:
        try:
            if name.endswith(".zip"):
                with zipfile.ZipFile(where) as archive:
                    archive.extractall(folder)
            else:
                with tarfile.open(where) as tar:
                    for member in tar:
                        _extract(tar, member, Path(folder))
                    # The checksum of what is compressed comes after the last member.
                    while tar.fileobj is not None and tar.fileobj.read(2**20):
                        pass
        except _DAMAGED as error:
            raise StoreError(f"{where}: is no archive that can be read: {error}") from None
        yield Path(folder)


def _cifar10_binary(folder: Path) -> _ImageFiles | None:
    """Return CIFAR-10 from its binary files somewhere in `folder`; None if they are not there."""
    found = sorted(folder.rglob("data_batch_1.bin"))
    if not found:
        return None
    files: list[bytes] = []
    for path in (found[0].with_name(name) for name in _BINARIES):
        try:
            files.append(path.read_bytes())
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
        if not (size := len(files[-1])) or size % _ROW:
            raise StoreError(f"{path}: {size} bytes are no whole number of rows of {_ROW}")
    official = [hashlib.sha256(data).hexdigest() for data in files] == list(_BINARIES.values())
    rows = np.concatenate([np.frombuffer(data, np.uint8) for data in files]).reshape(-1, _ROW)
    label = rows[:, 0].astype(np.int32)
    if label.max() >= len(_CIFAR10_CLASSES):
        raise StoreError(f"{found[0].parent}: a class {label.max()} of CIFAR-10's 0 to 9")
    split = np.zeros(len(rows), np.int8)
    split[-(len(files[-1]) // _ROW) :] = 1

    def read(i: int) -> _Pixels:
        return rows[i, 1:].reshape(3, _CIFAR10_SIDE, _CIFAR10_SIDE)

    digest, source = hashlib.sha256(rows.data).hexdigest(), "official" if official else "binary"
    return _ImageFiles(len(rows), label, split, _CIFAR10_CLASSES, read, digest, source)


def _image_folder(folder: Path, size: int | None = None) -> _ImageFiles:
    """Return the images of `folder`: [train/ or test/] CLASS / ... / NAME, or NAME alone.

    test/, val/ or validation/ hold images for testing, which need not be in classes; what lies in
    none is of the class 'unlabelled'. Folders above that all images share do not matter.

    Parameters
    ----------
    size : side that images are resized and cropped to (`_centre_crop`); None leaves them as they
        are, and then all must be of the size of the first.

    Raises StoreError for a folder without images, or an image that cannot be read or is of another
    size.
    """
    names = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    names = [
        name
        for name in names
        if name.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in name.parts)
        and (folder / name).is_file()
    ]
    if not names:
        raise StoreError(f"{folder}: holds no images ({', '.join(_SUFFIXES)})")
    paths, parts = [folder / name for name in names], [name.parts for name in names]
    while all(len(part) > 2 and part[0] == parts[0][0] for part in parts):
        if parts[0][0].lower() in (*_TESTS, *_TRAINS):
            break
        parts = [part[1:] for part in parts]
    first = {part[0].lower() for part in parts if len(part) > 1}
    splits = bool(first & set(_TRAINS)) or first <= set(_TESTS)
    inside = [splits and len(p) > 1 and p[0].lower() in (*_TESTS, *_TRAINS) for p in parts]
    split = np.array([i and p[0].lower() in _TESTS for i, p in zip(inside, parts)], dtype=np.int8)
    classed = [part[1:] if i else part for i, part in zip(inside, parts)]
    of = [part[0] if len(part) > 1 else "unlabelled" for part in classed]
    classes, label = np.unique(of, return_inverse=True)
    order = np.concatenate(
        [generator(0, "split", s).permutation(np.flatnonzero(split == s)) for s in (0, 1)]
    )
    digest = hashlib.sha256(f"{size}".encode())
    for i in order:
        digest.update(f"\n{'/'.join(parts[i])} {paths[i].stat().st_size}".encode())
    sides = None if size else _opened_image(paths[order[0]]).size

    def read(i: int) -> _Pixels:
        path = paths[order[i]]
        image = _opened_image(path)
        if size is not None:
            if max(image.size) > _NARROWEST * min(image.size):
                raise StoreError(f"{path}: is {image.size}, too narrow to be cropped to a square")
            image = _centre_crop(image, size)
        elif image.size != sides:
            raise StoreError(f"{path}: is {image.size}, others {sides}; --size makes them alike")
        return np.moveaxis(np.asarray(image), -1, 0)

    return _ImageFiles(
        len(order), label[order].astype(np.int32), split[order], tuple(classes.tolist()), read,
        digest.hexdigest(),
    )  # fmt: skip


_NARROWEST = 100
"""Most of a longer side over the shorter one; what is beyond would be a huge image once resized."""


def _opened_image(path: Path) -> Image.Image:
    """Return an 8-bit image as RGB, turned as its camera says; raises StoreError."""
    try:
        image = Image.open(path, formats=_FORMATS)
        if image.mode.startswith(("I", "F")):
            fault = f"has more than 8 bits a channel ({image.mode})"
            raise StoreError(f"{path}: {fault}; convert it first")
        return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise StoreError(f"{path}: is no image that can be read: {error}") from None


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the middle of an image whose shorter side was resized to `size`, (size, size).

    As ADM prepares ImageNet (arXiv 2105.05233): halves by averages while the shorter side is twice
    `size` or more, then bicubic with antialiasing, then a crop.
    """
    while min(image.size) >= 2 * size:
        half = (image.width // 2, image.height // 2)
        image = image.resize(half, Image.Resampling.BOX)
    scale = size / min(image.size)
    sides = (round(image.width * scale), round(image.height * scale))
    image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _downloaded() -> Path:
    """Return CIFAR-10's archive from the cache, or fetched and checked; raises StoreError."""
    try:
        import pooch
    except ImportError:
        how = how_to_install("images")
        raise StoreError(f"--download needs the package pooch: {how}") from None
    try:
        path = pooch.retrieve(
            _CIFAR10_URL, known_hash=f"sha256:{_CIFAR10_SHA256}", fname="cifar-10-binary.tar.gz",
            path=pooch.os_cache("skild-phys"), progressbar=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{_CIFAR10_URL}: cannot be fetched ({type(error).__name__}); is there a network?"
            " An archive that you have goes to --from"
        ) from None
    return Path(path)


def prepare(files: _ImageFiles, output: AnyPath, run: Run) -> Lattices:
    """Write images into the store `output`; one begun so is resumed.

    Raises Interrupted once `run.stop` says so; what was committed stays.
    """
    attrs = {**run.attrs, "classes": list(files.classes), "source": files.source}
    attrs |= {"source_sha256": files.digest}

    def make(index: NDArray[np.int64], *, stop: object) -> dict[str, NDArray[Any]]:
        images = np.stack([files.read(i) for i in index.tolist()])
        return {"image": images, "label": files.label[index], "split": files.split[index]}

    plan = image_plan(files.n, files.read(0).shape, attrs, ("label", "split"))
    return fill_store(output, plan, make, run, batch=16).lattices


def image_plan(
    n: int, shape: Sequence[int], attrs: dict[str, Any], variables: tuple[str, ...]
) -> Plan:
    """Return the plan of a store of `n` images of `shape` (channels, Ly, Lx)."""
    channels, height, width = shape
    return Plan(
        field="image",
        n_samples=n,
        shape=(height, width),
        chunk=max(1, min(1024, _CHUNK_BYTES // (channels * height * width))),
        channels=channels,
        attrs={name: value for name, value in attrs.items() if value is not None},
        variables=variables,
    )


@contextlib.contextmanager
def image_files(dataset: str, where: Path | None, size: int | None) -> Iterator[_ImageFiles]:
    """Yield the images of `dataset`, cifar10 or imagenet; raises BadInput, StoreError.

    Parameters
    ----------
    where : a folder or an archive; None to download CIFAR-10.
    size : side that images are resized and cropped to.
    """
    with _opened(_downloaded() if where is None else where) as folder:
        yield _read_files(dataset, folder, size)


def _read_files(dataset: str, folder: Path, size: int | None) -> _ImageFiles:
    if dataset == "cifar10":
        if size not in (None, _CIFAR10_SIDE):
            raise BadInput("size", size, f"{_CIFAR10_SIDE} for cifar10, or none")
        files = _cifar10_binary(folder) or _image_folder(folder)
        sides = files.read(0).shape
        if sides != (3, _CIFAR10_SIDE, _CIFAR10_SIDE):
            raise StoreError(f"{folder}: images of {sides}, CIFAR-10's are (3, 32, 32)")
        return files
    if size is None or size < 8:
        raise BadInput("size", size, "a side of 8 or more for imagenet, such as 128 or 256")
    return _image_folder(folder, size)
