"""The demo's films: a video tokenizer on animated emoji, and a Transformer from their names to its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tokenize_kit.cli.demo.workshop import Workshop
    from tokenize_kit.report import Page
    from trainers.autoencoder.video.train import TrainVideoResult

PROMPTS = ("beating heart", "ghost", "winking face", "blue heart", "alien monster", "face with tears of joy")
FPS = 12.0
FRAMES = 17
"""Of each film, which is one clip."""
HELD_OUT = 0.1
"""The part of the films that the tokenizer does not learn from."""


class FilmPart:
    """Films with their names. The text tokenizer must be there.

    Args:
        shop: where it works.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self.source = shop.asset("animated-emoji.tar")

    def make(self) -> None:
        """Train, encode, train, generate."""
        shop, options = self._shop, self._shop.options
        self._tokenizer = shop.stage("train video tokenizer", self._train_tokenizer)
        shop.stage(
            "encode films",
            lambda: shop.encode("films", ("text", "films"), self.source, image_size=options.film_size),
        )
        # The few films shall be learned by heart, so none is held out.
        model = shop.stage(
            "train film model",
            lambda: shop.train("films", "text -> video", options.film_steps, dropout=0.1, validation_fraction=0.0),
        )
        self._read = model.documents, model.epochs
        self._drawn = shop.stage("generate films", self._films)

    @property
    def psnr(self) -> float:
        """Of the tokenizer on held-out films, in dB."""
        return self._tokenizer.metrics["psnr"]

    @property
    def files(self) -> tuple[str, ...]:
        """The films that were drawn."""
        return tuple(str(file) for file, _, _ in self._drawn)

    def strip(self) -> tuple[str, Tensor]:
        """Return frames of the films that were drawn, each film in a row, and a caption."""
        import torch

        rows = [torch.cat(list(film[:: (FRAMES - 1) // 4]), 2) for _, _, film in self._drawn]
        half = len(rows) // 2
        columns = [torch.cat(part, 1) for part in (rows[:half], rows[half : 2 * half])]
        gap = torch.full((3, columns[0].shape[1], 8), 255, dtype=torch.uint8)
        said = [prompt for _, prompt, _ in self._drawn]
        caption = f"films drawn from: {', '.join(said[: 2 * half])}"
        return caption, torch.cat([columns[0], gap, columns[1]], 2)

    def report(self, page: Page) -> None:
        """Add what the model drew, and what the tokenizer keeps."""
        tokenizer, (documents, epochs) = self._tokenizer, self._read
        steps, side = 1 + (FRAMES - 1) // tokenizer.temporal_factor, self._shop.options.film_size
        page.heading("Films from captions")
        page.paragraph(
            f"A caption, and {FRAMES} frames of {side}x{side} pixels that the model drew for it in "
            f"{steps * (side // tokenizer.spatial_factor) ** 2} tokens. It has seen {documents} films {epochs:.0f} times, and no "
            "others."
        )
        page.films([(film, prompt) for _, prompt, film in self._drawn], FPS)
        page.heading("What the video tokenizer keeps of a film")
        page.paragraph(
            f"Held-out films above what their tokens decode to: {self.psnr:.2f} dB at "
            f"{tokenizer.bits_per_pixel:.3f} bits a pixel after {self._shop.stages['train video tokenizer']:.0f} seconds of "
            "training."
        )
        page.films([(self._kept(), "held out, and decoded")], FPS)

    def _train_tokenizer(self) -> TrainVideoResult:
        from trainers.autoencoder.options import QuantizerOverrides
        from trainers.autoencoder.video.options import TrainVideoOptions
        from trainers.autoencoder.video.train import train_video

        steps = self._shop.options.film_tokenizer_steps
        options = TrainVideoOptions(
            data=(str(self.source),),
            out=str(self._shop.tokenizer("films")),
            quantizer=QuantizerOverrides(levels=(8, 8, 6, 5)),
            image_size=self._shop.options.film_size,
            fps=FPS,
            clip_frames=FRAMES,
            flip=True,
            validation_fraction=HELD_OUT,
            batch_size=16,
            steps=steps,
            validate_every=max(1, steps // 3),
            seed=self._shop.options.seed,
        )
        made = train_video(options, self._shop.progress)
        if "psnr" not in made.metrics:
            raise ValueError(
                f"the demo needs films that the hash of their names holds out; of those in {self.source} none is"
            )
        return made

    def _films(self) -> list[tuple[Path, str, Tensor]]:
        made = self._shop.generate("films", "video", PROMPTS)
        return [(file, prompt, _frames(file)) for prompt, files in made for file in files]

    def _kept(self) -> Tensor:
        """Return held-out films above what the tokenizer keeps of them, as one film."""
        return _frames(max((self._shop.tokenizer("films") / "videos").glob("*-reconstructions.*")))


def _frames(file: Path) -> Tensor:
    from tokenize_kit.media.video import read_video

    return read_video(file.read_bytes(), FPS).frames
