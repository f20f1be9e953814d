"""Base and experts: opened, proven compatible, divided into shared parameters and heads."""
