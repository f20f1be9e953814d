"""Results computed once per run from experts and rows: targets, pseudo-answers, Gram matrices, Fisher information."""
