"""Runs: read a configuration, check it, run it, and write one run directory."""
