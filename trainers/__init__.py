"""Fitting tokenizers and training sequence models: what needs data, an optimiser or hours."""
