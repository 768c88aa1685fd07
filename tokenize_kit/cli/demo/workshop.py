"""Where the parts of the demo work: its folder, its clock, and the jobs that several of them have."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenize_kit.cli.demo.pace import measured, pace
from tokenize_kit.files import read_signed, signed, write_json
from tokenize_kit.partial import is_partial, remove_abandoned_below
from tokenize_kit.protocol import is_tokenizer_folder

if TYPE_CHECKING:
    from tokenize_kit.cli.demo.options import DemoOptions
    from tokenize_kit.progress import Progress
    from trainers.autoregressive.train import TrainResult

T = TypeVar("T")


class Workshop:
    """The folder of a demo.

    Args:
        options: of the demo.
        progress: is told what is being done.
    """

    def __init__(self, options: DemoOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.out = Path(options.out)
        self.stages: dict[str, float] = {}
        """Seconds of each stage."""
        self.pace = 1.0
        """Which part of their steps the trainings have."""
        self.models: list[str] = []
        """Names of the models in the order of their training."""
        self._assets = Path(options.assets) if options.assets is not None else Path(__file__).parents[3] / "assets"

    def asset(self, name: str) -> Path:
        """Return a file or folder of the assets.

        Raises:
            FileNotFoundError: it is not there.
        """
        path = self._assets / name
        if not path.exists():
            raise FileNotFoundError(f"the demo needs {path}; it is in the repository's assets folder (--assets DIR)")
        return path

    def claim(self) -> None:
        """Tie the folder to the options and to the pace, so that finished stages can be trusted and others fit to them.

        Raises:
            ValueError: it holds something else.
        """
        wanted = {name: value for name, value in asdict(self.options).items() if name not in ("out", "assets")}
        file = self.out / "demo.json"
        if file.is_file():
            found = read_signed(file)
            self.pace = found.pop("pace", 1.0)
            if found != wanted:
                raise ValueError(
                    f"{self.out} holds a demo with other options ({found}); choose another --out or delete it"
                )
        elif self.out.is_dir() and any(not is_partial(path.name) for path in self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty and not a demo's folder; choose another --out")
        elif self.options.minutes is not None:
            self.pace = pace(self.options.minutes, measured())
        remove_abandoned_below(self.out)
        write_json(file, signed(wanted if self.pace == 1 else wanted | {"pace": self.pace}))
        if self.pace < 1:
            self.progress.note(
                f"a slow machine: the trainings have {self.pace:.0%} of their steps, to end in about {self.options.minutes:g} "
                "minutes; a larger --minutes gives them more"
            )
        self.options = self.options.at(self.pace)

    def stage(self, name: str, work: Callable[[], T]) -> T:
        """Return what ``work`` makes, and note how long it took."""
        began = time.perf_counter()
        self.progress.note(f"{name} ...")
        result = work()
        self.stages[name] = round(time.perf_counter() - began, 1)
        return result

    def tokenizer(self, name: str) -> Path:
        """Return the folder of a tokenizer."""
        return self.out / "tokenizers" / name

    def is_made(self, name: str) -> bool:
        """Return whether a tokenizer is finished."""
        return is_tokenizer_folder(self.tokenizer(name))

    def encode(
        self,
        name: str,
        tokenizers: Sequence[str],
        data: Path,
        *,
        image_size: int | None = None,
        codebooks: int | None = None,
        field: str | None = None,
        augment: Sequence[str] = (),
        augment_seed: int = 0,
    ) -> None:
        """Make the shards ``name`` of ``data`` with the tokenizers of these names, in their order."""
        from tokenize_kit.shards.encode import encode
        from tokenize_kit.shards.options import EncodeOptions

        options = EncodeOptions(
            tokenizer=tuple(str(self.tokenizer(tokenizer)) for tokenizer in tokenizers),
            field=() if field is None else (field,),
            augment=tuple(augment),
            augment_seed=augment_seed,
            data=(str(data),),
            out=str(self.out / "shards" / name),
            split="paragraphs",
            image_size=image_size,
            codebooks=codebooks,
        )
        encode(options, self.progress)

    def train(
        self,
        name: str,
        template: str,
        steps: int,
        *,
        shards: Sequence[str] = (),
        batch_size: int = 16,
        context: int | None = None,
        dropout: float = 0.0,
        condition_dropout: float = 0.0,
        validation_fraction: float = 0.05,
    ) -> TrainResult:
        """Train the Transformer ``name`` on the shards of that name, or on several others."""
        from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
        from trainers.autoregressive.train import train_transformer
        from trainers.config import OptimizerConfig

        options = TrainTransformerOptions(
            shards=tuple(str(self.out / "shards" / one) for one in shards or (name,)),
            template=(template,),
            condition_dropout=condition_dropout,
            out=str(self.out / "models" / name),
            preset="tiny",
            model=TransformerOverrides(layers=3, width=192, heads=3, dropout=dropout),
            optimizer=OptimizerConfig(optimizer="muon", learning_rate=3e-3, warmup_steps=40, decay_fraction=0.5),
            steps=steps,
            batch_size=batch_size,
            context=context,
            validate_every=max(1, steps // 5),
            validation_fraction=validation_fraction,
            validation_tokens=20_000,
            seed=self.options.seed,
        )
        self.models.append(name)
        return train_transformer(options, self.progress)

    def generate(
        self, name: str, stream: str, prompts: Sequence[str], count: int = 1, guidance: float | None = None
    ) -> list[tuple[str, list[Path]]]:
        """Draw samples of the model ``name`` for each prompt; return the prompts with the files of ``stream``."""
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
                guidance=None if guidance is None else (guidance,),
            )
            generate_samples(options, self.progress)
            lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
            made.append((prompt, [folder / json.loads(line)["files"][stream] for line in lines]))
        return made
