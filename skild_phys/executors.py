"""Where work is done: on threads of this process, or by dask on any machine.

Pieces of work share nothing: the same work gives the same bytes wherever, and however often, it is
done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from skild_phys.errors import BadInput, Interrupted, SkildPhysError, how_to_install

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 10.0
_ADDRESS = "the address of a running scheduler, such as tcp://head:8786, or local:4"
LOCAL = "local:"

Stop = Callable[[], bool]


class Executor:
    """Runs work at once, in this thread; others run it elsewhere.

    Attributes
    ----------
    stop : asked while work runs, whether it is to end.
    at_once, ahead : pieces of work that can run at the same time, and that are given out at once.
    remote : whether work must write its samples itself, rather than return them.
    """

    at_once = ahead = 1
    remote = False

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Start a piece of work; what it raises is raised by the future's `result`, or here."""
        done: Future[Any] = Future()
        done.set_result(function(*args, stop=self.stop, **options))
        return done

    def share(self, value: Any) -> Any:
        """Return what stands for `value` among the arguments of many pieces of work."""
        return value

    def map(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the results of a piece of work for each of `jobs`; raises Interrupted."""
        futures = [self.submit(function, *job) for job in jobs]
        while wait(futures, _POLL_SECONDS, FIRST_EXCEPTION).not_done:
            if self.stop() or any(f.done() and f.exception() for f in futures):
                break
        if self.stop():
            raise Interrupted("stopped")
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]


class _Threads(Executor):
    """Threads of this process; the kernels release the interpreter's lock."""

    def __init__(self, count: int, stop: Stop) -> None:
        self.at_once, self.ahead, self.ended = count, 3 * count, False
        self.stop = lambda: self.ended or stop()
        self.pool = ThreadPoolExecutor(count)

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        return self.pool.submit(function, *args, stop=self.stop, **options)


class _Dask(Executor):
    """Workers of a dask.distributed scheduler; a worker that dies has its work done again."""

    remote = True

    def __init__(self, client: Any, address: str, stop: Stop) -> None:
        super().__init__(stop)
        self._client, self._address = client, address
        self._tasks: set[Any] = set()
        self.at_once = max(1, sum(client.nthreads().values()))
        self.ahead = 3 * self.at_once

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        options.pop("tick", None)
        # A result is never taken from an earlier call: a rerun must write its region again.
        task = self._client.submit(function, *args, pure=False, **options)
        answer: Future[Any] = Future()
        self._tasks.add(task)

        def hand_over(done: Any) -> None:
            self._tasks.discard(done)
            try:
                answer.set_result(done.result())
            except BaseException as error:
                answer.set_exception(self._in_one_line(error))

        task.add_done_callback(hand_over)
        return answer

    def _in_one_line(self, error: BaseException) -> BaseException:
        """Return what a user can mend as one of the package's errors, anything else as it is."""
        name = type(error).__name__
        if isinstance(error, SkildPhysError):
            return error
        if name in ("CancelledError", "FutureCancelledError", "CommClosedError"):
            if self.stop():
                return Interrupted("stopped")
            accepted = "a scheduler that stays: it is gone; started again, the run resumes"
            return BadInput("dask", self._address, accepted)
        if name == "KilledWorker":
            return BadInput("dask", self._address, "workers that survive: several died of a task")
        return error

    def share(self, value: Any) -> Any:
        # A task of its own: a worker gets it once, and one that dies takes nothing with it.
        return self._client.submit(pickle.loads, pickle.dumps(value), pure=False)

    def call_off(self) -> None:
        """Cancel what still runs, on the workers that can be reached."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(self._tasks), force=True)


@contextlib.contextmanager
def threads(count: int | None, stop: Stop, most: int | None = None) -> Iterator[_Threads]:
    """Open an executor on `count` threads of this process, by default one per core."""
    count = count or os.cpu_count() or 1
    run = _Threads(min(count, most or count), stop)
    try:
        yield run
    finally:
        run.ended = True  # what still runs ends soon
        run.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def dask(address: str, stop: Stop) -> Iterator[_Dask]:
    """Open an executor on a dask scheduler.

    `address` is that of a running scheduler, such as tcp://head:8786, or `local:4` for four worker
    processes on this machine, which end with the run. Raises BadInput naming `dask` if the package
    is missing, or nothing answers there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        accepted = f"the package distributed ({how_to_install('dask')})"
        raise BadInput("dask", address, accepted) from None
    with contextlib.ExitStack() as opened:
        opened.enter_context(_quiet("distributed", "tornado", "asyncio"))
        shown = address
        host, number = parse_address(address)
        if host:
            _check_answers(address, host, number)
        else:
            with _ignoring_interrupts():
                cluster = LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=number, threads_per_worker=1, dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )  # fmt: skip
            address = opened.enter_context(cluster)
        try:
            client = opened.enter_context(
                Client(address, timeout=_ANSWER_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
            )
        except (OSError, ValueError) as error:
            accepted = f"the address of a running scheduler ({' '.join(str(error).split())})"
            raise BadInput("dask", shown, accepted) from None
        run = _Dask(client, shown, stop)
        opened.callback(run.call_off)
        yield run


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence loggers, and those below them: connections that end are one line of the run."""
    known = [n for n in logging.root.manager.loggerDict if n.split(".")[0] in names]
    loggers = [logging.getLogger(name) for name in {*names, *known}]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C: this one receives it, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of PROTOCOL://HOST:PORT, or nothing and N of local:N.

    Raises BadInput naming `dask` if it is neither, whether or not anything answers there.
    """
    if address.startswith(LOCAL):
        workers = address.removeprefix(LOCAL)
        if not workers.isdecimal() or not 1 <= int(workers) <= 1024:
            raise BadInput("dask", address, "local:N with N workers, 1 to 1024")
        return "", int(workers)
    found = re.fullmatch(r"(?:\w+://)?\[?([^\[\]/]+?)\]?:(\d+)/?", address)
    if found is None or int(found[2]) > 65535:
        raise BadInput("dask", address, _ADDRESS)
    return found[1], int(found[2])


def _check_answers(address: str, host: str, port: int) -> None:
    """Raise BadInput naming `dask` unless a scheduler answers at PROTOCOL://HOST:PORT.

    The client itself waits for ever for the greeting of something that listens and keeps silent.
    """
    from distributed import Security
    from distributed.comm.core import connect

    async def greet() -> None:
        known = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        comm = await connect(address, timeout=_ANSWER_SECONDS, deserialize=False, **known)  # type: ignore[no-untyped-call]
        comm.abort()

    try:
        socket.create_connection((host, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        why = f"nothing answers: {error.strerror or error}"
        raise BadInput("dask", address, f"{_ADDRESS} ({why})") from None
    try:
        with ThreadPoolExecutor(1) as apart:  # a notebook has an event loop in this thread
            apart.submit(asyncio.run, asyncio.wait_for(greet(), _ANSWER_SECONDS)).result()
    except Exception as error:
        # What is no greeting of a scheduler fails in many ways (struct.error, MemoryError, ...).
        why = f"what answers there is none: {type(error).__name__}"
        if isinstance(error, TimeoutError):
            why = "what listens there is silent"
        raise BadInput("dask", address, f"{_ADDRESS} ({why})") from None
