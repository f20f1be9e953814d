"""Coefficients → merged parameters: combine and inner, groupings, the merged model."""
