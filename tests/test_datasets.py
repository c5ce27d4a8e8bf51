"""Data sets into stores: CIFAR-10's binary rows, folders, archives, and what is refused."""

from __future__ import annotations

import itertools
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from image_helpers import image_store, photographs
from PIL import Image

from skild_phys.errors import BadInput, Interrupted, StoreError
from skild_phys.images import datasets
from skild_phys.images.datasets import (
    _CIFAR10_CLASSES,
    _centre_crop,
    _cifar10_binary,
    _downloaded,
    _image_folder,
    _opened,
    _read_files,
    prepare,
)
from skild_phys.runner import Run
from skild_phys.skild.data import ImageLattices, fields_of, pixels_of
from skild_phys.store import create_store, open_store


@pytest.fixture
def binaries(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Return a folder with six binary files of two rows each, and the rows."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = np.random.default_rng(5).integers(0, 256, (12, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    for i, name in enumerate([f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]):
        (folder / name).write_bytes(rows[2 * i : 2 * i + 2].tobytes())
    return tmp_path, rows


def classes(folder: Path, side: int = 32) -> Path:
    """Write train/ and test/ with two classes of PNG files."""
    images = photographs(9, side)
    for i, image in enumerate(images):
        place = folder / ("test" if i % 3 == 0 else "train") / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, -1)).save(place / f"{i}.png")
    return folder


def test_binary_rows_become_images(binaries: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Row: class, then 1024 red, green and blue values, row by row; the last file is for tests."""
    folder, rows = binaries
    files = _read_files("cifar10", folder, None)
    store = prepare(files, tmp_path / "c.zarr", Run(attrs={"dataset": "cifar10"}))
    assert (store.n_samples, store.channels, store.shape) == (12, 3, (32, 32))
    assert store.read(0, 12)[7, 1, 3, 5] == rows[7, 1 + 1024 + 3 * 32 + 5]
    assert np.array_equal(store.variable("label"), rows[:, 0])
    assert store.variable("split").tolist() == [0] * 10 + [1] * 2
    assert (store.attrs["classes"], store.attrs["source"]) == (list(_CIFAR10_CLASSES), "binary")
    opened_by_xarray = xr.open_zarr(tmp_path / "c.zarr")
    assert opened_by_xarray["image"].dims == ("sample", "channel", "y", "x")
    test = ImageLattices(store, "test")
    assert np.array_equal(pixels_of(test.read(0, 2)), rows[10:, 1:].reshape(2, 3, 32, 32))
    train = ImageLattices(store, "train")
    train.chunk, mixed = 4, [9, 0, 5, 9, 3]
    assert np.array_equal(train.pixels(mixed), rows[mixed, 1:].reshape(5, 3, 32, 32))
    assert store.variable("label")[10:].tolist() == rows[10:, 0].tolist()


@pytest.mark.parametrize("ending", [".tar.gz", ".zip", ".tar"])
def test_archives_hold_the_same(
    binaries: tuple[Path, np.ndarray], tmp_path: Path, ending: str
) -> None:
    folder, _ = binaries
    archive = tmp_path / f"a{ending}"
    names = sorted((folder / "cifar-10-batches-bin").iterdir())
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for name in names:
                out.write(name, name.name)
    else:
        with tarfile.open(archive, "w:gz" if ending.endswith("gz") else "w") as out:
            for name in names:
                out.add(name, name.name)
    plain = _cifar10_binary(folder)
    with _opened(archive) as inside:
        packed = _cifar10_binary(inside)
    assert plain is not None
    assert packed is not None
    assert plain.digest == packed.digest


def test_folders_are_put_in_a_fixed_random_order(tmp_path: Path) -> None:
    files = _image_folder(classes(tmp_path / "f"))
    again = _image_folder(tmp_path / "f")
    assert files.digest == again.digest
    assert (files.classes, files.split.tolist()) == (("cat", "dog"), [0] * 6 + [1] * 3)
    read = [files.read(i).tobytes() for i in range(9)]
    assert sorted(read) == sorted(image.tobytes() for image in photographs(9, 32))
    # The same below folders whose names are hidden, or have nothing to do with it.
    (tmp_path / ".cache" / "deep").mkdir(parents=True)
    (tmp_path / "f").rename(tmp_path / ".cache" / "deep" / "f")
    (tmp_path / ".cache" / "deep" / "f" / "test" / ".hidden.png").write_bytes(b"x")
    assert _image_folder(tmp_path / ".cache").digest == files.digest
    only = _image_folder(tmp_path / ".cache" / "deep" / "f" / "test" / "cat")
    assert (only.n, only.split.sum(), only.classes) == (1, 0, ("unlabelled",))
    training = [image.tobytes() for i, image in enumerate(photographs(9, 32)) if i % 3]
    assert set(read[:6]) == set(training)
    # By class and name it would be cats, then dogs.
    assert files.label[:6].tolist() != sorted(files.label[:6].tolist())


def test_folders_as_they_come(tmp_path: Path) -> None:
    """ImageNet's own layout: images for testing lie in no classes. Below a class any depth does."""
    for name in ("train/n01/a", "train/n02/images/b", "val/c", "test/d"):
        path = tmp_path / "ILSVRC" / "Data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    files = _image_folder(tmp_path)
    assert files.classes == ("n01", "n02", "unlabelled")
    assert sorted(files.label[:2].tolist()) == [0, 1]
    assert (files.split.tolist(), files.label[2:].tolist()) == ([0, 0, 1, 1], [2, 2])


def test_what_is_no_8_bit_photograph(tmp_path: Path) -> None:
    """16 bits would be cut off, PostScript be run; a camera's turn is undone."""
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(StoreError, match="more than 8 bits"):
        _image_folder(tmp_path).read(0)
    (tmp_path / "deep.png").rename(tmp_path / "deep.txt")
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(StoreError, match="no image that can be read"):
        _image_folder(tmp_path).read(0)
    Image.new("RGB", (8, 8)).save(tmp_path / "program.jpg", "gif")
    with pytest.raises(StoreError, match="no image that can be read"):
        _image_folder(tmp_path).read(0)
    (tmp_path / "program.jpg").unlink()
    image, exif = Image.new("RGB", (12, 8)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert _image_folder(tmp_path).read(0).shape == (3, 12, 8)


def test_a_damaged_archive_is_refused(binaries: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """One flipped bit anywhere: the checksum of a .tar.gz comes after what it holds."""
    folder, _ = binaries
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder / "cifar-10-batches-bin", "b")
    whole = archive.read_bytes()
    for place in np.linspace(20, len(whole) - 1, 12).astype(int):
        data = bytearray(whole)
        data[place] ^= 16
        archive.write_bytes(data)
        with pytest.raises(StoreError, match="no archive"), _opened(archive):
            pass


def test_stopped_and_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 4 * 3 * 32 * 32)
    files = _image_folder(classes(tmp_path / "f"))
    prepare(files, tmp_path / "whole.zarr", Run())
    asked = itertools.chain([False], itertools.repeat(True))
    with pytest.raises(Interrupted, match=r"\d of 9 samples are kept"):
        prepare(files, tmp_path / "part.zarr", Run(stop=lambda: next(asked)))
    done: list[int] = []
    prepare(files, tmp_path / "part.zarr", Run(threads=2, progress=done.append))
    assert sum(done) == 9
    whole, part = open_store(tmp_path / "whole.zarr"), open_store(tmp_path / "part.zarr")
    assert whole.digest() == part.digest()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """The Python version of CIFAR-10 is a pickle: it is not looked into."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(StoreError, match="holds no images"):
        _read_files("cifar10", tmp_path, None)


def test_what_cannot_be_prepared(binaries: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = binaries
    whole = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    for content, message in ((b"\0" * 3072, "rows of 3073"), (b"\x0b" + b"\0" * 3072, "class 11")):
        whole.write_bytes(content)
        with pytest.raises(StoreError, match=message):
            _cifar10_binary(folder)
    whole.unlink()
    with pytest.raises(StoreError, match=r"data_batch_3\.bin"):
        _cifar10_binary(folder)
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with (
        pytest.raises(StoreError, match="no archive that can be read"),
        _opened(tmp_path / "a.tar.gz"),
    ):
        pass
    with pytest.raises(BadInput, match="from: "), _opened(tmp_path / "nowhere"):
        pass
    pictures = classes(tmp_path / "f")
    (pictures / "train" / "cat" / "broken.png").write_bytes(b"no image")
    files = _image_folder(pictures)
    with pytest.raises(StoreError, match=r"broken\.png: is no image"):
        [files.read(i) for i in range(files.n)]
    (pictures / "train" / "cat" / "broken.png").unlink()
    Image.new("RGB", (16, 16)).save(pictures / "train" / "cat" / "other.png")
    files = _image_folder(pictures)
    with pytest.raises(StoreError, match="--size makes them alike"):
        [files.read(i) for i in range(files.n)]
    with pytest.raises(BadInput, match="missing size"):
        _read_files("imagenet", pictures, None)
    with pytest.raises(StoreError, match="CIFAR-10's are"):
        _read_files("cifar10", classes(tmp_path / "g", 16), None)


def test_without_a_network_the_download_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_CIFAR10_URL", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(StoreError, match="is there a network"):
        _downloaded()


def test_the_crop_is_the_middle() -> None:
    """A ramp stays one: halves by averages, then bicubic, keep its middle and scale its slope."""
    ramp = np.tile(np.linspace(0, 255, 300), (200, 1)).astype(np.uint8)
    image = _centre_crop(Image.fromarray(np.stack([ramp] * 3, -1)), 64)
    assert image.size == (64, 64)
    row = np.asarray(image)[30, :, 0].astype(float)
    slope = 255 / 299 * 200 / 64
    assert np.abs(row - (127.5 + slope * (np.arange(64) - 31.5))).max() < 2.0
    flat = _centre_crop(Image.new("RGB", (97, 61), (10, 200, 30)), 48)
    assert np.asarray(flat).reshape(-1, 3).tolist() == [[10, 200, 30]] * 48 * 48


def test_pixels_and_fields() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(pixels_of(fields_of(every)), every)
    assert (fields_of(every)[0], fields_of(every)[-1]) == (-1.0, 1.0)
    assert pixels_of(np.array([-1.7, 1.2], np.float32)).tolist() == [0, 255]


def test_splits_of_a_store(tmp_path: Path) -> None:
    store = image_store(tmp_path / "i.zarr", photographs(10), tests=3)
    train, test = (ImageLattices(store, split) for split in ("train", "test"))
    assert (train.n_samples, test.n_samples, test.first) == (7, 3, 7)
    assert train.digest() != test.digest()
    assert list(test.batches()) == [(0, 3)]
    with pytest.raises(BadInput, match="split: 'validation'"):
        ImageLattices(store, "validation")
    with pytest.raises(BadInput, match="split: 'test'"):
        ImageLattices(image_store(tmp_path / "j.zarr", photographs(4)), "test")
    with create_store(
        tmp_path / "f.zarr", field="field", n_samples=1, shape=(4, 4), chunk=1, attrs={},
        variables=(),
    ) as writer:  # fmt: skip
        writer.commit({"field": np.zeros((1, 4, 4), np.float32)})
    with pytest.raises(BadInput, match="images, not 'field'"):
        ImageLattices(open_store(tmp_path / "f.zarr"))


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png"])
def test_nothing_is_written_outside_of_an_archives_folder(tmp_path: Path, name: str) -> None:
    """Planted, seen to fail: members are written where they say."""
    (tmp_path / "a.png").write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        out.add(tmp_path / "a.png", arcname=name)
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmembers()[0]
        member.name = name  # as a hostile archive has it
        with pytest.raises(tarfile.TarError, match="lies outside"):
            datasets._extract(tar, member, tmp_path / "folder")
