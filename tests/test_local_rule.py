"""The rival's local rule: what it was drawn with is what a fit finds."""

from __future__ import annotations

import numpy as np
import pytest
from local_rule import LocalRule

from skild_phys.errors import BadInput
from skild_phys.rng import generator


def test_a_fit_finds_the_rule_that_drew_the_lattices() -> None:
    """Three weights within 5 errors, which are 0.01 for 160,000 sites; once in 600,000 runs."""
    random = generator(1)
    rule = LocalRule(0.6, 0.3, -0.2)
    majorities = random.choice(np.array([-1, 1], dtype=np.int8), (100, 20, 20))
    fine = rule.draw(majorities, random.random((100, 40, 40)))
    found = LocalRule.fit(fine, majorities)
    assert found.centre == pytest.approx(0.6, abs=0.05)
    assert found.edge == pytest.approx(0.3, abs=0.03)
    assert found.corner == pytest.approx(-0.2, abs=0.03)


def test_copies_are_seen_across_the_edges_of_the_torus() -> None:
    """One spin up among spins down, on 2 x 2 majorities: every probability by hand.

    Planted, seen to fail: corners taken along the axes.
    """
    majorities = np.array([[[1, -1], [-1, -1]]])
    p = LocalRule(1.0, 0.1, 0.01).probabilities(majorities)[0]
    # Of the corner site's own copies: itself +1; edges +1 +1 -1 -1; corners +1 -1 -1 -1.
    logit = 1.0 + 0.1 * (1 + 1 - 1 - 1) + 0.01 * (1 - 1 - 1 - 1)
    assert p[0, 0] == pytest.approx(1.0 / (1.0 + np.exp(-logit)))
    assert p == pytest.approx(p.T)
    with pytest.raises(BadInput, match="majorities"):
        LocalRule.fit(np.ones((2, 4, 4)), np.ones((2, 3, 3)))
