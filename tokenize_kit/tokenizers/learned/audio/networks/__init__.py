"""The bodies of a neural audio codec, and what is particular to sound in them."""
