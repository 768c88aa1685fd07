"""The demo's pictures: a colour palette and a learned tokenizer on emoji, and a Transformer from captions to either's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.cli.demo.workshop import Workshop
    from tokenize_kit.report import Page
    from trainers.autoencoder.image.train import TrainImageResult

PROMPTS = (
    "red heart",
    "blue heart",
    "green circle",
    "grinning face",
    "sleeping face",
    "cat face",
    "four o’clock",
    "full moon",
)
SAMPLES_A_PROMPT = 4
GUIDANCE = 3.0
"""How much the learned model's pictures are pulled to their captions."""
RARE = 3
"""Words that come less often in all captions are one id, so that one that is seen once does not stand for a picture."""
CHANGED = "image=zoom:0.1+shift:0.06"
VARIANTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("txt", ()),
    *[("txt", (CHANGED,))] * 2,
    *[("caption", (CHANGED, "text=parts"))] * 5,
)
"""The forms in which the learned model sees all emoji: where their captions are, and what is drawn for each."""


class PicturePart:
    """Pictures with captions, in two kinds of tokens. For those of the palette the text tokenizer must be there.

    Args:
        shop: where it works.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self.source = shop.asset("emoji.tar")

    def make(self) -> None:
        """Train, encode, train, generate."""
        shop, options = self._shop, self._shop.options
        shop.stage("train palette", self._train_palette)
        shop.stage(
            "encode emoji",
            lambda: shop.encode("emoji", ("text", "palette"), self.source, image_size=options.image_size),
        )
        model = shop.stage("train palette model", lambda: shop.train("emoji", "text -> image", options.image_steps))
        self.palette_bits = model.metrics["bits_per_token"]
        self._drawn = shop.stage("generate pictures", lambda: self._pictures("emoji"))
        self.make_learned()
        self.drawn = shop.stage("generate learned pictures", lambda: self._pictures("learned", GUIDANCE))
        """Captions with the pictures of the model over learned tokens."""

    def make_learned(self) -> None:
        """Make the learned tokenizer and the model over its tokens; nothing else must be there."""
        shop = self._shop
        self.tokenizer = shop.stage("train image tokenizer", self._train_tokenizer)
        shop.stage("train words", self._train_words)
        sets = shop.stage("encode learned", self._encode_variants)
        # A picture is few learned tokens, so the model sees each of them often.
        model = shop.stage(
            "train learned model",
            lambda: shop.train(
                "learned",
                "text -> image",
                shop.options.learned_steps,
                shards=sets,
                # Several documents fill a row better than one: the longest caption is twice as long as most.
                context=384,
                batch_size=4,
                condition_dropout=0.05,
            ),
        )
        self.learned_bits = model.metrics["bits_per_token"]

    def kept(self) -> Tensor:
        """Return held-out pictures above what the learned tokenizer keeps of them, as one picture."""
        from tokenize_kit.media.image import read_image

        sheet = max((self._shop.tokenizer("learned") / "pictures").glob("*-reconstructions.png"))
        return read_image(sheet.read_bytes(), 3)

    def report(self, page: Page) -> None:
        """Add what the models drew, and what the learned tokenizer keeps."""
        options = self._shop.options
        side = options.learned_size
        page.heading("Pictures from captions, in learned tokens")
        page.paragraph(
            f"Each row: a caption and {SAMPLES_A_PROMPT} pictures of {side}x{side} pixels that the model drew for it in "
            f"{(side // 4) ** 2} tokens, with a guidance of {GUIDANCE:g}. It has learnt the emoji in {len(VARIANTS)} forms, by "
            f"names and by keywords. Held-out ones cost it {self.learned_bits:.3f} bits a token."
        )
        _rows(page, self.drawn, 3)
        page.heading("What the learned tokenizer keeps of a picture")
        metrics = self.tokenizer.metrics
        page.paragraph(
            f"Held-out emoji above what their tokens decode to: {metrics['psnr']:.2f} dB, {metrics['usage']:.0%} of the codes "
            "used."
        )
        page.pictures([(self.kept(), "held out, and decoded")])
        page.heading("Pictures from captions, pixel by pixel")
        page.paragraph(
            f"The same in the colours of a palette, {options.image_size}x{options.image_size} tokens. Held-out "
            f"emoji cost the model {self.palette_bits:.3f} bits a pixel."
        )
        _rows(page, self._drawn, 5)

    def evaluation(self, page: Page) -> None:
        """Add what `evaluate` says of the palette."""
        from tokenize_kit.cli.evaluate import add_evaluation
        from tokenize_kit.metrics.evaluate import evaluate
        from tokenize_kit.metrics.options import EvaluateOptions

        page.heading("The palette on held-in emoji")
        options = EvaluateOptions(
            str(self._shop.tokenizer("palette")),
            (str(self.source),),
            limit=200,
            image_size=self._shop.options.image_size,
        )
        add_evaluation(page, evaluate(options, self._shop.progress))

    def _train_palette(self) -> None:
        from trainers.palette.train import TrainPaletteOptions, train_palette

        if not self._shop.is_made("palette"):
            options = TrainPaletteOptions(
                data=(str(self.source),),
                out=str(self._shop.tokenizer("palette")),
                colors=self._shop.options.colors,
                image_size=self._shop.options.image_size,
            )
            train_palette(options, self._shop.progress)

    def _train_words(self) -> None:
        from tokenize_kit.tokenizers.text.words import TrainWordsOptions, train_words

        if not self._shop.is_made("captions"):
            options = TrainWordsOptions(
                (str(self.source),),
                str(self._shop.tokenizer("captions")),
                lowercase=True,
                min_frequency=RARE,
                field="caption",
            )
            train_words(options, self._shop.progress)

    def _encode_variants(self) -> list[str]:
        """Encode the emoji once in each form; return the names of the shards."""
        names = [f"learned-{number}" for number in range(len(VARIANTS))]
        for number, (name, (field, augment)) in enumerate(zip(names, VARIANTS, strict=True)):
            self._shop.encode(
                name,
                ("captions", "learned"),
                self.source,
                image_size=self._shop.options.learned_size,
                field=field,
                augment=augment,
                augment_seed=number if augment else 0,
            )
        return names

    def _train_tokenizer(self) -> TrainImageResult:
        from trainers.autoencoder.image.options import TrainImageOptions
        from trainers.autoencoder.image.train import train_image
        from trainers.autoencoder.options import QuantizerOverrides

        steps = self._shop.options.tokenizer_steps
        options = TrainImageOptions(
            data=(str(self.source),),
            out=str(self._shop.tokenizer("learned")),
            preset="fsq",
            quantizer=QuantizerOverrides(levels=(8, 6, 5)),
            image_size=self._shop.options.learned_size,
            flip=True,
            batch_size=32,
            steps=steps,
            validate_every=max(1, steps // 5),
            seed=self._shop.options.seed,
        )
        return train_image(options, self._shop.progress)

    def _pictures(self, name: str, guidance: float | None = None) -> list[tuple[str, list[Tensor]]]:
        from tokenize_kit.media.image import read_image

        made = self._shop.generate(name, "image", PROMPTS, SAMPLES_A_PROMPT, guidance)
        return [(prompt, [read_image(file.read_bytes(), 3) for file in files]) for prompt, files in made]


def _rows(page: Page, drawn: Sequence[tuple[str, Sequence[Tensor]]], scale: int) -> None:
    for prompt, images in drawn:
        page.pictures([(image, prompt) for image in images], scale=scale)
