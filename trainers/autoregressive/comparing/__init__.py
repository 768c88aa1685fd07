"""``compare``: several tokenizers on the same data, each with the same small Transformer trained for equal time on its ids."""
