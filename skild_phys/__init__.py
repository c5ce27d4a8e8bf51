"""skild-phys: critical lattice systems, simulated, coarse-grained and refined."""

__version__ = "0.1.0"
