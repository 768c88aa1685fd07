"""Numbers about tokenizers: picture quality, use of the vocabulary, compression, speed.

`image` and `usage` hold the plain measures; `evaluate` runs a tokenizer over real data and gathers them.
"""
