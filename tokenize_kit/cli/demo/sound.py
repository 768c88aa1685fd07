"""The demo's sound: a neural audio codec on five spoken sentences, and a Transformer from their words to its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tokenize_kit.cli.compress import CompressResult
    from tokenize_kit.cli.demo.workshop import Workshop
    from tokenize_kit.report import Page, SoundPair
    from trainers.autoencoder.audio.train import TrainAudioResult
    from trainers.autoregressive.train import TrainResult

PROMPTS = ("ten of clubs", "he was not an ill disposed young man")
HELD_OUT = 0.43
"""The part by which the hash of their names holds out one of the five sentences."""
_STRIP_WIDTH = 280
_STRIP_HEIGHT = 96


@dataclass(frozen=True)
class Heard:
    """A sentence beside what the codec made of it."""

    original: Tensor
    """float32 (1, samples)."""
    decoded: Tensor
    """Of the same shape."""
    mel_distance: float
    """Between the two."""
    si_sdr: float
    """Of the second, in dB."""

    def pair(self, caption: str) -> SoundPair:
        """Return it as the report takes it."""
        from tokenize_kit.report import SoundPair

        note = f"mel distance {self.mel_distance:.2f}, SI-SDR {self.si_sdr:.1f} dB"
        return SoundPair(self.original, self.decoded, caption, note)


class SoundPart:
    """Speech. The text tokenizer must be there.

    Args:
        shop: where it works.
    """

    def __init__(self, shop: Workshop) -> None:
        from tokenize_kit.sources.heldout import held_out

        self._shop = shop
        self.source = shop.asset("speech")
        files = sorted(self.source.glob("*.flac"))
        apart = [file for file in files if held_out(file.name, HELD_OUT)]
        if not apart or len(apart) == len(files):
            raise FileNotFoundError(
                f"the demo needs a folder of .flac files like that of the repository, {self.source} has {len(files)}, of "
                f"which {len(apart)} are held out"
            )
        self._apart, self._trained_on = apart[0], next(file for file in files if file not in apart)

    def make(self) -> None:
        """Train, encode, train, generate; one sentence to a .tkc file and back."""
        shop, options = self._shop, self._shop.options
        self._codec = shop.stage("train audio codec", self._train_codec)
        shop.stage(
            "encode speech",
            lambda: shop.encode("speech", ("text", "codec"), self.source, codebooks=options.codebooks),
        )
        self._model = shop.stage("train speech model", self._train_model)
        self._spoken = shop.stage("generate speech", lambda: shop.generate("speech", "audio", PROMPTS))
        shop.stage("compress speech", self._compress)

    @property
    def sounds(self) -> tuple[str, ...]:
        """Files to listen to."""
        return (str(self._decoded_file), *(str(file) for _, files in self._spoken for file in files))

    def strips(self) -> list[tuple[str, Tensor]]:
        """Return spectrograms with captions: a sentence, what the codec keeps of it, and the first that was generated."""
        from tokenize_kit.report.spectrogram import spectrogram

        rate = self.packed.kilobits_per_second
        prompt, files = self._spoken[0]
        shown = (
            (f"held-out speech, {self.heard.original.shape[1] / self._codec.sample_rate:.1f} s", self.heard.original),
            (f"the same at {rate:.1f} kbit/s", self.heard.decoded),
            (f"spoken by the model: {prompt}", self._read(files[0])),
        )
        return [
            (caption, spectrogram(sound, self._codec.sample_rate, _STRIP_WIDTH, _STRIP_HEIGHT))
            for caption, sound in shown
        ]

    def report(self, page: Page) -> None:
        """Add what the codec keeps of a sentence, and what the model spoke."""
        codec, options, seconds = self._codec, self._shop.options, self._shop.stages
        name, original = self._apart.name, self.heard.original
        page.heading("What a neural audio codec keeps of speech")
        page.paragraph(
            f"A causal codec of the tiny size ({codec.parameters:,} parameters, {len(codec.vocab_size)} codebooks, "
            f"{codec.sample_rate / codec.hop:.0f} steps a second), trained for {seconds['train audio codec']:.0f} seconds on "
            f"{codec.hours * 3600:.1f} seconds of speech. That shows the way, but is far too little for a codec of quality; the "
            f"first sentence was not among them. As {name} it has {self.packed.source_bytes:,} bytes, as 16-bit samples "
            f"{2 * original.shape[1]:,}, as a .tkc file {self.packed.bytes:,}: {self.packed.kilobits_per_second:.2f} kbit/s."
        )
        fewer = f"{options.codebooks} of {len(codec.vocab_size)} codebooks"
        page.sounds(
            [
                self.heard.pair(f"{name}, held out"),
                self._heard(self._apart, options.codebooks).pair(f"{name}, held out, {fewer}"),
                self._heard(self._trained_on).pair(f"{self._trained_on.name}, trained on"),
            ],
            codec.sample_rate,
        )
        page.heading("Speech from words, in tokens of the codec")
        page.paragraph(
            f"Spoken by a Transformer that has read and heard {self._model.documents} sentences "
            f"{self._model.epochs:.0f} times: in {fewer}, one after the other along the diagonal (text -> audio:delay). It "
            "knows no others, so it says them again; when to stop is its own choice."
        )
        page.recordings(
            [(self._read(file), prompt) for prompt, files in self._spoken for file in files], codec.sample_rate
        )

    def _train_codec(self) -> TrainAudioResult:
        from trainers.autoencoder.audio.options import TrainAudioOptions
        from trainers.autoencoder.audio.train import train_audio

        steps = self._shop.options.codec_steps
        options = TrainAudioOptions(
            data=(str(self.source),),
            out=str(self._shop.tokenizer("codec")),
            preset="encodec",
            batch_size=10,
            steps=steps,
            validation_fraction=HELD_OUT,
            validate_every=max(1, steps // 4),
            usage_floor=0,  # a sentence has fewer steps than a codebook has codes
            seed=self._shop.options.seed,
        )
        return train_audio(options, self._shop.progress)

    def _train_model(self) -> TrainResult:
        steps = self._shop.options.speech_steps
        # Of five sentences that shall be learned by heart, none is held out.
        return self._shop.train(
            "speech", "text -> audio:delay", steps, batch_size=2, dropout=0.1, validation_fraction=0.0
        )

    def _compress(self) -> None:
        from tokenize_kit.cli.compress import CompressOptions, DecompressOptions, compress_command, decompress_command

        folder = self._shop.out / "samples" / "compressed"
        folder.mkdir(parents=True, exist_ok=True)
        packed, self._decoded_file = folder / f"{self._apart.stem}.tkc", folder / f"{self._apart.stem}.wav"
        tokenizer = str(self._shop.tokenizer("codec"))
        there = CompressOptions(str(self._apart), str(packed), tokenizer=tokenizer)
        self.packed: CompressResult = compress_command(there, self._shop.progress)
        back = DecompressOptions(str(packed), str(self._decoded_file), tokenizer=tokenizer)
        decompress_command(back, self._shop.progress)
        self.heard = _measured(self._read(self._apart), self._read(self._decoded_file), self._codec.sample_rate)

    def _heard(self, file: Path, codebooks: int | None = None) -> Heard:
        """Return a sentence beside what is decoded from its first codebooks."""
        from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer

        tokenizer = CodecTokenizer.load(self._shop.tokenizer("codec"))
        original = self._read(file)
        ids = tokenizer.encode(original)[:, :codebooks]
        (decoded,) = tokenizer.decode_sized([ids], [(original.shape[1],)])
        assert not isinstance(decoded, str), "a codec decodes to a sound"
        return _measured(original, decoded, self._codec.sample_rate)

    def _read(self, file: Path) -> Tensor:
        from tokenize_kit.media.audio import read_audio

        return read_audio(file.read_bytes(), self._codec.sample_rate, 1).samples


def _measured(original: Tensor, decoded: Tensor, sample_rate: int) -> Heard:
    from tokenize_kit.metrics.audio import mel_distance, si_sdr

    return Heard(original, decoded, mel_distance(original, decoded, sample_rate), si_sdr(original, decoded))
