"""The bodies of video tokenizers: an encoder and a decoder each."""
