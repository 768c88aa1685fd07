"""``probe``: how much of a label the hidden states of a trained model tell, layer by layer."""
