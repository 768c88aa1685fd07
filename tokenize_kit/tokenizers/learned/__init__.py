"""Learned tokenizers: an encoder, a quantizer and a decoder that are trained together.

A kind of data is one folder here, with one file a role: ``config.py`` (the options of the network, and of it with a quantizer),
``network.py`` or ``networks/`` (encoder and decoder), ``model.py`` (encoder, quantizer and decoder as one module) and
``tokenizer.py`` (the protocol around it). `image/` and `audio/` are such folders, and video is to be the next. All else stands
ready beside them: ``parts.py`` (a configuration to plain data and back), ``quantizers/``, ``streaming.py`` and ``layers.py``
(layers that take a sample in pieces along any one axis, such as causal convolutions over time, height and width), ``pieces.py``
(tiles with a margin along any axes, and pieces of one length for a network with a memory), ``threads.py`` (calls side by side,
one thread each) and ``folder.py`` (safetensors and options on disk). Nothing in these knows a kind of data, and no folder of a
kind of data imports from another one.
"""
