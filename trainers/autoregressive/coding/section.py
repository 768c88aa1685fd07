"""The part of a ``.tkc`` file that a model makes, in bytes: who made it and how, the pieces, and the words of the coder.

    version (1) | fingerprint of the model (16) | machine | template, streams, window, carry | pieces | crc32 (4) | words

All integers are varints but the checksums. `tokenize_kit.container` has this part in its own format, which says what the sample
is and keeps the sum of all bytes; it does not look into it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from tokenize_kit.container import HeaderReader, varint
from tokenize_kit.errors import VerificationError
from trainers.autoregressive.coding.coder import Piece
from trainers.autoregressive.coding.machine import FINGERPRINT_BYTES, MOST_THREADS, Machine

VERSION = 1
MOST_STREAMS = 256
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Section:
    """What a model coded."""

    model: str
    """The beginning of the model's fingerprint, hexadecimal."""
    machine: Machine
    """Where its logits were computed."""
    template: int
    """Which of the model's templates."""
    streams: int
    """How many rows the grid was cut into."""
    window: int
    """Steps of a window; 0 where nothing is cut."""
    carry: int
    """Known steps at the beginning of a window, three quarters of it at most."""
    pieces: tuple[Piece, ...]
    """The checksums."""
    words: bytes
    """What the coder wrote."""

    def to_bytes(self) -> bytes:
        """Return the bytes; `from_bytes` is the inverse."""
        machine = self.machine
        names = (machine.device, machine.processor, machine.instructions, machine.torch_version, machine.coder_version)
        parts = [bytes([VERSION]), bytes.fromhex(self.model)]
        for name in names:
            spelled = name.encode()[:_LONGEST_NAME]
            parts += [varint(len(spelled)), spelled]
        numbers = (machine.threads, self.template, self.streams, self.window, self.carry, len(self.pieces))
        parts += map(varint, numbers)
        for piece in self.pieces:
            parts += [varint(piece.calls), struct.pack("<I", piece.checksum)]
        head = b"".join(parts)
        return head + struct.pack("<I", zlib.crc32(head)) + self.words

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the file") -> Section:
        """Read the bytes; ``name`` is how errors call the file.

        Raises:
            ValueError: they are of a newer version.
            VerificationError: they are cut short or altered.
        """
        reader = HeaderReader(data, 0, name)
        version = reader.take(1)[0]
        if version != VERSION:
            raise ValueError(f"{name} was coded in version {version}, this tokenize-kit reads {VERSION}; upgrade it")
        model = reader.take(FINGERPRINT_BYTES).hex()
        device, processor, instructions, torch, coder = (
            reader.take(reader.number(_LONGEST_NAME)).decode(errors="replace") for _ in range(5)
        )
        threads, template = reader.number(MOST_THREADS), reader.number()
        streams, window, carry = reader.number(MOST_STREAMS), reader.number(), reader.number()
        # Each takes 5 bytes at least, so a count that the file does not hold ends at its end.
        pieces = tuple(
            Piece(reader.number(), struct.unpack("<I", reader.take(4))[0]) for _ in range(reader.number(len(data)))
        )
        end = reader.place
        (crc,) = struct.unpack("<I", reader.take(4))
        words = data[reader.place :]
        damaged = crc != zlib.crc32(data[:end]) or len(words) % 4 or not threads or not streams
        if damaged or (4 * carry > 3 * window) or any(not piece.calls for piece in pieces):
            raise VerificationError(f"{name} is damaged: what it says of its model was altered")
        machine = Machine(device, processor, instructions, torch, coder, threads)
        return cls(model, machine, template, streams, window, carry, pieces, words)
