"""Training of neural audio codecs: `train audio`."""
