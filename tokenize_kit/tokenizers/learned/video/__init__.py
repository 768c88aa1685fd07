"""Learned tokenizers of video: the networks, their configuration, and the tokenizer around them."""
