"""Files that are either complete or absent, and results stored under cache keys."""
