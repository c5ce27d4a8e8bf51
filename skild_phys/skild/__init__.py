"""SKILD: diffusion with scale as its coordinate (arXiv 2605.26032), on periodic lattices."""
