"""Training learned tokenizers of pictures."""
