"""The tokenizers of the house, one folder a kind of data; those that are trained networks are in `learned`."""
