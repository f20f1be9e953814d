"""What becomes of the coefficients: measured, compared, exported, drawn."""
