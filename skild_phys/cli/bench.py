"""`skild-phys bench`: loads the benchmarks, which are no part of what they measure.

A wheel has them as `skild_phys/benchmarks`; a checkout in `tests/benchmarks`, beside the package.
"""

import importlib.util
import sys
from pathlib import Path

import skild_phys
from skild_phys.errors import SkildPhysError

_NAME = "skild_phys.benchmarks"

if importlib.util.find_spec(_NAME) is None:
    folder = Path(skild_phys.__file__).parents[1] / "tests" / "benchmarks"
    if not folder.is_dir():
        raise SkildPhysError(f"the benchmarks are not installed: {folder} does not exist")
    spec = importlib.util.spec_from_file_location(
        _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[_NAME])

command = importlib.import_module(_NAME).command
