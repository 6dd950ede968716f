"""The rules for scripts and notebooks, which are read and never run."""
