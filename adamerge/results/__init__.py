"""Results of the coefficients: evaluation, comparison, export and figures."""
