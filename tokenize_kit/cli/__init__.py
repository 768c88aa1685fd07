"""The command line: a thin layer that parses options, calls one function of the room below, and prints its result."""

from tokenize_kit.cli.main import main

__all__ = ["main"]
