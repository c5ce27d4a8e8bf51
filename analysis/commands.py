"""What the studies share: commands of the package, and results that are made once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def skild_phys(*words: object) -> dict:
    """Run a command of the package and return what it prints as JSON."""
    command = [sys.executable, "-c", "from skild_phys.cli import run; run()", *map(str, words)]
    print("skild-phys", *words, flush=True)
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def kept(path: Path, make: Callable[..., dict], *words: object) -> dict:
    """Return what `make(*words)` returned when it was first called for `path`, kept as JSON.

    What `path` was made by is not compared: a folder is of one study with one set of weights.
    """
    if not path.exists():
        made = make(*words)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(made))
        part.replace(path)
    return json.loads(path.read_text())
