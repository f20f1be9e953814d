"""How coefficients move: Lightning's loop, its settings, and what is kept of the iterates."""
