"""Files that are either whole or not there: atomic writes, syncing, locks, checks of outputs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import re
import shutil
import stat
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from skild_phys.errors import BadInput, OutputTaken, StoreError, WriteError

AnyPath: TypeAlias = str | os.PathLike[str]

PARTIAL = ".partial"


@contextlib.contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """Raise WriteError, in one line, for what the operating system refuses at `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"{os.fspath(path)}: cannot write: {reason}") from error


@contextlib.contextmanager
def reading(what: str, missing: str) -> Iterator[None]:
    """Raise StoreError for what is `missing` (the message), or cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(missing) from None
    except OSError as error:
        raise StoreError(f"{what} cannot be read: {error.strerror}") from error


def sha256_file(path: AnyPath) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: AnyPath) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomically(path: AnyPath, data: bytes) -> None:
    """Make `path` hold `data`, on disk, or leave it as it was; raises WriteError.

    A file beside it is written and synced, then renamed over it, and the directory is synced.
    Only a kill leaves the other file (`.NAME.*.partial`) behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    with writing(path):
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


def printable(text: str) -> str:
    """Return text in which what a terminal would obey, or cannot show, is an escape like \\u001b.

    Names of files and attributes of stores may hold anything, bytes that are not UTF-8 included
    (lone surrogates in Python). JSON reads these escapes back.
    """
    return "".join(
        one if one.isprintable() or one in "\n\t" else f"\\u{ord(one):04x}" for one in text
    )


def write_text_atomically(path: AnyPath, text: str) -> None:
    """Make the file `path` hold `text` as UTF-8, or leave it as it was; raises WriteError.

    Bytes that are not UTF-8, as names may have, become escapes.
    """
    write_bytes_atomically(path, text.encode(errors="backslashreplace"))


def check_there(path: AnyPath, what: str = "such file or directory") -> None:
    """Raise StoreError unless something lies at `path` and may be looked at."""
    shown = os.fspath(path)
    with reading(f"{shown}:", f"{shown}: no {what}"):
        os.stat(path)


def read_bytes(path: AnyPath) -> bytes:
    """Return the bytes of a regular file; OSError for devices and FIFOs, which may never end."""
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "is a device or a FIFO, not a file", os.fspath(path))
    return Path(path).read_bytes()


_DEEPEST = 64  # levels of records within records; deeper ones would exhaust Python's stack


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return what JSON holds; ValueError for what is none, or nested too deeply.

    With `finite` also for numbers that are not: NaN, Infinity, and what float64 cannot hold.
    """
    names = ("parse_constant", "parse_float", "parse_int") if finite else ()
    hooks: dict[str, Any] = dict.fromkeys(names, _finite)
    return _shallow(lambda: json.loads(text, **hooks))


def _finite(word: str) -> int | float:
    if not math.isfinite(value := float(word)):
        raise ValueError(f"{word} is no finite number")
    return int(word) if word.removeprefix("-").isdecimal() else value


def read_toml(path: AnyPath, option: str) -> dict[str, Any]:
    """Return what a TOML file holds; raises BadInput naming `option`."""
    try:
        return dict(_shallow(lambda: tomllib.loads(read_bytes(path).decode())))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(option, os.fspath(path), f"a TOML file ({reason})") from None


def _shallow(parse: Callable[[], Any]) -> Any:
    try:
        level = [value := parse()]
    except RecursionError:
        raise ValueError("nested too deeply") from None
    for _ in range(_DEEPEST):
        nested = (
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        )
        level = [one for values in nested for one in values]
    if level:
        raise ValueError("nested too deeply")
    return value


def make_directory(path: AnyPath) -> None:
    """Make a directory, on disk, unless it is there; raises WriteError."""
    with writing(path):
        try:
            os.mkdir(path)
            _fsync(Path(path).parent)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def clear_partials(path: AnyPath) -> None:
    """Remove what killed `write_bytes_atomically` left beside `path`, which nobody writes now."""
    path = Path(path)
    left = re.compile(rf"\.{re.escape(path.name)}\.\d+-\d+{re.escape(PARTIAL)}")
    with contextlib.suppress(OSError):  # they are in nobody's way
        for name in filter(left.fullmatch, os.listdir(path.parent)):
            path.with_name(name).unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(path: AnyPath, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to write into, whose files appear at `path` once all are written.

    If the writing fails or is killed, `path` is as it was. A directory that is there already keeps
    what else it holds; with `replace` it goes. Raises WriteError. The caller holds the lock.

    Links are followed. The folder lies in a directory that stays, which may be a mount point, and
    else beside `path`: no rename leaves the file system.
    """
    shown, path = path, Path(path).resolve()
    part, old = (path.with_name(f".{path.name}{end}{PARTIAL}") for end in ("", ".old"))
    try:
        with writing(shown):
            if old.exists() and not path.exists():  # killed between the two renames below
                os.replace(old, path)
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
            there = path.exists()
            if there and not replace:
                part = path / part.name
                shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            yield part
            for folder, _, names in os.walk(part):
                for name in (*names, "."):
                    _fsync(os.path.join(folder, name))
            if path.exists() != there:
                what = "was made or removed by another process meanwhile"
                raise StoreError(f"{os.fspath(shown)}: {what}")
            if there and not replace:
                for file in part.iterdir():
                    os.replace(file, path / file.name)
            else:
                if there:
                    os.replace(path, old)
                os.replace(part, path)
            _fsync(part.parent)
    finally:
        for left in (part, old):
            if path.exists() or left is part:
                shutil.rmtree(left, ignore_errors=True)


class Lock:
    """The right to write at `path`, held by one process at a time (flock); a context manager.

    A directory is locked itself, so that nothing is added to it; for a file, or a path that
    does not exist yet, `.NAME.lock` beside it is, and goes when the lock is released; with
    `beside` so it is for a directory that is replaced as a whole. The lock of a process that
    dies is free at once; what such a process left of a file half written goes. Raises StoreError
    when another one holds it.
    """

    def __init__(self, path: AnyPath, *, beside: bool = False) -> None:
        self._path, self._beside = Path(path), beside
        self._target = self._path
        self._descriptor: int | None = None

    def acquire(self) -> Lock:
        """Take the lock; raises StoreError when it is held, WriteError when it cannot be."""
        there = os.path.isdir(self._path)
        directory = there and not self._beside
        real = Path(os.path.realpath(self._path)) if there else self._path
        self._target = self._path if directory else real.with_name(f".{real.name}.lock")
        flags = os.O_RDONLY if directory else os.O_RDWR | os.O_CREAT
        with writing(self._path):
            while self._descriptor is None:
                descriptor = os.open(self._target, flags | os.O_CLOEXEC, 0o666)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # The holder before us may have removed the file that we opened.
                    if os.path.samestat(os.fstat(descriptor), os.stat(self._target)):
                        self._descriptor = descriptor
                except FileNotFoundError:
                    pass
                except BlockingIOError:
                    what = "is being written by another process"
                    raise StoreError(f"{self._path}: {what}") from None
                finally:
                    if self._descriptor is None:
                        os.close(descriptor)
        clear_partials(self._path)
        return self

    def check(self) -> None:
        """Raise StoreError unless what lies at the path is still what was locked."""
        try:
            held = self._descriptor is not None and os.path.samestat(
                os.fstat(self._descriptor), os.stat(self._target)
            )
        except OSError:
            held = False
        if not held:
            raise StoreError(f"{self._path}: was removed or replaced while it was being written")

    def release(self) -> None:
        """Give the lock back, if it is held."""
        held, self._descriptor = self._descriptor, None
        if held is None:
            return
        try:
            if self._target != self._path:
                with contextlib.suppress(OSError):
                    self._target.unlink(missing_ok=True)
        finally:
            os.close(held)

    def __enter__(self) -> Lock:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def check_output(
    path: AnyPath,
    *,
    overwrite: bool,
    inputs: Sequence[AnyPath] = (),
    option: str = "output",
    directory: bool = False,
) -> None:
    """Raise BadInput naming `option` unless something may be written at `path`.

    Refused are: a path inside (or equal to, or around) one of `inputs`, one whose parent is
    missing or not writable, one inside a store, one that cannot be looked at, and, without
    `overwrite`, one that exists. As a `directory` for files also a store, and a file.
    """
    path, shown = Path(path), os.fspath(path)
    try:
        real = path.resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # a loop of links, which resolve leaves as it is from Python 3.13 on
        for given in inputs:
            source = Path(given).resolve()
            if real == source or source in real.parents or real in source.parents:
                raise BadInput(option, shown, f"a path apart from the input {os.fspath(given)}")
        if not path.name or path.name == "..":
            raise BadInput(option, shown, "a path that ends in a name")
        _check_outside_stores(path, real.parents, option)
        if not path.parent.is_dir():
            raise BadInput(option, shown, f"a path in a directory that exists, not {path.parent}")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadInput(option, shown, "a file or a directory, not a device or a FIFO")
        if os.path.lexists(path) and not overwrite:
            raise OutputTaken(option, shown, "a path that does not exist (or overwrite=True)")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise BadInput(option, shown, "a path that you may write to")
        if directory:
            check_directory(path, option)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(option, shown, f"a path that can be used: {reason}") from error


def check_directory(path: AnyPath, option: str = "output") -> None:
    """Raise BadInput for what is no directory for files: a store, a path inside one, a file."""
    real = Path(path).resolve()
    _check_outside_stores(path, (real, *real.parents), option)
    if real.exists() and not real.is_dir():
        raise BadInput(option, os.fspath(path), "a directory")


def _check_outside_stores(path: AnyPath, folders: Sequence[Path], option: str) -> None:
    for folder in folders:
        if (folder / "zarr.json").exists():
            raise BadInput(option, os.fspath(path), f"a path outside the store {folder}")


@contextlib.contextmanager
def claimed(
    path: AnyPath, *, overwrite: bool, inputs: Sequence[AnyPath] = (), directory: bool = False
) -> Iterator[None]:
    """Hold the lock of an output that is no store, if `check_output` allows it.

    Raises what `check_output` does, and StoreError when another process writes there.
    """
    check = functools.partial(
        check_output, path, overwrite=overwrite, inputs=inputs, directory=directory
    )
    check()
    with Lock(path, beside=True):
        check()  # who had the lock until now may have written it
        yield
