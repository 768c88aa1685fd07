"""One sample out of files of one stem, tar members or files of a folder: which of them holds which part.

Besides what `tokenize_kit.sources.parts` tells, a place can be:

    desc_fr.txt         the file with this ending; txt is also the only one that ends so after further dots
    .txt                the same, whatever keys the .json of the sample has
    desc_fr.txt:2       a line of it
    caption, meta.text  a key of its .json; one of that name wins over a file that ends so
    info.json:caption   a key of the JSON file with this ending

Of a film, a sound track or a picture that may go into several streams each stream has the same file; where a file of its own lies
beside it (a sound beside a film), it has that. Subtitles (``.srt``, ``.vtt``) are a text; see `tokenize_kit.media.subtitles`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tokenize_kit.media import subtitles
from tokenize_kit.media.subtitles import Subtitles, read_subtitles
from tokenize_kit.media.text import read_text
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import Modality
from tokenize_kit.sources.blocks import Collector, Content, add_long_text, one_line, text_name
from tokenize_kit.sources.json_values import parse_json_object
from tokenize_kit.sources.parts import MISSING, MissingPartError, line_of, listed, text_of, value_at
from tokenize_kit.sources.planning import ReadOptions, Source
from tokenize_kit.sources.stored import LazyFile

Fields: TypeAlias = Mapping[str, Callable[[], bytes]]
"""The files of one sample by extension, read when they are called for."""

_RECORD = ".json"


def add_fields(out: Collector, key: str, fields: Fields, options: ReadOptions) -> None:
    """Add a sample that is made of files, named by extension; only those that are needed are read."""
    try:
        files = _Files(fields)
        contents = {source.name: files.content(source, options) for source in options.sources}
        columns = {name: files.column(name) for name in options.columns}
        if options.text_only:
            add_long_text(out, key, str(contents[text_name(options)]), columns, options)
        else:
            out.add(key, contents, columns)
    except MissingPartError as error:
        out.fail(key, one_line(error), incomplete=True)
    except ValueError as error:
        out.fail(key, one_line(error))


class _Files:
    """The files of one sample."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._records: dict[str, dict[str, Any]] = {}

    def content(self, source: Source, options: ReadOptions) -> Content:
        """Return what the files have for a source.

        Raises:
            MissingPartError: nothing.
            ValueError: several files could be it, or the one is no text.
        """
        kind, place = modality_named(source.modality), options.place_of(source)
        if place is None:
            return self._usual(source, kind, options)
        if kind.textual:
            text = self.text(place, values=kind.takes_values)
            if text is not MISSING:
                return text if isinstance(text, Subtitles) else str(text)
        elif extension := self.extension(place):
            return self._media(kind, extension, options)
        raise MissingPartError(f"it has no {place}; {self._there(place)}")

    def _usual(self, source: Source, kind: Modality, options: ReadOptions) -> Content:
        """Return the file that has an ending of this kind, or else a text of the record."""
        key = options.field_of(source)
        endings = options.endings_of(source)
        found = [name for name in self._fields if _ending(name) in endings]
        if len(found) > 1:
            # A file that only this source can have comes before one that others can have too: a sound before the film's own.
            others = {ending for other in options.sources if other != source for ending in options.endings_of(other)}
            found = [name for name in found if _ending(name) not in others] or found
        if len(found) > 1:
            raise ValueError(
                f"it has more than one {source.name}: {', '.join(sorted(found))}; "
                f"choose with --field {source.name}={sorted(found)[-1][1:]}"
            )
        if found:
            return self._words(found[0]) if kind.textual else self._media(kind, found[0], options)
        if kind.textual and value_at(self._record(), key) is not MISSING:
            return text_of(self._record(), key, values=kind.takes_values)
        raise MissingPartError(f"it has no {source.name}; its files are {listed(self._fields)}")

    def _media(self, kind: Modality, name: str, options: ReadOptions) -> Content:
        """Return the file of one name: its bytes, or where it may be a film of hours, something that opens it."""
        file = self._fields[name]
        if options.timed and (kind.timed or kind.follows) and isinstance(file, LazyFile):
            stored = file.stored(name)
            if stored is not None:
                return stored
        return kind.self_describing(name, file())

    def _words(self, name: str) -> str | Subtitles:
        """Return the text of the file of one name."""
        data = self._fields[name]()
        return read_subtitles(data) if _ending(name) in subtitles.ENDINGS else read_text(data)

    def text(self, place: str, *, values: bool = False) -> Any:
        """Return the text at a place that the user named, or `MISSING`; ``values`` as `tokenize_kit.sources.parts.text_of`."""
        if not place.startswith(".") and value_at(self._record(), place) is not MISSING:
            return text_of(self._record(), place, values=values)
        if extension := self.extension(place):
            return self._words(extension)
        base, _, rest = place.rpartition(":")
        if base and rest.isdecimal() and (extension := self.extension(base)):
            return line_of(read_text(self._fields[extension]()), int(rest))
        base, _, rest = place.partition(":")
        if rest and ("." + base).endswith(_RECORD) and (extension := self.extension(base)):
            record = self._record(extension)
            return MISSING if value_at(record, rest) is MISSING else text_of(record, rest, values=values)
        return MISSING

    def extension(self, place: str) -> str | None:
        """Return the extension of the file that a place names, if there is one.

        Raises:
            ValueError: it is the end of several.
        """
        wanted = "." + place.removeprefix(".").lower()
        if wanted in self._fields:
            return wanted
        found = [name for name in self._fields if name.endswith(wanted)]
        if len(found) > 1:
            raise ValueError(f"{', '.join(sorted(found))} all end in {place}; name one of them")
        return found[0] if found else None

    def _record(self, extension: str = _RECORD) -> dict[str, Any]:
        """Return the object in a JSON file; empty if there is none."""
        if extension not in self._records:
            there = extension in self._fields
            self._records[extension] = parse_json_object(self._fields[extension]()) if there else {}
        return self._records[extension]

    def _there(self, place: str) -> str:
        keys = (
            f", the keys of its .json {listed(self._record())}" if _RECORD in self._fields and place[:1] != "." else ""
        )
        return f"its files are {listed(self._fields)}{keys}"

    def column(self, name: str) -> Any:
        """Return an extra column: a key of the record, or the text of the file with that ending; None without either."""
        if (value := value_at(self._record(), name)) is not MISSING:
            return value
        if f".{name}" not in self._fields:
            return None
        text = read_text(self._fields[f".{name}"]())
        try:
            return int(text)
        except ValueError:
            return text


def _ending(name: str) -> str:
    return "." + name.rpartition(".")[2]


def has_place(fields: Fields, source: Source, place: str) -> bool:
    """Whether a sample has something at a place that the user named, right or wrong."""
    files = _Files(fields)
    try:
        if modality_named(source.modality).textual:
            return files.text(place) is not MISSING
        return files.extension(place) is not None
    except ValueError:
        return True
