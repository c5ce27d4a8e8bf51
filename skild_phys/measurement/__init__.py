"""Measurement: observables with error bars, and comparisons with a truth and with theory."""

REPORT, TABLE, JSON = "report.html", "comparison.csv", "comparison.json"
"""Names of what `skild-phys compare` writes."""
