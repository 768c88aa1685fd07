"""``tokenize-kit demo``: the whole way on the bundled assets, through the same functions as the commands.

A BPE tokenizer on multilingual text, a colour palette and a learned autoencoder on emoji, a neural audio codec on speech; the
text, the pictures with their captions and the speech with its words as token shards; a Transformer on the text, one on ``text ->
image`` for each kind of picture token and one on ``text -> audio:delay``; samples of all; and everything in one ``report.html``.
Run again after a kill, it continues where it stopped.
"""

from tokenize_kit.cli.demo.options import DemoOptions, DemoResult
from tokenize_kit.cli.demo.run import demo

__all__ = ["DemoOptions", "DemoResult", "demo"]
