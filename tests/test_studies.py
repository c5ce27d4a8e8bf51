"""Studies of `analysis/` run from end to end on tiny lattices, and leave their tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ANALYSIS = Path(__file__).parent.parent / "analysis"
STUDIES = {
    "inverse_renormalisation": (("4", "8", "1"), 8, {"energy", "U4", "xi_over_L", "chi"}),
    "temperatures_ising2d": (("4", "16", "0.95,1.1"), 8, {"model", "residual", "relative"}),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs(name: str, tmp_path: Path) -> None:
    words, least, columns = STUDIES[name]
    for script in (name, "commands"):
        shutil.copy(ANALYSIS / f"{script}.py", tmp_path)
    script = tmp_path / f"{name}.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "runs", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(script.with_suffix(".csv"))
    assert len(table) >= least
    assert columns <= set(table.columns)
    if "observable" in table:
        table = table[table["observable"] == "energy"].rename(columns={"residual": "energy"})
    assert table["energy"].notna().all()
