"""Hamiltonians, exact results and coarse-graining operators."""
