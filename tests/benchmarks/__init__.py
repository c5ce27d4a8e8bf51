"""How fast the package is on this machine: `skild-phys bench`.

In a checkout this folder lies in `tests`, in a wheel it is `skild_phys/benchmarks`; in both it is
imported as `skild_phys.benchmarks` (`skild_phys.cli.bench`).
"""

from __future__ import annotations

import click

from . import measure, refine, simulate


@click.group()
def command() -> None:
    """Measure speed on this machine.

    \b
    skild-phys bench simulate
    skild-phys bench refine
    skild-phys bench measure
    """


for part in (simulate, refine, measure):
    command.add_command(part.command)
