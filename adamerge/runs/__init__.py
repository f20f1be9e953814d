"""One run directory, from YAML to recipe."""
