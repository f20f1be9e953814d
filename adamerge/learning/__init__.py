"""Learning of the coefficients: Lightning's loop, its settings, and the choice of the best iterate."""
