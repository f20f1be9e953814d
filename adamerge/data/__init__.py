"""Files → rows → batches: tables, and one way of encoding for each kind of model."""
