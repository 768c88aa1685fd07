"""Picture files to uint8 tensors ``(C, H, W)`` and back, with Pillow.

`opening` takes a file apart, one module a family of formats (`png`, `jpeg`, `tiff`), and has the pixels decoded as they are
stored; `reading` makes the picture of them; `tensors` has what is done to pictures that are read.

Rules: the orientation of EXIF or XMP is applied; of an animation the first frame is taken, of several pages the first;
colours are converted to sRGB (`profiles`); 16-bit grey is rounded to 8 bits (of 16-bit colour Pillow
keeps the high byte); colour becomes grey by ITU-R 601; transparency is composited on white where fewer channels are wanted,
and is kept (or set to opaque) where four are.
"""

from tokenize_kit.media.image.opening import MAX_PIXELS
from tokenize_kit.media.image.reading import ReadImage, image_of_pixels, read_image, read_image_noting
from tokenize_kit.media.image.tensors import check_image, from_pillow, resize_image, to_pillow, write_image

__all__ = [
    "MAX_PIXELS",
    "ReadImage",
    "check_image",
    "from_pillow",
    "image_of_pixels",
    "read_image",
    "read_image_noting",
    "resize_image",
    "to_pillow",
    "write_image",
]
