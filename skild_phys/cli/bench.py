"""`skild-phys bench`: loads the benchmarks, which are no part of what they measure.

A wheel has them as `skild_phys/benchmarks`; a checkout in `tests/benchmarks`, beside the package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import skild_phys
from skild_phys.errors import SkildPhysError

NAME = "skild_phys.benchmarks"


def _load() -> ModuleType:
    if importlib.util.find_spec(NAME) is not None:
        return importlib.import_module(NAME)
    folder = Path(skild_phys.__file__).parents[1] / "tests" / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise SkildPhysError(f"the benchmarks are not installed: {folder} does not exist")
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command = _load().command
