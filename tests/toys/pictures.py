"""Pictures with their pixels, and PNG and JPEG files that say what they should not."""

import struct

import numpy as np
from PIL import Image

from tokenize_kit.media.image import read_image
from toys import files

CUT = "damaged or cut short|not a picture"
"""What is said of a picture that is not whole."""
SCENE = np.asarray(files.scene())
ROWS = [row.tobytes() for row in SCENE]
TURNED = files.turned(files.saved(files.scene(), "PNG"))


def read(data, channels=3):
    return read_image(data, channels).permute(1, 2, 0).numpy()


def png(*chunks, after=b"", rows=ROWS, depth=8, colour=2, width=60):
    """A PNG of the scene with further chunks before and after its data."""
    extra = b"".join(chunk if isinstance(chunk, bytes) else files.png_chunk(*chunk) for chunk in chunks)
    data = files.png_raw(width, len(rows), depth, colour, rows, extra)
    return data[:-12] + after + data[-12:]


def damaged(chunk):
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def packed(values, depth):
    """Rows of values of 1 to 16 bits."""
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in values]
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(row).tobytes() for row in bits.reshape(len(values), -1).astype(np.uint8)]


def noisy(mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    return Image.fromarray((SCENE // 2 + noise).astype(np.uint8)).convert(mode)


def frame_of(data, **changes):
    """A JPEG whose frame says something else."""
    place = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
    changed = bytearray(data)
    if "marker" in changes:
        changed[place + 1] = changes["marker"]
    if "bits" in changes:
        changed[place + 4] = changes["bits"]
    if "size" in changes:
        changed[place + 5 : place + 9] = struct.pack(">HH", *changes["size"])
    if "layers" in changes:
        changed[place + 9] = changes["layers"]
    return bytes(changed)


def longs(tags):
    return [(tag, 4, 1, struct.pack("<I", value)) for tag, value in tags.items()]
