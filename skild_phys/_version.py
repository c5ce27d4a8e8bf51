"""The version, in one place: the build, the commands and the stores read it here."""

__version__ = "0.2.0"
