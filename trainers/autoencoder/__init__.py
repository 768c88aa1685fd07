"""Training of learned tokenizers: an encoder, a quantizer and a decoder, with or without a discriminator.

Here is what all kinds of data share: `options` and `config` (what a recipe has), `data` (decoded once, batches by number),
`losses`, `task` (the two phases), `run` (from files to a tokenizer folder).

A folder holds what differs for one kind: `config` (losses and presets), `options`, `data` (how samples are cut),
`discriminator`, `task` (what is compared, measured and shown), `train` (the subclass of `run.TokenizerRun` and the function of
the command). Folders do not import each other.
"""
