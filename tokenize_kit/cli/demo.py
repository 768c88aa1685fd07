"""``tokenize-kit demo``: the whole way on the bundled assets, through the same functions as the commands.

A BPE tokenizer on multilingual text, a colour palette and a learned autoencoder on emoji; the text, and the pictures with their
captions, as token shards; a Transformer on the text and one on ``text -> image`` for each kind of picture token; samples of all;
and everything in one ``report.html``.
Run again after a kill, it continues where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenize_kit.files import read_json_object, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.report import Page

T = TypeVar("T")

IMAGE_PROMPTS = (
    "red heart",
    "blue heart",
    "green circle",
    "grinning face",
    "sleeping face",
    "cat face",
    "four o’clock",
    "full moon",
)
TEXT_PROMPTS = ("Everyone has the right to", "Toute personne a droit", "Toda persona tiene derecho a")
SAMPLES_A_PROMPT = 4
TOKEN_VIEW = (
    "All human beings are born free and equal in dignity and rights.\n"
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\n"
    "Все люди рождаются свободными и равными.\n人人生而自由，在尊严和权利上一律平等。 \U0001f44b\U0001f3fd"
)


@dataclass(frozen=True)
class DemoOptions:
    """The whole way on the bundled assets, in a few minutes: tokenizers, shards, three models, samples, report.html."""

    out: str = "demo_out"
    """Folder for everything that is made; open its report.html."""
    assets: str | None = None
    """Folder with udhr.txt and emoji.tar; that of the repository if not given."""
    text_vocab: int = 2048
    """Tokens of the text tokenizer."""
    colors: int = 64
    """Colours of the palette."""
    image_size: int = 16
    """Side of the palette's pictures in pixels; a picture is this many tokens squared."""
    learned_size: int = 32
    """Side of the learned tokenizer's pictures in pixels; 4x4 of them are one token."""
    tokenizer_steps: int = 700
    """Training steps of the learned tokenizer."""
    text_steps: int = 120
    """Training steps of the text model."""
    image_steps: int = 250
    """Training steps of the model from captions to palette tokens."""
    learned_steps: int = 600
    """Training steps of the model from captions to learned tokens."""
    seed: int = 0
    """Seed of training and sampling."""

    def __post_init__(self) -> None:
        for name in ("text_steps", "image_steps", "tokenizer_steps", "learned_steps", "image_size", "learned_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    report: str
    """The page to open."""
    seconds: float
    """How long it took."""
    text_bits_per_byte: float
    """Of the text model, on held-out paragraphs."""
    image_bits_per_token: float
    """Of the model over palette tokens, on held-out emoji."""
    learned_psnr: float
    """Of the learned tokenizer on held-out emoji, in dB."""
    learned_bits_per_token: float
    """Of the model over learned tokens, on held-out emoji."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""


def demo(options: DemoOptions, progress: Progress) -> DemoResult:
    """Run every stage and write the report.

    Raises:
        FileNotFoundError: the assets are not where they should be.
        ValueError: ``out`` holds a demo with other options; or as the functions of the stages.
    """
    return _Demo(options, progress).run()


class _Demo:
    def __init__(self, options: DemoOptions, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.out = Path(options.out)
        assets = Path(options.assets) if options.assets is not None else Path(__file__).parents[2] / "assets"
        self.text, self.emoji = assets / "udhr.txt", assets / "emoji.tar"
        for file in (self.text, self.emoji):
            if not file.is_file():
                raise FileNotFoundError(
                    f"the demo needs {file}; it is in the repository's assets folder (--assets DIR)"
                )
        self.stages: dict[str, float] = {}

    def run(self) -> DemoResult:
        began = time.perf_counter()
        self._claim()
        self._stage("train bpe", self._train_bpe)
        self._stage("train palette", self._train_palette)
        tokenizer = self._stage("train image tokenizer", self._train_tokenizer)
        self._stage("encode text", lambda: self._encode("text", ("text",), self.text, None))
        size, learned_size = self.options.image_size, self.options.learned_size
        self._stage("encode emoji", lambda: self._encode("emoji", ("text", "palette"), self.emoji, size))
        self._stage("encode learned", lambda: self._encode("learned", ("text", "learned"), self.emoji, learned_size))
        text = self._stage("train text model", self._train_text)
        image = self._stage("train palette model", lambda: self._train_pictures("emoji", self.options.image_steps))
        learned = self._stage(
            "train learned model", lambda: self._train_pictures("learned", self.options.learned_steps)
        )
        texts = self._stage("generate text", lambda: self._generate("text", "text", TEXT_PROMPTS, 1))
        pictures = self._stage(
            "generate pictures", lambda: self._generate("emoji", "image", IMAGE_PROMPTS, SAMPLES_A_PROMPT)
        )
        better = self._stage(
            "generate learned pictures", lambda: self._generate("learned", "image", IMAGE_PROMPTS, SAMPLES_A_PROMPT)
        )
        models = {"text": text, "emoji": image, "learned": learned}
        report = self._stage("report", lambda: self._report(models, tokenizer, texts, pictures, better))
        return DemoResult(
            str(report),
            round(time.perf_counter() - began, 1),
            text.metrics["text/bits_per_byte"],
            image.metrics["bits_per_token"],
            tokenizer.metrics["psnr"],
            learned.metrics["bits_per_token"],
            self.stages,
        )

    def _claim(self) -> None:
        """Tie the folder to these options, so that finished stages can be trusted."""
        wanted = {name: value for name, value in asdict(self.options).items() if name not in ("out", "assets")}
        file = self.out / "demo.json"
        if file.is_file():
            found = read_json_object(file)
            if found != wanted:
                raise ValueError(
                    f"{self.out} holds a demo with other options ({found}); choose another --out or delete it"
                )
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty and not a demo's folder; choose another --out")
        write_json(file, wanted)

    def _stage(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        self.progress.note(f"{name} ...")
        result = work()
        self.stages[name] = round(time.perf_counter() - began, 1)
        return result

    def _train_bpe(self) -> None:
        from trainers.text import TrainBPEOptions, train_bpe

        folder = self.out / "tokenizers" / "text"
        if not (folder / "tokenizer_config.json").is_file():
            options = TrainBPEOptions(
                (str(self.text), str(self.emoji)), str(folder), vocab_size=self.options.text_vocab
            )
            train_bpe(options, self.progress)

    def _train_palette(self) -> None:
        from trainers.pixels import TrainPaletteOptions, train_palette

        folder = self.out / "tokenizers" / "palette"
        if not (folder / "tokenizer_config.json").is_file():
            options = TrainPaletteOptions(
                data=(str(self.emoji),), out=str(folder), colors=self.options.colors, image_size=self.options.image_size
            )
            train_palette(options, self.progress)

    def _train_tokenizer(self) -> Any:
        from trainers.autoencoder.options import QuantizerOverrides, TrainImageOptions
        from trainers.autoencoder.train import train_image

        options = TrainImageOptions(
            data=(str(self.emoji),),
            out=str(self.out / "tokenizers" / "learned"),
            preset="fsq",
            quantizer=QuantizerOverrides(levels=(8, 6, 5)),
            image_size=self.options.learned_size,
            flip=True,
            batch_size=32,
            steps=self.options.tokenizer_steps,
            validate_every=max(1, self.options.tokenizer_steps // 5),
            seed=self.options.seed,
        )
        return train_image(options, self.progress)

    def _encode(self, name: str, tokenizers: tuple[str, ...], data: Path, image_size: int | None) -> None:
        from tokenize_kit.shards.encode import encode
        from tokenize_kit.shards.options import EncodeOptions

        options = EncodeOptions(
            tokenizer=tuple(str(self.out / "tokenizers" / folder) for folder in tokenizers),
            data=(str(data),),
            out=str(self.out / "shards" / name),
            split="paragraphs",
            image_size=image_size,
        )
        encode(options, self.progress)

    def _train_text(self) -> Any:
        return self._train("text", "text", self.options.text_steps, batch_size=16, context=192, layers=3)

    def _train_pictures(self, name: str, steps: int) -> Any:
        # A picture is few learned tokens, so the model sees each of them often.
        dropout = 0.2 if name == "learned" else 0.0
        return self._train(name, "text -> image", steps, batch_size=16, context=None, layers=3, dropout=dropout)

    def _train(
        self,
        name: str,
        template: str,
        steps: int,
        *,
        batch_size: int,
        context: int | None,
        layers: int,
        dropout: float = 0.0,
    ) -> Any:
        from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
        from trainers.autoregressive.train import train_transformer
        from trainers.config import OptimizerConfig

        options = TrainTransformerOptions(
            shards=(str(self.out / "shards" / name),),
            template=template,
            out=str(self.out / "models" / name),
            preset="tiny",
            model=TransformerOverrides(layers=layers, width=192, heads=3, dropout=dropout),
            optimizer=OptimizerConfig(optimizer="muon", learning_rate=3e-3, warmup_steps=40, decay_fraction=0.5),
            steps=steps,
            batch_size=batch_size,
            context=context,
            validate_every=max(1, steps // 5),
            validation_tokens=20_000,
            seed=self.options.seed,
        )
        return train_transformer(options, self.progress)

    def _generate(self, name: str, stream: str, prompts: tuple[str, ...], count: int) -> list[tuple[str, list[Path]]]:
        from trainers.autoregressive.options import GenerateOptions
        from trainers.autoregressive.sample import generate_samples

        made = []
        for number, prompt in enumerate(prompts):
            folder = self.out / "samples" / name / f"{number:02}"
            options = GenerateOptions(
                model=str(self.out / "models" / name),
                out=str(folder),
                count=count,
                prompt=prompt,
                seed=self.options.seed,
                temperature=0.8,
                top_p=0.95,
            )
            generate_samples(options, self.progress)
            lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
            made.append((prompt, [folder / json.loads(line)["files"][stream] for line in lines]))
        return made

    def _report(
        self,
        models: dict[str, Any],
        tokenizer: Any,
        texts: list[tuple[str, list[Path]]],
        pictures: list[tuple[str, list[Path]]],
        better: list[tuple[str, list[Path]]],
    ) -> Path:
        from tokenize_kit.cli.evaluate import add_evaluation
        from tokenize_kit.media.image import read_image
        from tokenize_kit.metrics.evaluate import evaluate
        from tokenize_kit.metrics.options import EvaluateOptions
        from tokenize_kit.report import Page
        from tokenize_kit.text import BPETokenizer

        page = Page("tokenize-kit demo")
        page.paragraph(
            f"Three tokenizers and three small Transformers, trained on the CPU in {sum(self.stages.values()):.0f} seconds from "
            f"{self.text.name} (1 MB of the Universal Declaration of Human Rights) and {self.emoji.name} (emoji and names)."
        )
        side = self.options.learned_size
        page.heading("Pictures from captions, in learned tokens")
        page.paragraph(
            f"Each row: a caption and {SAMPLES_A_PROMPT} pictures of {side}x{side} pixels that the model drew for it in "
            f"{(side // 4) ** 2} tokens. Held-out emoji cost it {models['learned'].metrics['bits_per_token']:.3f} bits a token."
        )
        drawn = [(prompt, [read_image(file.read_bytes(), 3) for file in files]) for prompt, files in better]
        for prompt, images in drawn:
            page.pictures([(image, prompt) for image in images], scale=3)
        page.heading("What the learned tokenizer keeps of a picture")
        page.paragraph(
            f"Held-out emoji above what their tokens decode to: {tokenizer.metrics['psnr']:.2f} dB, "
            f"{tokenizer.metrics['usage']:.0%} of the codes used."
        )
        sheet = max((self.out / "tokenizers" / "learned" / "pictures").glob("*-reconstructions.png"))
        kept = read_image(sheet.read_bytes(), 3)
        page.pictures([(kept, "held out, and decoded")])
        _write_sheet(drawn, kept, self.out / "pictures.png")
        page.heading("Pictures from captions, pixel by pixel")
        page.paragraph(
            f"The same in the colours of a palette, {self.options.image_size}x{self.options.image_size} tokens. Held-out "
            f"emoji cost the model {models['emoji'].metrics['bits_per_token']:.3f} bits a pixel."
        )
        for prompt, files in pictures:
            page.pictures([(read_image(file.read_bytes(), 3), prompt) for file in files], scale=5)
        page.heading("Text")
        cost = models["text"].metrics["text/bits_per_byte"]
        page.paragraph(f"Held-out paragraphs cost the model {cost:.3f} bits a byte.")
        for _, files in texts:
            for file in files:
                page.quote(file.read_text(encoding="utf-8")[:400])
        page.heading("Training")
        self._curves(page)
        page.heading("A text in tokens")
        bpe = BPETokenizer.load(self.out / "tokenizers" / "text")
        ids = bpe.encode(TOKEN_VIEW)
        page.tokens(bpe.tokens(ids), ids.tolist())
        page.paragraph(f"{len(TOKEN_VIEW.encode())} bytes in {len(ids)} tokens; hover over one for its id.")
        page.heading("The palette on held-in emoji")
        options = EvaluateOptions(
            str(self.out / "tokenizers" / "palette"), (str(self.emoji),), limit=200, image_size=self.options.image_size
        )
        add_evaluation(page, evaluate(options, self.progress))
        page.heading("Time")
        page.table(("stage", "seconds"), list(self.stages.items()))
        return page.write(self.out / "report.html")

    def _curves(self, page: Page) -> None:
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for name in ("text", "emoji", "learned"):
            lines = (self.out / "models" / name / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
            for key, label in (("bits_per_token", "train"), ("validation/bits_per_token", "held out")):
                rows = [row for row in map(json.loads, lines) if key in row]
                curves[f"{name}, {label}"] = ([row["step"] for row in rows], [row[key] for row in rows])
        page.curves(curves, "step", "bits a token")


def _write_sheet(
    columns: list[tuple[str, list[Tensor]]], kept: Tensor, path: Path, scale: int = 3, gap: int = 8
) -> None:
    """Write one picture: reconstructions (C, H, W) on top, then a column for each caption with its pictures below it."""
    from PIL import Image, ImageDraw

    from tokenize_kit.files import atomic_write
    from tokenize_kit.media.image import to_pillow

    side = columns[0][1][0].shape[-1] * scale
    rows = max(len(images) for _, images in columns)
    width = len(columns) * (side + gap) + gap
    top_height = round(kept.shape[1] * width / kept.shape[2])
    sheet = Image.new("RGB", (width, top_height + rows * (side + gap) + 32), "white")
    sheet.paste(to_pillow(kept).convert("RGB").resize((width, top_height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(sheet)
    for column, (caption, images) in enumerate(columns):
        left = gap + column * (side + gap)
        draw.text((left + side / 2, top_height + 16), caption, fill="black", anchor="mm")
        for row, image in enumerate(images):
            picture = to_pillow(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top_height + 32 + row * (side + gap)))
    with atomic_write(path) as file:
        sheet.save(file, "PNG")
