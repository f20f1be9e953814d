"""Learning of the coefficients: Lightning's loop, its settings, and the choice of the best iterate."""

from adamerge.learning import ranks as ranks  # before any other module here imports Lightning
