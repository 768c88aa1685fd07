"""Training learned tokenizers: what is shared; `image` and `audio` hold what differs."""
