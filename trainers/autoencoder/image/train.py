"""``train image``: from pictures to a tokenizer folder. What is particular to pictures in `trainers.autoencoder.run`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig
from trainers.autoencoder.image.config import ImageRecipe, recipe
from trainers.autoencoder.image.options import TrainImageOptions
from trainers.autoencoder.run import TokenizerRun

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.learned.image.model import Autoencoder
    from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
    from trainers.autoencoder.cutting import Cutting
    from trainers.autoencoder.data import Ints
    from trainers.autoencoder.image.data import PictureBatches, Pictures
    from trainers.autoencoder.image.task import AutoencoderTask
    from trainers.autoencoder.task import Plan
    from trainers.runtime import Runtime


@dataclass(frozen=True)
class TrainImageResult:
    """What a training made."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    parameters: int
    """Trainable parameters of encoder, quantizer and decoder."""
    downsample_factor: int
    """Pixels that one id covers along each side."""
    vocab_size: list[int]
    """Codes of each codebook."""
    pictures: int
    """Pictures that were trained on."""
    validation_pictures: int
    """Pictures that were held out and measured."""
    steps: int
    """Steps made in all."""
    epochs: float
    """How often each picture was seen."""
    resumed_from: int
    """The step from which this call continued; the last one if it had nothing to do."""
    best_step: int
    """The step of the weights that were kept."""
    metrics: dict[str, float]
    """The validation at that step; empty if nothing is held out."""


def train_image(options: TrainImageOptions, progress: Progress | None = None) -> TrainImageResult:
    """Train a discrete autoencoder on pictures, or continue the run that ``options.out`` holds.

    Raises:
        FileNotFoundError: there are no pictures.
        ValueError: the options do not fit together, the pictures, or the run in ``options.out``; or training broke down.
        TooManyFailuresError: more than ``options.max_failures`` pictures cannot be read.
    """
    run = ImageRun(options, progress)
    made = run.run()
    return TrainImageResult(
        **made.told(),
        downsample_factor=run.factor,
        pictures=made.samples,
        validation_pictures=made.held_out,
    )


class ImageRun(TokenizerRun[TrainImageOptions, AutoencoderConfig, "Pictures", "PictureBatches"]):
    """Trains an autoencoder on pictures."""

    command = "train image"
    parts = (
        "tokenize_kit.tokenizers.learned.image.config:AutoencoderConfig",
        "tokenize_kit.tokenizers.learned.image.model:Autoencoder",
        "tokenize_kit.tokenizers.learned.image.tokenizer:AutoencoderTokenizer",
    )
    samples = "pictures"
    names = (
        *("data", "image_size", "channels", "crop", "max_scale", "flip", "batch_size", "validation_fraction"),
        *("validation_data", "validation_pictures", "media_field", "init_from"),
    )
    later = ("pad",)
    _picture: tuple[int, ...] | None = None

    @property
    def factor(self) -> int:
        """Pixels that one id covers along each side."""
        return self.recipe.model.network.downsample_factor

    @property
    def most(self) -> int:
        """The most held-out pictures that a validation takes."""
        return self.options.validation_pictures

    @property
    def shared(self) -> str | None:
        """Folder for the decoded pictures, if it is not that of the run."""
        return self.options.pictures

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of a batch, (B, C, H, W); without --image-size known when the pictures are opened."""
        options = self.options
        if options.image_size is not None:
            return options.batch_size, options.channels, options.image_size, options.image_size
        return None if self._picture is None else (options.batch_size, *self._picture)

    @property
    def burden(self) -> str:
        """What memory is needed for, and what to lower."""
        size = "pictures" if self.shape is None else "pictures of {:,} x {:,} pixels".format(*self.shape[2:])
        return (
            f"a batch is {self.options.batch_size:,} {size}; lower --batch-size (and raise --accumulate by as much), "
            "--image-size, or the network (--size, --network.width)"
        )

    def chosen(self) -> ImageRecipe:
        """Return the preset with what the options change.

        Raises:
            ValueError: the options do not fit together.
        """
        options = self.options
        found = recipe(
            options.preset,
            options.size,
            channels=options.channels,
            network=options.network.given(),
            quantizer=options.quantizer.given(),
            loss=options.loss.given(),
            optimizer=options.optimizer.given(),
        )
        found.loss.check_channels(options.channels, "pictures")
        if options.image_size is not None:
            from trainers.autoencoder.cutting import check_image_size

            check_image_size(options.image_size, found.model.network.downsample_factor)
        return found

    def decode(self, data: tuple[str, ...], folder: Path) -> None:
        """Decode pictures into a shard set in ``folder``."""
        from trainers.autoencoder.image.data import prepare

        prepare(self.options, data, folder, self.progress)

    def opened(self, folder: Path, data: tuple[str, ...]) -> Pictures:
        """Return decoded pictures.

        Raises:
            ValueError: they cannot be put together or do not fit the network.
        """
        from tokenize_kit.shards import ShardSet
        from trainers.autoencoder.cutting import check_sides
        from trainers.autoencoder.image.data import Pictures

        pictures = Pictures(ShardSet.open(folder, self.options.trust_shards))
        if self.options.image_size is None:
            check_sides(pictures.shapes[:, :2], self.factor, "pictures", ", ".join(data))
        if self._picture is None:  # not of those to measure on, which come later
            self._picture = tuple(pictures.cut(0, self._cutting, None).shape)
        return pictures

    def held_out(self, source: Pictures, numbers: Sequence[int]) -> list[Tensor]:
        """Return pictures to measure on, cut out of their middles."""
        return [source.cut(number, self._cutting, None) for number in numbers]

    def batches(self, source: Pictures, chosen: Ints, runtime: Runtime) -> PictureBatches:
        """Return the training batches of this process."""
        from trainers.autoencoder.image.data import PictureBatches

        options = self.options
        return PictureBatches(
            source, chosen, self._cutting, options.batch_size, options.seed, runtime.rank, runtime.world
        )

    def model(self) -> Autoencoder:
        """Return a fresh autoencoder."""
        from tokenize_kit.tokenizers.learned.image.model import Autoencoder

        return Autoencoder(self.recipe.model)

    def begin_with(self, model: Autoencoder, folder: str) -> None:
        """Give an autoencoder the weights of a tokenizer folder.

        Raises:
            ValueError: that tokenizer has another configuration.
        """
        from tokenize_kit.protocol import load_tokenizer, read_config_of
        from tokenize_kit.tokenizers.learned.image.tokenizer import NAME, AutoencoderTokenizer
        from tokenize_kit.weights import load_tensors

        read_config_of(folder, NAME)
        other = load_tokenizer(folder)
        assert isinstance(other, AutoencoderTokenizer)
        if other.config != model.config:
            raise ValueError(f"--init-from {folder} has another configuration than this run; give the same options")
        load_tensors(model.state_dict(), other.model.state_dict(), folder)

    def task(self, model: Autoencoder, data: PictureBatches, held_out: Sequence[Tensor], plan: Plan) -> AutoencoderTask:
        """Return what the loop trains."""
        from trainers.autoencoder.image.task import AutoencoderTask

        return AutoencoderTask(model, self.recipe, data, held_out, plan)

    def tokenizer(self, model: Autoencoder) -> AutoencoderTokenizer:
        """Return the tokenizer of a trained autoencoder."""
        from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer

        return AutoencoderTokenizer(model)

    def note(self, sizes: Sequence[int], data: PictureBatches) -> str:
        """Return how many codes there are for how many pixels, and how many pictures."""
        codes = " x ".join(map(str, sizes))
        return f"{codes} codes for each {self.factor}x{self.factor} pixels; {len(data.chosen):,} pictures"

    @property
    def _cutting(self) -> Cutting:
        from trainers.autoencoder.cutting import Cutting

        options = self.options
        return Cutting(options.image_size, options.crop, options.max_scale > 1, options.flip)
