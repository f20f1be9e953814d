"""Files that are complete or absent, and what is kept under a key."""
