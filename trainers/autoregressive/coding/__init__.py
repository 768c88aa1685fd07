"""Lossless coding of ids with a sequence model: what the model finds probable takes few bits.

- `tables`: logits to integer frequencies, the same ones at both ends
- `coder`: the range coder, and a checksum a piece
- `frame`: what is known of a document before its ids are
- `rows`: grids through the coder, side by side and window by window
- `machine`: what decides the bits of a logit, told in every file
- `section`: all of it in bytes, which `tokenize_kit.container` keeps in a ``.tkc`` file
- `grids`: a grid to such bytes and back, with a model folder that was loaded

Any causal family can code that has a cache (`SequenceModel.new_cache` and `step`): one that is trained on hidden tokens gives no
probability of what comes next. The method is arithmetic coding under a model (Rissanen and Langdon 1979; Pasco 1976), with a
network as the model (Bellard 2019, NNCP; Deletang et al. 2023, arXiv 2309.10668).
"""
