"""What the demo is told and what it says at its end; only the standard library, so that ``--help`` is instant."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class DemoOptions:
    """The whole way for text, pictures, films and sound on the bundled assets, in a few minutes: tokenizers, shards, models,
    samples, report.html.
    """

    out: str = "demo_out"
    """Folder for everything that is made; open its report.html."""
    assets: str | None = None
    """Folder with udhr.txt, emoji.tar, animated-emoji.tar and speech; that of the repository if not given."""
    text_vocab: int = 2048
    """Tokens of the text tokenizer."""
    colors: int = 64
    """Colours of the palette."""
    image_size: int = 16
    """Side of the palette's pictures in pixels; a picture is this many tokens squared."""
    learned_size: int = 32
    """Side of the learned tokenizer's pictures in pixels; 4x4 of them are one token."""
    film_size: int = 32
    """Side of the films in pixels; 4 frames of 8x8 of them are one token."""
    codebooks: int = 4
    """Codebooks of the audio codec that the model of speech sees, of 12."""
    tokenizer_steps: int = 700
    """Training steps of the learned tokenizer."""
    film_tokenizer_steps: int = 200
    """Training steps of the video tokenizer."""
    codec_steps: int = 300
    """Training steps of the neural audio codec."""
    text_steps: int = 110
    """Training steps of the text model."""
    image_steps: int = 120
    """Training steps of the model from captions to palette tokens."""
    learned_steps: int = 900
    """Training steps of the model from captions to learned tokens."""
    film_steps: int = 150
    """Training steps of the model from captions to tokens of films."""
    speech_steps: int = 80
    """Training steps of the model from words to tokens of speech."""
    seed: int = 0
    """Seed of training and sampling."""
    minutes: float | None = None
    """About how long it may take at most. On a slow machine all trainings then have fewer steps, as two short measurements say;
    the same command goes on with them. None leaves the steps as they are."""

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        return f"what is finished is in {self.out}, and the same command goes on after it"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (name.endswith(("_steps", "_size")) or name == "codebooks") and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ValueError(f"--minutes {self.minutes:g} must be above 0")

    def at(self, pace: float) -> DemoOptions:
        """Return the options with a part of the steps of each training, at least one."""
        steps = {name: max(1, round(value * pace)) for name, value in vars(self).items() if name.endswith("_steps")}
        return replace(self, **steps)


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    report: str
    """The page to open."""
    seconds: float
    """How long it took."""
    pace: float
    """Which part of their steps the trainings had."""
    text_bits_per_byte: float
    """Of the text model, on held-out paragraphs."""
    image_bits_per_token: float
    """Of the model over palette tokens, on held-out emoji."""
    learned_psnr: float
    """Of the learned tokenizer on held-out emoji, in dB."""
    learned_bits_per_token: float
    """Of the model over learned tokens, on held-out emoji."""
    films: tuple[str, ...]
    """Films that the model drew from captions."""
    film_psnr: float
    """Of the video tokenizer on held-out films, in dB."""
    codec_kilobits_per_second: float
    """Of the audio codec: a sentence that it was not trained on as a .tkc file, all bytes counted."""
    codec_mel_distance: float
    """Of that sentence from what comes back."""
    codec_si_sdr: float
    """Of what comes back, in dB."""
    sounds: tuple[str, ...]
    """Files to listen to: that sentence decoded, and those that the model of speech made from words."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
