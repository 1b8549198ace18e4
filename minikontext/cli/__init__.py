"""The `minikontext` command (app), and its check of the set-up (doctor)."""

from minikontext.cli.app import main

__all__ = ["main"]
