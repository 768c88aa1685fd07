"""Pictures: a uint8 tensor ``(C, H, W)``."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.media.picture_plugins import PLUGINS
from tokenize_kit.protocol.modality import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample, TokenSpec

_EXCERPT_SIDE = 512
# What Pillow reads by itself: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and PNM.
_EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".mpo", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".avifs", ".ppm", ".pgm", ".pbm", ".pnm"),
)


class ImageModality(Modality):
    """Pictures of 1, 3 or 4 channels; see `tokenize_kit.media.image` for the rules of reading."""

    name = "image"
    plural = "pictures"
    least = "a picture has at least one pixel"
    # HEIC and JPEG XL are read where their plug-ins are installed.
    extensions = (*_EXTENSIONS, *(ending for plugin in PLUGINS if plugin.installed for ending in plugin.extensions))
    extras = MappingProxyType(
        {ending: plugin.install for plugin in PLUGINS if not plugin.installed for ending in plugin.extensions}
    )
    suffix = ".png"
    size_axes = 2
    takes_pixels = True
    resizable = True
    operations = "tokenize_kit.modalities.picture_operations:PICTURES"
    augmentations = "tokenize_kit.modalities.picture_augmentations:PICTURES"
    measure = "tokenize_kit.metrics.image_measure:ImageMeasure"
    codecs = "tokenize_kit.metrics.image_codecs:ImageCodecs"
    show = "tokenize_kit.report.examples:show_pictures"
    show_bits = "tokenize_kit.report.bits:show_picture_bits"
    lossless = "tokenize_kit.metrics.lossless:PNG"
    exhibit_folder = "pictures"

    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.image.read_image` and `image_of_pixels`."""
        return self.read_noting(data, spec)[0]

    def read_noting(
        self, data: bytes | NDArray[np.uint8], spec: TokenSpec, at_least: int | None = None
    ) -> tuple[Sample, tuple[str, ...]]:
        """See `tokenize_kit.media.image.read_image_noting` and `image_of_pixels`."""
        from tokenize_kit.media.image import image_of_pixels, read_image_noting

        if isinstance(data, bytes):
            return read_image_noting(data, spec.channels, at_least)
        return image_of_pixels(data, spec.channels), ()

    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:  # noqa: ARG002
        """See `tokenize_kit.media.image.write_image`."""
        from tokenize_kit.media.image import write_image

        write_image(sample, path)

    def to_python(self, sample: Sample, spec: TokenSpec) -> Any:  # noqa: ARG002
        """Return a `PIL.Image` of mode L, RGB or RGBA."""
        from tokenize_kit.media.image.tensors import to_pillow

        return to_pillow(sample)

    def save(self, value: object, stem: Path) -> Path | None:
        """See `Modality.save`: a `PIL.Image` of any mode, or a uint8 array (H, W) or (H, W, C)."""
        import numpy as np
        from PIL import Image

        path = stem.with_name(f"{stem.name}.png")
        if isinstance(value, np.ndarray):
            if (
                value.dtype != np.uint8
                or value.ndim not in (2, 3)
                or (value.ndim == 3 and value.shape[2] not in (1, 3, 4))
            ):
                raise ValueError(
                    f"a picture is a uint8 array (height, width) or (height, width, 1, 3 or 4), got {value.dtype} {value.shape}"
                )
            value = Image.fromarray(value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value)
        if not isinstance(value, Image.Image):
            return None
        # PNG has no CMYK, YCbCr and the like.
        (value if value.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16") else value.convert("RGB")).save(path)
        return path

    def check(self, sample: object, spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.image.check_image`."""
        from tokenize_kit.media.image import check_image

        return check_image(sample, spec.channels)

    def resize(self, sample: Sample, size: int, *, crop: bool = True, pad: bool = False) -> Sample:
        """See `tokenize_kit.media.image.resize_image`."""
        from tokenize_kit.media.image import resize_image

        return resize_image(cast("Tensor", sample), size, crop=crop, pad=pad)

    def excerpt(self, sample: Sample, spec: TokenSpec) -> Sample:  # noqa: ARG002
        """Return a picture whose sides are above 512 scaled down."""
        if min(self.size(sample)) > _EXCERPT_SIDE:
            return self.resize(sample, _EXCERPT_SIDE, crop=False)
        return cast("Tensor", sample).clone()

    def board(self, writer: Any, name: str, sample: Sample, step: int, spec: TokenSpec) -> None:  # noqa: ARG002
        """See `Modality.board`; of 1 or 3 channels."""
        writer.add_image(name, sample, step)


IMAGE = ImageModality()
