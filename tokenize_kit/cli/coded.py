"""A model as one end of a ``.tkc`` file: it joins `tokenize_kit.container`, which knows no model, and a model folder's coder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.errors import VerificationError

if TYPE_CHECKING:
    from tokenize_kit.container import CodedSample, PackedSample
    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoregressive.coding.grids import GridCoder
    from trainers.autoregressive.coding.section import Section


@dataclass(frozen=True)
class ModelEnd:
    """A model folder, ready to code one kind of file."""

    coder: GridCoder
    tokenizer: Tokenizer
    """That of the stream."""

    @classmethod
    def for_file(cls, folder: str, template: str | None, source: str, device: str) -> ModelEnd:
        """Load the model that shall code a file, with the template that fits the file's ending.

        Raises:
            FileNotFoundError: there is no model.
            ValueError: it has no template that codes such a file alone, or several; or it cannot code.
        """
        from tokenize_kit.protocol import modality_of
        from trainers.autoregressive.coding.grids import GridCoder, coding_template
        from trainers.autoregressive.model_folder import load_model
        from trainers.runtime import resolve_device

        loaded = load_model(folder, resolve_device(device))
        suffix = Path(source).suffix.lower()

        def fits(stream: str) -> bool:
            return suffix in modality_of(loaded.tokenizers[stream].spec).suffixes

        every = {stream for one in loaded.templates or (loaded.template,) for stream in one.streams}
        # A file whose name tells nothing is what the only stream is.
        chosen = coding_template(loaded, template, fits if any(map(fits, every)) else None)
        return cls._of(GridCoder(chosen))

    @classmethod
    def of_file(cls, folder: str | None, found: CodedSample, name: str) -> ModelEnd:
        """Load the model that coded a file.

        Raises:
            FileNotFoundError: there is no model.
            ValueError: none is given, the message says which it must be; or it was coded on a GPU, and there is none.
            VerificationError: the file is damaged, or another model coded it.
        """
        from tokenize_kit.container import check_maker
        from trainers.autoregressive.coding.grids import GridCoder, check_model, recorded_device
        from trainers.autoregressive.coding.machine import FINGERPRINT_BYTES, model_fingerprint
        from trainers.autoregressive.model_folder import load_model

        section = section_of(found, name)
        if folder is None:
            raise ValueError(f"{name} was coded by the model {section.model[:12]}; give its folder with --model")
        loaded = load_model(folder, recorded_device(section, name))
        check_model(section, model_fingerprint(loaded)[: 2 * FINGERPRINT_BYTES], name)
        templates = loaded.templates or (loaded.template,)
        if section.template >= len(templates):
            raise VerificationError(f"{name} is damaged: the model has no template {section.template}")
        try:
            end = cls._of(GridCoder(loaded.using(str(templates[section.template]))))
        except ValueError as error:
            raise VerificationError(f"{name} is damaged: {error}") from None
        check_maker(end.tokenizer, found, name)
        return end

    @classmethod
    def _of(cls, coder: GridCoder) -> ModelEnd:
        stream = coder.loaded.template.stream_of(coder.stream.part)
        return cls(coder, coder.loaded.tokenizers[stream])

    @property
    def codebooks(self) -> int | None:
        """How many of the first codebooks the model knows; None where there are none."""
        stream = self.coder.loaded.vocabulary.stream(self.coder.loaded.template.stream_of(self.coder.stream.part))
        return max(map(stream.codebooks, stream.shapes)) if stream.has_codebooks else None

    def code(self, packed: PackedSample, streams: int | None, verify: bool, progress: Progress) -> CodedSample:
        """Code the ids of a sample.

        Raises:
            ValueError: the model cannot code such a grid.
            VerificationError: with ``verify``, what is decoded again is not the same.
        """
        from tokenize_kit.container import CodedSample

        section = self.coder.encode(packed.ids, streams, told=_told("compress", packed.ids.size, progress))
        if verify:
            again = self.coder.decode(section, packed.ids.shape, told=_told("verify", packed.ids.size, progress))
            if (again != packed.ids).any():
                raise VerificationError(
                    "what was coded is decoded as something else: this machine computes no same bits twice"
                )
        head = (packed.fingerprint, packed.modality, packed.sample_rate, packed.channels, packed.size, packed.widths)
        return CodedSample(*head, packed.ids.shape, section.to_bytes(), packed.frame_rate)

    def decode(self, found: CodedSample, name: str, progress: Progress) -> PackedSample:
        """Return a file's sample with its ids; ``name`` is how errors call it.

        Raises:
            VerificationError: see `GridCoder.decode`.
        """
        told = _told("decompress", prod(found.shape), progress)
        return found.packed(self.coder.decode(section_of(found, name), found.shape, name, told))


def section_of(found: CodedSample, name: str) -> Section:
    """Return what a file says of its model.

    Raises:
        ValueError, VerificationError: see `Section.from_bytes`.
    """
    from trainers.autoregressive.coding.section import Section

    return Section.from_bytes(found.code, name)


def coded_facts(found: CodedSample, name: str) -> dict[str, Any]:
    """Return what is to be known of a coded file without its model, JSON-ready.

    Raises:
        ValueError, VerificationError: see `Section.from_bytes`.
    """
    section = section_of(found, name)
    return {
        "model": section.model,
        "machine": asdict(section.machine),
        "streams": section.streams,
        "window": section.window,
        "carry": section.carry,
        "pieces": len(section.pieces),
        "coded_bytes": len(section.words),
    }


class _Told:
    """Shows how many ids have been coded."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._count = progress, 0

    def __call__(self, count: int) -> None:
        self._count += count
        self._progress.update(self._count)


def _told(label: str, total: int, progress: Progress) -> _Told:
    progress.task(label, total)
    return _Told(progress)
