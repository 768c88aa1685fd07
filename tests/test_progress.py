"""Progress: lines now and then where there is no terminal, nothing when it is off, a bar that goes away on a terminal."""

import io

from tokenize_kit.progress import Progress, several
from tokenize_kit.protocol.notes import counted


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_come_at_the_interval_and_the_last_values_stay():
    stream = io.StringIO()
    with Progress(stream=stream, interval=3600) as progress:
        progress.task("encode", 200)
        for number in range(1, 101):
            progress.update(number, tokens=number * 1000, note="x")
    assert stream.getvalue() == "encode 50% 0:00 tokens 100,000  note x\n"


def test_every_task_has_its_own_lines():
    stream = io.StringIO()
    with Progress(stream=stream, interval=0) as progress:
        progress.task("first")
        progress.update(loss=2.34567)
        progress.note("a warning")
        progress.task("second", 4)
        progress.update(4)
    assert stream.getvalue().splitlines() == ["first 0:00 loss 2.346", "a warning", "second 100% 0:00"]


def test_what_is_finished_is_so_to_the_whole():
    stream = io.StringIO()
    with Progress(stream=stream, interval=3600) as progress:
        progress.task("encode", 200)
        progress.update(180, samples=3)
        progress.finish()
        progress.task("nothing to do", 200)
        progress.finish()
    assert stream.getvalue() == "encode 100% 0:00 samples 3\n"


def test_one_thing_is_no_several():
    assert [several(count, "samples") for count in (0, 1, 2000)] == ["0 samples", "1 sample", "2,000 samples"]
    assert counted(1, "sounds", "a to b") == "1 sound was converted from a to b"
    assert counted(1, "of 6 sounds", "a to b") == "1 of 6 sounds were converted from a to b"
    assert counted(1, "sounds", "clipped") == "1 sound: clipped"


def test_nothing_is_shown_when_it_is_off():
    stream = io.StringIO()
    with Progress(enabled=False, stream=stream, interval=0) as progress:
        progress.task("encode", 2)
        progress.update(1)
        progress.note("x")
    assert stream.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_and_one_line_at_the_end():
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.task("encode", 2)
        progress.update(1, samples=1)
        progress.note("[bold] is text")
        progress.update(2, samples=2)
    shown = stream.getvalue()
    assert "[bold] is text" in shown
    assert shown.endswith("encode 100% 0:00 samples 2\n")
