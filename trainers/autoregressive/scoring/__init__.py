"""``score``: how probable a trained model finds samples, where the bits are, and what tells another set apart."""
