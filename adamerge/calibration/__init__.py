"""What is asked once of experts and rows: targets, pseudo-answers, predictions, Gram matrices, Fisher information."""
