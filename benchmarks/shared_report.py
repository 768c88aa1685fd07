"""The report of `shared_model.py`: what the shared model makes in every direction, from samples that were held out and others."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from emoji_films import FPS, FRAMES
from torch import Tensor

from tokenize_kit.files import write_text
from tokenize_kit.media.audio import read_audio, self_describing
from tokenize_kit.media.image import read_image
from tokenize_kit.media.video import read_video
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.report import Page
from tokenize_kit.shards import ShardSet
from tokenize_kit.sources.heldout import held_out, key_fraction

FRACTION = 0.1
RATE = 16_000
_BEGINNING = 8
"""Words of a text that is continued."""
_SHOWN = 600
"""Characters of what follows."""

Run = Callable[[str], dict[str, Any]]
Pick = tuple[str, str, bytes]
"""The name of a sample, its caption or words, and its file."""


def picks(path: str, ending: str, held: int, others: int) -> list[Pick]:
    """Return so many samples of a tar that were held out, and as many others as asked for, by the hash of their keys."""
    with tarfile.open(path) as archive:
        members = {member.name: file.read() for member in archive if (file := archive.extractfile(member)) is not None}
    names = [name.removesuffix(ending) for name in members if name.endswith(ending)]
    keys = {name: f"{Path(path).name}/{name}" for name in names}
    names.sort(key=lambda name: key_fraction(keys[name]))
    apart = [name for name in names if held_out(keys[name], FRACTION)][:held]
    # The last ones are furthest from being held out.
    chosen = [*apart, *names[len(names) - others :]]
    return [(name, members[f"{name}.txt"].decode(), members[name + ending]) for name in chosen]


def pages(count: int) -> list[str]:
    """Return so many help pages that were held out."""
    tokenizer = load_tokenizer("tokenizers/text")
    records = [record for record in ShardSet.open("shards/text").records() if held_out(record.key, FRACTION)]
    records = sorted(records, key=lambda record: key_fraction(record.key))[:count]
    return [str(tokenizer.decode(torch.from_numpy(record.grids["text"].astype("int64")))) for record in records]


def drawn(run: Run, template: str, prompts: Sequence[str | tuple[str, bytes]], count: int = 1) -> list[list[str]]:
    """Draw samples with ``generate``, ``count`` for each text or file (ending, content); return texts, or the paths of files."""
    name = template.replace(":delay", "").replace(" -> ", "-to-")
    lines = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            lines.append({"prompt": prompt})
            continue
        ending, content = prompt
        file = Path("prompts") / f"{name}-{number:02}{ending}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        lines.append({"prompt_file": file.name})
    file = Path("prompts") / f"{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    # Cautious draws are good for texts; of pictures, films and sounds they leave mostly the white ground and silence.
    how = "--temperature 0.8 --top-p 0.95" if template.endswith("text") else "--temperature 1"
    made = run(
        f"generate --model models/shared --template '{template}' --prompts {file} --count {count} {how} --seed 1 "
        f"--out samples/{name} --overwrite"
    )
    found = made["texts"] or made["files"]
    return [found[start : start + count] for start in range(0, len(found), count)]


def sound(path: str, content: bytes | None = None) -> Tensor:
    """Return a sound, float32 (1, samples)."""
    data = Path(path).read_bytes() if content is None else content
    return read_audio(self_describing(path, data), RATE, 1).samples


def write_report(header: Sequence[str], table: Sequence[Sequence[object]], notes: Sequence[str], run: Run) -> None:
    """Draw samples of all directions in the present folder, print some, and write ``report.html``.

    Args:
        header: of the comparison.
        table: its rows.
        notes: on the tokenizers and models.
        run: runs one command.
    """
    page = Page("One model of text, pictures, speech and films")
    page.table(header, table)
    page.notes(notes)
    _texts(page, run)
    _pictures(page, run)
    _speech(page, run)
    _films(page, run)
    print(f"\n{page.write('report.html')}: {sum(1 for _ in Path('samples').glob('*/sample_*'))} samples")


def _texts(page: Page, run: Run) -> None:
    page.heading("Text, continued")
    begun = [" ".join(text.split()[:_BEGINNING]) for text in pages(4)]
    print("\ntext")
    for beginning, (made,) in zip(begun, drawn(run, "text", begun), strict=True):
        page.quote(f"{beginning} \N{RIGHTWARDS ARROW}\n{made[:_SHOWN]}")
        print(f"  {' '.join(made.split())[:160]}")


def _pictures(page: Page, run: Run) -> None:
    chosen = picks("data/pictures/emoji.tar", ".png", 8, 4)
    page.heading("Pictures for captions")
    page.paragraph(
        "Original, then four pictures drawn for its caption. Of the last four the model has seen the original."
    )
    made = drawn(run, "text -> image", [caption for _, caption, _ in chosen], 4)
    for (_, caption, content), files in zip(chosen, made, strict=True):
        shown = [(read_image(Path(file).read_bytes(), 3), "drawn") for file in files]
        page.pictures([(_small(read_image(content, 3)), caption), *shown], scale=3)
    page.heading("Captions for pictures")
    made = drawn(run, "image -> text", [(".png", content) for _, _, content in chosen], 2)
    rows = [(caption, *said) for (_, caption, _), said in zip(chosen, made, strict=True)]
    page.pictures([(read_image(content, 3), caption) for _, caption, content in chosen], 2)
    page.table(("caption (the first eight held out)", "drawn", "drawn"), rows)
    _print("image -> text", rows)


def _speech(page: Page, run: Run) -> None:
    chosen = picks("data/speech.tar", ".g722", 6, 3)
    page.heading("Speech for words")
    page.paragraph(
        "Each a recording and what the model says for its words. Of the last three it has heard the recording."
    )
    made = drawn(run, "text -> audio:delay", [said for _, said, _ in chosen])
    for (name, said, content), (file,) in zip(chosen, made, strict=True):
        page.recordings([(sound(f"{name}.g722", content), f"recorded: {said}"), (sound(file), f"drawn: {said}")], RATE)
    page.heading("Words for speech")
    made = drawn(run, "audio:delay -> text", [(".g722", content) for _, _, content in chosen], 2)
    rows = [(said, *words) for (_, said, _), words in zip(chosen, made, strict=True)]
    page.table(("said (the first six held out)", "drawn", "drawn"), rows)
    _print("audio:delay -> text", rows)


def _films(page: Page, run: Run) -> None:
    chosen = picks("data/films/emoji.tar", ".webp", 5, 3)
    page.heading("Films for captions")
    page.paragraph(
        "Original, then two films that were drawn for its caption. Of the last three the model has seen the original."
    )
    made = drawn(run, "text -> video", [caption for _, caption, _ in chosen], 2)
    for (_, caption, content), files in zip(chosen, made, strict=True):
        shown = [(read_video(Path(file).read_bytes(), FPS).frames, "drawn") for file in files]
        page.films([(read_video(content, FPS).frames[:FRAMES], caption), *shown], FPS)


def _small(picture: Tensor) -> Tensor:
    """Return a picture as its tokens have it, 32x32."""
    return torch.nn.functional.adaptive_avg_pool2d(picture.float(), 32).round().to(torch.uint8)


def _print(title: str, rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}")
    for row in rows:
        print(f"  {' | '.join(' '.join(cell.split())[:60] for cell in row)}")
