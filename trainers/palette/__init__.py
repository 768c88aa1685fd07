"""Fitting a palette of colours."""
