"""Coarse-graining rules: block means, majorities, decimation, the low-pass field."""
