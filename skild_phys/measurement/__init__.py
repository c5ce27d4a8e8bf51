"""Measurement: observables with error bars, and comparisons with a truth and with theory."""
