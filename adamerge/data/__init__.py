"""Files → rows → batches: tables, and one encoding per kind of model."""
