"""``train video``: from films to a tokenizer folder. What is particular to videos in `trainers.autoencoder.run`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.progress import several
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from trainers.autoencoder.run import TokenizerRun
from trainers.autoencoder.video.config import VideoRecipe, video_recipe
from trainers.autoencoder.video.options import TrainVideoOptions, check_clips

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
    from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer
    from trainers.autoencoder.cutting import Cutting
    from trainers.autoencoder.data import Ints
    from trainers.autoencoder.task import Plan
    from trainers.autoencoder.video.data import ClipBatches, Films, Mixing
    from trainers.autoencoder.video.task import VideoTask
    from trainers.runtime import Runtime

PICTURES = "picture_data"
"""Where the decoded pictures are inside the folder of a run."""


@dataclass(frozen=True)
class TrainVideoResult:
    """What a training made."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    parameters: int
    """Trainable parameters of encoder, quantizer and decoder."""
    frame_rate: float
    """Frames a second of the videos that it codes."""
    temporal_factor: int
    """Frames that one step of the ids covers, after the first frame, which has its own."""
    spatial_factor: int
    """Pixels that one id covers along each side."""
    vocab_size: list[int]
    """Codes of each codebook."""
    bits_per_pixel: float
    """What the ids of a clip need when every code is stored alike, for each pixel of each frame."""
    films: int
    """Films, or pieces of them, that were trained on."""
    pictures: int
    """Pictures that were trained on."""
    validation_clips: int
    """Clips that were held out and measured."""
    steps: int
    """Steps made in all."""
    epochs: float
    """How often all films were seen."""
    resumed_from: int
    """The step from which this call continued; the last one if it had nothing to do."""
    best_step: int
    """The step of the weights that were kept."""
    metrics: dict[str, float]
    """The validation at that step; empty if nothing is held out."""


def train_video(options: TrainVideoOptions, progress: Progress | None = None) -> TrainVideoResult:
    """Train a causal video autoencoder on films, or continue the run that ``options.out`` holds.

    Raises:
        FileNotFoundError: there are no films, or no pictures.
        ValueError: the options do not fit together, the films, or the run in ``options.out``; or training broke down.
        TooManyFailuresError: more than ``options.max_failures`` films or pictures cannot be read.
    """
    run = VideoRun(options, progress)
    made = run.run()
    return TrainVideoResult(
        **made.told(),
        frame_rate=run.network.frame_rate,
        temporal_factor=run.network.temporal_factor,
        spatial_factor=run.network.spatial_factor,
        bits_per_pixel=run.bits_per_pixel(made.vocab_size),
        films=made.samples,
        pictures=run.pictures,
        validation_clips=made.held_out,
    )


class VideoRun(TokenizerRun[TrainVideoOptions, VideoConfig, "Films", "ClipBatches"]):
    """Trains a video autoencoder on films and pictures."""

    command = "train video"
    parts = (
        "tokenize_kit.tokenizers.learned.video.config:VideoConfig",
        "tokenize_kit.tokenizers.learned.video.model:VideoAutoencoder",
        "tokenize_kit.tokenizers.learned.video.tokenizer:VideoTokenizer",
    )
    samples = "films"
    names = (
        *("data", "image_size", "clip_frames", "film_frames", "short", "pictures", "picture_weight", "crop"),
        *("max_scale", "flip", "batch_size", "validation_fraction", "validation_data", "validation_clips"),
        *("media_field", "init_from"),
    )
    rooms = (*TokenizerRun.rooms, PICTURES)
    pictures = 0
    """How many pictures are trained on; known when they are decoded."""
    _sides: tuple[int, int] | None = None

    @property
    def network(self) -> VideoNetworkConfig:
        """The autoencoder's network."""
        return self.recipe.model.network

    @property
    def most(self) -> int:
        """The most held-out clips that a validation takes."""
        return self.options.validation_clips

    @property
    def shared(self) -> str | None:
        """Folder for the decoded films, if it is not that of the run."""
        return self.options.films

    def bits_per_pixel(self, sizes: Sequence[int]) -> float:
        """Return what the ids of a clip need for each pixel of each frame when every code is stored alike."""
        from tokenize_kit.tokenizers.learned.video.time import latent_steps

        frames = self.options.clip_frames
        ids = latent_steps(frames, self.network.temporal_factor) / (frames * self.network.spatial_factor**2)
        return ids * sum(map(math.log2, sizes))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of a batch of clips, (B, C, T, H, W); without --image-size known when the films are opened."""
        options = self.options
        sides = self._sides if options.image_size is None else (options.image_size, options.image_size)
        return None if sides is None else (options.batch_size, options.channels, options.clip_frames, *sides)

    @property
    def burden(self) -> str:
        """What memory is needed for, and what to lower."""
        frames = self.options.clip_frames
        size = "" if self.shape is None else " of {:,} x {:,} pixels".format(*self.shape[3:])
        return (
            f"a batch is {self.options.batch_size:,} clips of {frames:,} frames{size}; lower --batch-size (and raise "
            "--accumulate by as much), --clip-frames, --image-size, or the network (--size, --network.width)"
        )

    def chosen(self) -> VideoRecipe:
        """Return the preset with what the options change.

        Raises:
            ValueError: the options do not fit together.
        """
        options = self.options
        found = video_recipe(
            options.preset,
            options.size,
            frame_rate=options.fps,
            channels=options.channels,
            network=options.network.given(),
            quantizer=options.quantizer.given(),
            loss=options.loss.given(),
            optimizer=options.optimizer.given(),
        )
        found.loss.check_channels(options.channels, "frames")
        check_clips(options, found.model.network.temporal_factor)
        if options.image_size is not None:
            from trainers.autoencoder.cutting import check_image_size

            check_image_size(options.image_size, found.model.network.spatial_factor)
        return found

    def decode(self, data: tuple[str, ...], folder: Path) -> None:
        """Decode films into a shard set in ``folder``."""
        from trainers.autoencoder.video.data import prepare

        prepare(self.options, data, folder, self.progress)

    def opened(self, folder: Path, data: tuple[str, ...]) -> Films:
        """Return decoded films.

        Raises:
            ValueError: they cannot be put together or do not fit the network.
        """
        return self._films(folder, "video", "films", data)

    def _films(self, folder: Path, stream: str, what: str, data: tuple[str, ...]) -> Films:
        from tokenize_kit.shards import ShardSet
        from trainers.autoencoder.cutting import check_sides
        from trainers.autoencoder.video.data import Films

        films = Films(ShardSet.open(folder, self.options.trust_shards), stream)
        if self.options.image_size is None:
            check_sides(films.sizes, self.network.spatial_factor, what, ", ".join(data))
        if self._sides is None:  # not of those to measure on, which come later
            self._sides = (int(films.sizes[0, 0]), int(films.sizes[0, 1]))
        return films

    def held_out(self, source: Films, numbers: Sequence[int]) -> list[Tensor]:
        """Return the beginnings of films to measure on, cut out of their middles."""
        import torch

        clips = (source.clip(number, self.options.clip_frames, self._cutting, None) for number in numbers)
        # Copies, because the mapped files cannot be written to.
        return [torch.from_numpy(clip.copy()) for clip in clips]

    def batches(self, source: Films, chosen: Ints, runtime: Runtime) -> ClipBatches:
        """Return the training batches of this process.

        Raises:
            ValueError: all films are shorter than a clip, and such are to be left out.
        """
        from trainers.autoencoder.video.data import ClipBatches

        options = self.options
        chosen = self._long_enough(source, chosen, runtime)
        return ClipBatches(
            source,
            chosen,
            options.clip_frames,
            self._cutting,
            options.batch_size,
            options.seed,
            runtime.rank,
            runtime.world,
            self._mixing(runtime),
        )

    def _long_enough(self, source: Films, chosen: Ints, runtime: Runtime) -> Ints:
        """Return the films that are trained on, and say how many are shorter than a clip."""
        options = self.options
        short = source.lengths[chosen] < options.clip_frames
        if not short.any():
            return chosen
        dropped = options.short == "drop"
        if dropped and short.all():
            raise ValueError(
                f"all {len(chosen):,} films are shorter than --clip-frames {options.clip_frames}; lower that, or fill them up "
                "with --short pad"
            )
        if self.progress is not None and runtime.rank == 0:
            fate = "left out" if dropped else "filled up with their last frame"
            self.progress.note(
                f"{int(short.sum()):,} of {len(chosen):,} pieces of films are shorter than the {options.clip_frames} frames of a "
                f"clip and {fate}"
            )
        return chosen[~short] if dropped else chosen

    def _mixing(self, runtime: Runtime) -> Mixing | None:
        """Return the pictures that are trained on beside the films."""
        from trainers.autoencoder.video.data import Mixing, prepare_pictures

        options = self.options
        if not options.pictures:
            return None
        folder = self.room(PICTURES, runtime, lambda path: prepare_pictures(options, path, self.progress))
        pictures = self._films(folder, "image", "pictures", options.pictures)
        self.pictures = len(pictures)
        return Mixing(pictures, options.picture_weight, options.accumulate)

    def model(self) -> VideoAutoencoder:
        """Return a fresh autoencoder."""
        from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder

        return VideoAutoencoder(self.recipe.model)

    def begin_with(self, model: VideoAutoencoder, folder: str) -> None:
        """Give an autoencoder the weights of a tokenizer folder, one of videos or one of pictures.

        Raises:
            ValueError: that tokenizer has another configuration, or is neither.
        """
        from tokenize_kit.protocol import load_tokenizer
        from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
        from tokenize_kit.tokenizers.learned.video.inflation import from_pictures, from_videos
        from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer

        other, source = load_tokenizer(folder), f"--init-from {folder}"
        if isinstance(other, VideoTokenizer):
            from_videos(model, other.model.config, other.model.state_dict(), source)
        elif isinstance(other, AutoencoderTokenizer):
            from_pictures(model, other.config.to_dict(), other.model.state_dict(), source)
        else:
            kind = other.spec.modality
            raise ValueError(f"{source} is a tokenizer of kind {kind}; name one of 'train video' or of 'train image'")

    def task(self, model: VideoAutoencoder, data: ClipBatches, held_out: Sequence[Tensor], plan: Plan) -> VideoTask:
        """Return what the loop trains."""
        from trainers.autoencoder.video.task import VideoTask

        return VideoTask(model, self.recipe, data, held_out, plan)

    def tokenizer(self, model: VideoAutoencoder) -> VideoTokenizer:
        """Return the tokenizer of a trained autoencoder."""
        from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer

        return VideoTokenizer(model)

    def note(self, sizes: Sequence[int], data: ClipBatches) -> str:
        """Return how many codes there are for how many pixels, how long the clips are, and how many films."""
        network = self.network
        codes = " x ".join(f"{size:,}" for size in sizes)
        pieces = several(len(data.chosen), "pieces")
        pictures = f" and {several(self.pictures, 'pictures')}" if self.pictures else ""
        return (
            f"{codes} codes for each {network.temporal_factor}x{network.spatial_factor}x{network.spatial_factor} pixels: "
            f"{self.bits_per_pixel(sizes):.3f} bits a pixel; clips of {data.length} frames at {network.frame_rate:g} a second "
            f"from {pieces} of films{pictures}"
        )

    @property
    def _cutting(self) -> Cutting:
        from trainers.autoencoder.cutting import Cutting

        options = self.options
        return Cutting(options.image_size, options.crop, options.max_scale > 1, options.flip)
