"""docs/video.md: the Python of its streaming runs, and the figures of the tokenizer are those of the code."""

import math
import re
from pathlib import Path

from toys.neural_video import toy_video

from tokenize_kit.tokenizers.learned.video.config import VideoConfig
from tokenize_kit.tokenizers.learned.video.tokenizer import BLOCK_STEPS, TILE_PIXELS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "video.md").read_text(encoding="utf-8")


def section(name):
    return re.split(r"^## ", DOCUMENT.split(f"\n## {name}\n")[1], flags=re.MULTILINE)[0]


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    toy_video("haar", block=2).save(tmp_path / "tokenizers" / "video")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", section("Streaming"), re.DOTALL):
        exec(code, names)
    assert capsys.readouterr().out == "a frame waits for 1 more at most\n"


def test_the_figures_are_those_of_the_code():
    text = section("The tokenizer")
    levels = VideoConfig().quantizer.options()["levels"]
    assert f"levels {' '.join(map(str, levels))} ({15_360:,} ids)" in text
    assert math.prod(levels) == 15_360
    assert f"a side above {TILE_PIXELS} pixels" in text
    assert BLOCK_STEPS == 4
    assert "four steps at a time" in section("Streaming").replace("\n", " ")
