"""Files of one kind of data to tensors and back: pictures with Pillow, sound with soundfile and PyAV, text as UTF-8.

Nothing here knows of tokenizers; `tokenize_kit.modalities` says which of it serves which kind of data.
"""
