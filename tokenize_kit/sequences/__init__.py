"""What a sequence is made of: several tokenizers in one id space, layouts of codebooks, templates and their grammar."""
