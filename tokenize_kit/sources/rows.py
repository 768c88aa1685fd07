"""One row, as a JSON object or a line of a table gives it, to one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenize_kit.modalities import modality_named
from tokenize_kit.sources.blocks import Collector, add_long_text, one_line, text_name
from tokenize_kit.sources.parts import MISSING, MissingPartError, names_of, text_of, value_at
from tokenize_kit.sources.planning import ReadOptions


def add_row(
    out: Collector,
    key: str,
    row: Mapping[str, Any],
    options: ReadOptions,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Add the sample of a row that holds nothing but texts, or its failure.

    Args:
        out: gets it.
        key: of the sample.
        row: its values by name.
        options: which of them are wanted.
        columns: the values of the extra columns; None takes those of the row.
    """
    try:
        texts = texts_of(row, options)
        if columns is None:
            columns = columns_of(row, options)
        if options.text_only:
            add_long_text(out, key, texts[text_name(options)], columns, options)
        else:
            out.add(key, texts, columns)
    except MissingPartError as error:
        out.fail(key, one_line(error), incomplete=True)
    except ValueError as error:
        out.fail(key, one_line(error))


def texts_of(row: Mapping[str, Any], options: ReadOptions) -> dict[str, str]:
    """Return the text of each source.

    Raises:
        MissingPartError: some are there and some are not.
        ValueError: none is there, or one is no text.
    """
    places = {source.name: options.field_of(source) for source in options.texts}
    if len(options.sources) > 1:
        check_parts({place: value_at(row, place) for place in places.values()}, row)
    values = {source.name: modality_named(source.modality).takes_values for source in options.texts}
    return {name: text_of(row, place, values=values[name]) for name, place in places.items()}


def check_parts(values: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Tell a row that has some of the values that make a sample from one that has all or none.

    Raises:
        MissingPartError: some are missing or null.
    """
    missing = [place for place, value in values.items() if value is MISSING or value is None]
    if missing and len(missing) < len(values):
        null = [place for place in missing if values[place] is None]
        how = "is null" if null else f"is not there; it has {names_of(row)}"
        raise MissingPartError(f"field {(null or missing)[0]!r} {how}")


def columns_of(row: Mapping[str, Any], options: ReadOptions) -> dict[str, Any]:
    """Return the values of the extra columns, None where there is none."""
    found = {name: value_at(row, name) for name in options.columns}
    return {name: None if value is MISSING else value for name, value in found.items()}
