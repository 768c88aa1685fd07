"""Learned tokenizers: an encoder, a quantizer and a decoder that are trained together."""
