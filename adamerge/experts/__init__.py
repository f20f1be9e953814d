"""Base and experts: opened, checked for compatibility, divided into shared parameters and heads."""
