"""Containers of sounds and films: whether all of a file is there, before anything is decoded.

Decoders take a file that was cut for one that ends there. `boxes` walks over MP4 and MOV, `riff` over AVI, `ebml` over Matroska
and WebM, `ogg` over Ogg; what the file says of itself is compared with what is there.
"""
