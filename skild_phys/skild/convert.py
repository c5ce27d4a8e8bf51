"""Weights of the published NCSN++ (arXiv 2011.13456, `score_sde_pytorch`) for the network here.

Only tensors are read, from safetensors or from a PyTorch file with `weights_only`: no object is
unpickled. The names there number every module in the order in which it is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skild_phys.errors import BadInput, WeightsError
from skild_phys.skild.chain import TIMES
from skild_phys.skild.ncsnpp import Ncsnpp
from skild_phys.skild.networks import make_network
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.weights import Weights

_BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "condition",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "skip",
}
_HOLDERS = ("ema", "model", "model_state_dict", "state_dict")


def _modules(network: Ncsnpp) -> Iterator[tuple[str, str]]:
    """Yield the name and kind of each module of `network`, in the order of the published code."""
    yield from (("embed.0", "plain"), ("embed.1", "plain"), ("enter", "plain"))
    c, levels = network.config, len(network.config.multipliers)
    for level in range(levels):
        for i in range(c.blocks):
            yield f"down.{level}.blocks.{i}", "block"
            if c.attends(level):
                yield f"down.{level}.attention.{i}", "attention"
        if level + 1 < levels:
            yield f"down.{level}.shrink", "block"
            yield f"down.{level}.raw.conv", "resampled"
    yield from (("middle.0", "block"), ("middle.1", "attention"), ("middle.2", "block"))
    for place, level in enumerate(reversed(range(levels))):
        for i in range(c.blocks + 1):
            yield f"up.{place}.blocks.{i}", "block"
        if c.attends(level):
            yield f"up.{place}.attention", "attention"
        if level:
            yield f"up.{place}.grow", "block"
    yield from (("norm", "plain"), ("leave", "plain"))


def _renamed(name: str, kind: str, theirs: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of one module under the names here."""
    if kind == "attention":
        for end in ("weight", "bias"):
            yield f"{name}.norm.{end}", theirs[f"GroupNorm_0.{end}"]
        looks = [theirs[f"NIN_{i}.W"].T for i in range(4)]
        yield f"{name}.look.weight", torch.cat(looks[:3])[:, :, None, None]
        yield f"{name}.look.bias", torch.cat([theirs[f"NIN_{i}.b"] for i in range(3)])
        yield f"{name}.leave.weight", looks[3][:, :, None, None].contiguous()
        yield f"{name}.leave.bias", theirs["NIN_3.b"]
        return
    for key, tensor in theirs.items():
        module, _, end = key.rpartition(".")
        if kind == "block":
            yield f"{name}.{_BLOCK[module]}.{end}", tensor
        elif kind == "resampled" and module != "Conv2d_0":
            raise KeyError(key)
        else:
            yield f"{name}.{end}", tensor


def convert_ncsnpp(network: Ncsnpp, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of `network` from a state_dict of the published NCSN++.

    `network` is of the same width, multipliers, blocks and attention; theirs has 'biggan' blocks
    with FIR resampling, progressive input 'residual', positional embedding. A prefix such as
    `module.` before `all_modules` does no harm, and what lies beside it (`sigmas`) is left out.
    Raises WeightsError that names the first tensor that is missing, or of another shape.
    """
    by_module: dict[int, dict[str, Tensor]] = {}
    for name, tensor in theirs.items():
        if found := re.search(r"all_modules\.(\d+)\.(.+)$", name):
            by_module.setdefault(int(found[1]), {})[found[2]] = tensor
    state: dict[str, Tensor] = {}
    for index, (name, kind) in enumerate(_modules(network)):
        try:
            state |= dict(_renamed(name, kind, by_module.pop(index)))
        except KeyError as error:
            c = network.config
            raise WeightsError(
                f"all_modules.{index}: {error} does not fit '{name}' of a network with multipliers"
                f" {c.multipliers}, blocks {c.blocks}, attention {c.attention}"
            ) from None
    if by_module:
        raise WeightsError(f"all_modules.{min(by_module)}: one module too many for this network")
    expected = network.state_dict()
    for name, tensor in expected.items():
        shape = tuple(state[name].shape) if name in state else None
        if shape != tuple(tensor.shape):
            raise WeightsError(f"'{name}' has shape {shape}, expected {tuple(tensor.shape)}")
    return {name: state[name].detach().float() for name in expected}


def published_weights(path: Path, config: Recipe, preset: str) -> Weights:
    """Return weights from a file of the published code (`read_published`), of the recipe `config`.

    There eps_k, standard normal, is the network's output after a DCT that is 2/L of a sum of
    cosines along each axis; the last layer divides by side / 2, and white noise is of variance 1.

    Raises BadInput unless `config`, of `preset`, is the paper's; WeightsError if `path` is none of
    its networks.
    """
    lam, law = config.lambdas, config.paper_spectrum
    channels = 3 if config.data == "images" else 1
    with torch.device("meta"):
        network = make_network(config.network, config.output, config.basis, channels, lam)
    if lam is None or law is None or config.output != "white_eps" or type(network) is not Ncsnpp:
        accepted = "a recipe of ncsnpp with the paper's spectrum and output, white_eps"
        raise BadInput("preset", preset, accepted)
    tensors = convert_ncsnpp(network, read_published(path))
    for end in ("weight", "bias"):
        tensors[f"leave.{end}"] = tensors[f"leave.{end}"] * (2.0 / law.side)
    low, high = (float(lam(t)) for t in (np.array(1.0 / TIMES), np.array(1.0)))
    return Weights(
        tensors, config.network, law, config.output, (low, high),
        {"model": "images" if channels == 3 else config.model, "temperature": None,
         "side": config.side},
        {"converted": path.name}, config.basis, symmetries=config.symmetries,
        channels=channels if channels == 3 else 0, schedule=lam,
        cutoff=None if config.cutoff < 0 else config.cutoff,
    )  # fmt: skip


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file, or of a PyTorch file that holds no objects.

    Of a file with several, those under 'ema', 'model', 'model_state_dict' or 'state_dict', the
    first that has names; a list of averages (`ema.shadow_params`) takes the names of 'model'.
    Raises WeightsError.
    """
    try:
        if not path.is_file():
            raise OSError("no such file, or a device")
        if path.suffix == ".safetensors":
            return load_file(path)
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path}: holds no tensors alone that can be read ({reason})") from None
    holders = [held.get(name) for name in _HOLDERS] + [held] if isinstance(held, Mapping) else []
    for holder in (one for one in holders if isinstance(one, Mapping)):
        named = (item for item in holder.items() if isinstance(item[0], str))
        tensors = {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}
        if tensors:
            break
    else:
        raise WeightsError(f"{path}: holds no named tensors")
    ema = held.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list):
        return tensors
    names = [name for name in tensors if "all_modules" in name]
    if [tuple(tensors[name].shape) for name in names] != [tuple(x.shape) for x in shadow]:
        raise WeightsError("ema.shadow_params: are not the parameters of 'model', in their order")
    return tensors | dict(zip(names, shadow))
