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
    """Return what `make(*words)` returned when it was first called for `path`, kept as JSON."""
    if not path.exists():
        made = make(*words)
        path.write_text(json.dumps(made))
    return json.loads(path.read_text())
