"""``pairs``: sequences of example pairs and a query out of a shard set, for visual prompting (Bai et al. 2023, arXiv 2312.00785).

    a1 op(a1) a2 op(a2) .. query op(query)

The rows of the new set are the single samples of the sequences, one after another, so that a template that names the stream as
often as a sequence has samples reads a sequence as one document. What a sequence is made of follows from the seed and its number
alone (`draw`); a shard is a number of sequences, so a run that was stopped makes those that are missing (`run`). Ids are copied:
from the stream itself, from one of its views, or where there is none from the sample, decoded, changed and encoded (`maker`).
"""
