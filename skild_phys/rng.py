"""Random streams: a SeedSequence tree outside, xoshiro256++ with explicit state in kernels.

A stream is named by its seed and a spawn key of the table `KEYS` (for instance chain 3, or sample
17), never by the order in which threads happen to run: the same key gives the same numbers for any
number of threads and any chunk size.

One seed at two temperatures, or for two coarse stores, must not give correlated samples: that seed
is `system_seed` of the user's and of what is sampled. A store says so by its attribute `streams`;
one without it is of an earlier release, whose streams follow from the user's seed alone.

xoshiro256++ is due to Blackman and Vigna, ACM Trans. Math. Softw. 47, 36 (2021).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numpy.typing import NDArray

from skild_phys.kernels import (
    I64,
    constant,
    data_of,
    intrinsic,
    load_lanes,
    store,
    store_lanes,
)

# First keys that no index of a sample reaches: what trains on a seed, or measures with it, shares
# nothing with what is simulated or refined from it.
_SIMULATION, _TRAINING, _MEASUREMENT = 2**32 - 1, 2**32 - 2, 2**32 - 3

KEYS: dict[str, tuple[int | str, ...]] = {
    # refine, generate; exact conditional sampling
    "fill": ("sample", 0),  # where its chain starts
    "relaxation": ("sample", 1),  # moves that reach the constraint from there
    "noise": ("sample", 2),  # Gaussian fields of the reverse process
    "spins": ("sample", 3),  # spins sampled from the denoiser's logits
    "sweeps": ("sample", 4),  # Monte Carlo updates under the constraint
    "pilot fill": ("sample", 5),  # the same two, in the run that finds how many sweeps it takes
    "pilot sweeps": ("sample", 6),
    # simulate
    "chain": (_SIMULATION, "unit"),  # start and updates of one chain, or of 64 beside each other
    "symmetry": (_SIMULATION, "unit", 1),  # the symmetry under which each sample is stored
    # train
    "images": ("chain",),  # of training images that are simulated as they are needed
    "epoch": ("epoch",),  # the order of stretches of a store
    "stretch": ("epoch", "stretch"),  # the order of samples within one
    "weights": (_TRAINING, 0),
    "training": (_TRAINING, 1),  # noise levels, noise, factors, symmetries
    "loss": (_TRAINING, 2, "step"),  # a seed for each sample of a batch
    "dropout": (_TRAINING, 3, "step", "sample"),
    "held out": (_TRAINING, 4, "chain"),  # simulated samples that the averaged network is judged by
    "quality": (_TRAINING, 5),  # noise and chains by which it is judged
    # measure
    "bonds": (_MEASUREMENT, "sample"),  # Fortuin-Kasteleyn bonds
    "bootstrap": (),
    # images prepare
    "split": ("split",),  # the order of images
}
"""Every stream of the project: the spawn key, where words stand for numbers that the caller gives.

What is not drawn from a stream: ties of majorities, which `rules` decides by a keyed hash of tie
seed, sample and site.
"""

STREAMS = "seed and system"
"""Attribute `streams` of stores whose streams grow from `system_seed`."""

_TO_UNIT = 2.0**-53
_HASHED = 2**26  # bytes of samples that are read at once to identify an input


def seed_sequence(seed: int, *key: int | str) -> np.random.SeedSequence:
    """Return a node of the tree of streams that grows from `seed`.

    `key` is a name in `KEYS` and the numbers that it asks for, or a spawn key as it is.
    """
    if key and isinstance(key[0], str):
        given = iter(key[1:])
        key = (*(next(given) if isinstance(k, str) else k for k in KEYS[key[0]]), *given)
    return np.random.SeedSequence(seed, spawn_key=[int(k) for k in key])


def system_seed(streams: str | None, seed: int, *system: Any) -> int:
    """Return the seed of all streams of a system: `seed` itself unless `streams` is STREAMS.

    `system` is what tells the system from others, as JSON values.
    """
    if streams is None:
        return seed
    digest = hashlib.sha256(json.dumps([seed, *system]).encode()).digest()
    return int.from_bytes(digest[:16], "little")


def input_seed(
    streams: str | None, seed: int, n: int, read: Callable[[int, int], NDArray[Any]]
) -> int:
    """Return the seed (`system_seed`) that an input of `n` samples is refined with.

    The input is identified by its first 64 samples, whatever file they lie in: methods are compared
    on the same noise, and one seed refines two inputs independently.
    """
    digest, end = hashlib.sha256(), min(n, 64)
    step = max(1, _HASHED // read(0, 1).nbytes)
    for start in range(0, end, step):
        digest.update(np.ascontiguousarray(read(start, min(start + step, end))).ravel().data)
    return system_seed(streams, seed, digest.hexdigest())


def kernel_state(seed: int, *key: int | str) -> NDArray[np.uint64]:
    """Return a xoshiro256++ state, shape (4,) uint64, for the stream `key` of `seed`."""
    return seed_sequence(seed, *key).generate_state(4, np.uint64).astype(np.uint64)


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a NumPy generator (PCG64) for the stream `key` of `seed`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *key)))


@dataclass
class Streams:
    """The random streams of one sample of SKILD: Gaussian noise, and the state of its kernels."""

    noise: np.random.Generator
    state: NDArray[np.uint64]

    @classmethod
    def of(cls, seed: int, sample: int) -> Streams:
        """Return the streams of a sample under `seed`."""
        return cls(generator(seed, "noise", sample), kernel_state(seed, "spins", sample))


@njit(cache=True, nogil=True, inline="always")
def next_words(words):  # type: ignore[no-untyped-def]
    """Return 64 random bits and the next state after `words`, 4 uint64 that stay in registers."""
    s0, s1, s2, s3 = words
    total = s0 + s3
    bits = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s0
    t = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
    return bits, (s0, s1, s2, s3)


@njit(cache=True, nogil=True, inline="always")
def next_u64(state):  # type: ignore[no-untyped-def]
    """Advance `state` (4 uint64, in place) and return 64 random bits."""
    bits, words = next_words((state[0], state[1], state[2], state[3]))
    state[0], state[1], state[2], state[3] = words
    return bits


@njit(cache=True, nogil=True, inline="always")
def uniform(state):  # type: ignore[no-untyped-def]
    """Return a float64 uniform on [0, 1) with 53 random bits."""
    return (next_u64(state) >> np.uint64(11)) * _TO_UNIT


@njit(cache=True, nogil=True)
def normal(state):  # type: ignore[no-untyped-def]
    """Return a float64 of the normal distribution with mean 0 and variance 1 (Box and Muller)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(state)))
    return radius * math.cos(2.0 * math.pi * uniform(state))


@njit(cache=True, nogil=True, inline="always")
def below(state, n):  # type: ignore[no-untyped-def]
    """Return an integer uniform on 0..n-1 (n < 2^32): 32 bits scaled, bias below n / 2^32.

    Exact when n is a power of two; else the probability of a value is off by at most 2^-32.
    """
    return np.int64(((next_u64(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


# -- eight lanes at once ----------------------------------------------------------------------

LANES = 8
"""Generators that run side by side; one vector register of 64-bit words on AVX-512."""

VECTOR = ir.VectorType(I64, LANES)


def lane_state(seed: int, *key: int | str) -> NDArray[np.uint64]:
    """Return the states of `LANES` generators, (4, LANES) uint64, for the stream `key` of `seed`.

    Column l is the state of lane l; the lanes are seeded apart, as streams are.
    """
    words = seed_sequence(seed, *key).generate_state(4 * LANES, np.uint64)
    return words.astype(np.uint64).reshape(4, LANES)


def _rotated(builder: Any, x: Any, bits: int) -> Any:
    left, right = constant(VECTOR, bits), constant(VECTOR, 64 - bits)
    return builder.or_(builder.shl(x, left), builder.lshr(x, right))


def emit_next(builder: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Emit one step of xoshiro256++ on every lane; return (the random bits, the next state)."""
    s0, s1, s2, s3 = state
    bits = builder.add(_rotated(builder, builder.add(s0, s3), 23), s0)
    t = builder.shl(s1, constant(VECTOR, 17))
    s2 = builder.xor(s2, s0)
    s3 = builder.xor(s3, s1)
    s1 = builder.xor(s1, s2)
    s0 = builder.xor(s0, s3)
    return bits, (s0, s1, builder.xor(s2, t), _rotated(builder, s3, 45))


class Lanes:
    """Code that steps the eight lanes of a generator, which it holds in registers until `save`."""

    def __init__(self, builder: Any, state: Any) -> None:
        self.builder, self.state = builder, state
        self.held = [
            cgutils.alloca_once_value(builder, words)  # type: ignore[no-untyped-call]
            for words in load_lanes(builder, state, VECTOR)
        ]

    def next(self) -> Any:
        """Emit a step; return the random bits of every lane."""
        bits, lanes = emit_next(self.builder, tuple(map(self.builder.load, self.held)))
        for words, place in zip(lanes, self.held):
            self.builder.store(words, place)
        return bits

    def save(self) -> None:
        """Emit that `state` is where the lanes are now."""
        store_lanes(self.builder, tuple(map(self.builder.load, self.held)), self.state)


@intrinsic
def _fill(typingctx, state, out, steps):  # type: ignore[no-untyped-def]
    """Write steps x LANES words to `out`; LLVM does not vectorise the plain loop well."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        state, target, steps = data_of(context, builder, signature, args)
        random = Lanes(builder, state)
        with cgutils.for_range(builder, steps) as loop:
            store(builder, random.next(), target, builder.mul(loop.index, I64(LANES)))
        random.save()
        return context.get_dummy_value()

    return types.void(state, out, types.int64), codegen


@njit(cache=True, nogil=True)
def fill_bits(state, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) uint64, n a multiple of LANES, with random bits, in place.

    Output i comes from lane i % LANES of `state` (4, LANES), which advances in place.
    """
    _fill(state, out, out.size // LANES)


BITS_BLOCK = 8 * LANES
"""Words that kernels round up to what they ask of `fill_bits`: stores pin the bits after."""
