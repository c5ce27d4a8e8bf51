"""Figures: they draw what was found and compute nothing."""
