"""Learned tokenizers of pictures: the network, its configuration, and the tokenizer around it."""
