"""`python -m skild_phys`, which is what torchrun starts."""

from skild_phys.cli import run

if __name__ == "__main__":
    run()
