"""Faster forms of parts of the Transformer, each with a parity test against the plain formula.

- ``pointwise``: norm, rotation and gated SiLU as single autograd functions
- ``attention``: attention out of matrix products in bfloat16
- ``patterns``: attention that skips what a pattern does not keep
- ``loss``: the loss from hidden states without all logits
- ``fused``: what lies between matrix products as compiled loops
- ``decode``: one token at a time

None keeps a state of its own: what a model uses is told to the model.
"""
