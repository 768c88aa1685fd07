"""``.tkc``: one sample as a file of packed ids, for any tokenizer and modality.

    magic (8 bytes) | version (1) | header | crc32 of all before (4) | packed ids | sha256 of all before, its first 16 bytes

The header holds the tokenizer's fingerprint, the modality, sample rate and channels, the true size of the sample, the shape of
the grid and how many bits an id of each codebook takes; of a video (version 2) also the frame rate, as two numbers. The ids
follow in grid order, each in just these bits, the most significant first, so a file takes ids times bits and about 90 bytes.
Integers are little-endian; a varint has 7 bits a byte, the lowest first.

Samples of a kind that streams, such as sounds, can come and go in pieces (`compress_pieces`, `decompress_pieces`) in memory that
does not grow with their length. Only ids are held whole, because the header in front of them says how many there are: 600 ids a
second make 4 MB an hour.

In a file of version 3 the ids are not packed but coded: in their place is a part of so many bytes that a sequence model made and
only its coder can read (`CodedSample`, ``trainers.autoregressive.coding``). The header, the sums and all checks are the same.

    magic (8 bytes) | version (1) | header, bytes of the code | crc32 of all before (4) | code | sha256 of all before, 16 bytes

A file that is foreign, of a newer version, cut short, longer than it says, altered, or of another tokenizer is refused with an
error that says which. What a header asks for is compared with what the file holds before memory is asked for: sums protect from
accidents, not from those who write them.
"""

from tokenize_kit.container.bits import HeaderReader, bit_width, pack_ids, unpack_ids, varint
from tokenize_kit.container.format import (
    MAGIC,
    CodedSample,
    PackedSample,
    from_bytes,
    from_file,
    to_bytes,
    widths_of,
    write,
)
from tokenize_kit.container.samples import (
    check_maker,
    compress,
    compress_pieces,
    decompress,
    decompress_pieces,
    packed_pieces,
    packed_sample,
    takes_pieces,
    unpacked_pieces,
    unpacked_sample,
)

__all__ = [
    "MAGIC",
    "CodedSample",
    "HeaderReader",
    "PackedSample",
    "bit_width",
    "check_maker",
    "compress",
    "compress_pieces",
    "decompress",
    "decompress_pieces",
    "from_bytes",
    "from_file",
    "pack_ids",
    "packed_pieces",
    "packed_sample",
    "takes_pieces",
    "to_bytes",
    "unpack_ids",
    "unpacked_pieces",
    "unpacked_sample",
    "varint",
    "widths_of",
    "write",
]
