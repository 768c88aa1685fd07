"""Options of ``train image``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerKind
from trainers.autoencoder.image.config import LossConfig
from trainers.config import LoopConfig

# A dataclass takes the fields of its last base first: what a user must say comes before how long and on what it runs.


class Overrides:
    """Base of options that shall differ from the preset; a field that is None keeps the preset's value."""

    def given(self) -> dict[str, Any]:
        """Return what was given."""
        return {name: value for name, value in asdict(self).items() if value is not None}  # type: ignore[call-overload]


@dataclass(frozen=True)
class NetworkOverrides(Overrides):
    """Parts of the network; see `tokenize_kit.tokenizers.learned.image.config.NetworkConfig`. None keeps the preset's value."""

    width: int | None = None
    """Channels of the first level: the one dial for the size of the network."""
    multipliers: tuple[int, ...] | None = None
    """Channels of each level as a multiple of the width; each level after the first halves the resolution."""
    encoder_blocks: tuple[int, ...] | None = None
    """Residual blocks of each level in the encoder."""
    decoder_blocks: tuple[int, ...] | None = None
    """Residual blocks of each level in the decoder."""
    patch: int | None = None
    """Side of the squares of pixels that enter as channels. Downsample factor: patch * 2^(levels - 1)."""
    attention: bool | None = None
    """Self-attention at the lowest resolution."""
    norm: Literal["rms", "group"] | None = None
    """Norm of each place by itself, or of groups of channels over the whole picture (VQGAN)."""
    latent_channels: int | None = None
    """Channels on both sides of the quantizer."""


@dataclass(frozen=True)
class QuantizerOverrides(Overrides):
    """The quantizer; see `tokenize_kit.tokenizers.learned.quantizers.config.QuantizerConfig`. None keeps the preset's value, or
    with another kind than the preset's the default of that kind.
    """

    kind: QuantizerKind | None = None
    """vq, simvq, gumbel, fsq, lfq, bsq or rvq."""
    codebook_size: int | None = None
    """Number of codes (of each codebook); all but fsq."""
    codebook_dim: int | None = None
    """Dimensions of the lookup; vq, simvq, rvq."""
    levels: tuple[int, ...] | None = None
    """Levels of each channel; fsq."""
    codebooks: int | None = None
    """Number of codebooks in turn; rvq."""
    l2_normalised: bool | None = None
    """Compare directions only; vq, rvq."""
    codebook_update: Literal["ema", "gradient"] | None = None
    """How codes learn; vq, rvq."""
    ema_decay: float | None = None
    """Memory of the moving average; vq, rvq."""
    kmeans_init: bool | None = None
    """Begin with the k-means of the first batch; vq, rvq."""
    dead_code_threshold: float | None = None
    """Replace codes whose share of the tokens is below this part of an equal share; vq, rvq."""
    rotation_trick: bool | None = None
    """Turn the gradient as the vector was turned; vq, simvq, rvq."""
    entropy_temperature: float | None = None
    """Softness of the assignment in the entropy loss; lfq, bsq."""
    entropy_group_bits: int | None = None
    """Bits over which the batch's entropy is exact; lfq, bsq."""
    gumbel_temperature_start: float | None = None
    """Temperature at the start; gumbel."""
    gumbel_temperature_end: float | None = None
    """Temperature at the end; gumbel."""
    straight_through: bool | None = None
    """Show the decoder one code instead of a mixture; gumbel."""
    quantizer_dropout: float | None = None
    """Part of the samples that use only the first codebooks; rvq."""


@dataclass(frozen=True)
class LossOverrides(Overrides):
    """Weights and starts of the losses; see `trainers.autoencoder.image.config.LossConfig`. None keeps the preset's value."""

    pixel: Literal["l1", "l2"] | None = None
    """Absolute or squared error of the pixels."""
    pixel_weight: float | None = None
    """Weight of the pixel loss."""
    perceptual_weight: float | None = None
    """Weight of LPIPS; needs its weights."""
    perceptual_path: str | None = None
    """File of the LPIPS weights, if torchvision is not to fetch them."""
    commitment_weight: float | None = None
    """Weight of the commitment loss."""
    codebook_weight: float | None = None
    """Weight of the codebook loss."""
    entropy_weight: float | None = None
    """Weight of the entropy loss."""
    entropy_boost: float | None = None
    """Factor of the entropy weight at the start."""
    entropy_boost_part: float | None = None
    """Part of the run over which that factor falls to 1."""
    kl_weight: float | None = None
    """Weight of the divergence from equal use of the codes."""
    discriminator: Literal["none", "hinge", "non-saturating"] | None = None
    """Train against a patch discriminator with this loss."""
    discriminator_weight: float | None = None
    """Weight of the generator loss."""
    discriminator_start: float | None = None
    """Part of the run after which the discriminator sets in."""
    discriminator_ramp: float | None = None
    """Part of the run over which its weight rises."""
    discriminator_learning_rate: float | None = None
    """Its peak learning rate."""
    adaptive_weight: bool | None = None
    """Balance the gradients of both losses at the last layer (VQGAN)."""
    lecam_weight: float | None = None
    """Weight of LeCam's regularisation."""
    feature_matching_weight: float | None = None
    """Weight of the distance between the discriminator's features."""


@dataclass(frozen=True)
class OptimizerOverrides(Overrides):
    """The optimiser; see `trainers.config.OptimizerConfig`. None keeps the preset's value."""

    optimizer: Literal["adamw", "muon"] | None = None
    """AdamW for everything, or Muon for matrices and convolutions and AdamW for the rest."""
    learning_rate: float | None = None
    """Peak learning rate."""
    weight_decay: float | None = None
    """Decoupled weight decay of matrices and convolutions."""
    beta1: float | None = None
    """AdamW: memory of the mean gradient."""
    beta2: float | None = None
    """AdamW: memory of the mean squared gradient."""
    schedule: Literal["wsd", "cosine", "constant"] | None = None
    """How the learning rate falls."""
    warmup_steps: int | None = None
    """Steps of linear rise."""
    decay_fraction: float | None = None
    """wsd: the part of the run over which the rate falls."""


@dataclass(frozen=True, kw_only=True)
class LearnedOptions:
    """What all learned tokenizers have in common."""

    quantizer: QuantizerOverrides = field(default_factory=QuantizerOverrides)
    """Parts of the quantizer that shall differ from the preset."""
    optimizer: OptimizerOverrides = field(default_factory=OptimizerOverrides)
    """Parts of the optimiser that shall differ from the preset."""
    validation_fraction: float = 0.05
    """Part of the data, chosen by the hash of the keys, that is never trained on."""
    validation_data: tuple[str, ...] = ()
    """Other data to measure on instead; then all of the data is trained on."""
    usage_floor: float = 0.1
    """Warn when a validation uses a smaller part of a codebook than this; 0 never warns."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """Whether a run whose codebook use falls under the floor goes on."""
    media_field: str | None = None
    """Column of a parquet file that holds the samples; by default the modality, image or audio."""
    workers: int = 1
    """Processes that decode the data at the start."""
    max_failures: int = 100
    """Stop when more samples than this cannot be read."""
    init_from: str | None = None
    """A tokenizer folder whose weights to begin with; it must have the same configuration."""

    def check_learned(self, *positive: str) -> None:
        """Refuse values that are out of range; those named by ``positive`` must be at least 1 too.

        Raises:
            ValueError: names the option and its range.
        """
        for name in (*positive, "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction} must be at least 0 and below 1")
        if not 0 <= self.usage_floor <= 1:
            raise ValueError(f"--usage-floor {self.usage_floor} must be in [0, 1]")
        if self.max_failures < 0:
            raise ValueError(f"--max-failures {self.max_failures} must not be negative")


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Which pictures a tokenizer learns from, and which tokenizer it is."""

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of pictures, tar, parquet and idx."""
    out: str
    """Folder of the run; when it is finished it is the tokenizer."""
    preset: Literal["vqvae", "vqgan", "dvae", "fsq", "lfq"] = "fsq"
    """Recipe of a paper: quantizer, losses and optimiser."""
    size: Literal["tiny", "base"] = "tiny"
    """tiny learns in minutes on a CPU, base is the paper's network."""
    image_size: int | None = None
    """Train on squares of this many pixels; None takes pictures, which must all have one size, as they are. A trained
    tokenizer takes pictures of any size."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 RGB (transparent pictures on white), 4 RGBA."""
    crop: Literal["random", "center"] = "random"
    """Where squares are cut out of pictures that are not square, or larger because of max_scale."""
    max_scale: float = 1.0
    """Above 1: squares of 1 to this many times image_size are cut out of pictures whose short side has that, and scaled down."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    network: NetworkOverrides = field(default_factory=NetworkOverrides)
    """Parts of the network that shall differ from the preset."""
    loss: LossOverrides = field(default_factory=LossOverrides)
    """Losses that shall differ from the preset."""
    batch_size: int = 64
    """Pictures of a batch on each device."""
    validation_pictures: int = 1024
    """The most held-out pictures that a validation looks at."""
    pictures: str | None = None
    """Folder for the decoded pictures, which runs on the same data may share; by default one inside out."""


@dataclass(frozen=True, kw_only=True)
class TrainImageOptions(LoopConfig, LearnedOptions, PictureOptions):
    """Train a discrete autoencoder on pictures: a tokenizer. The same command continues a run that was stopped."""

    summary: ClassVar[str] = "train a learned tokenizer (VQ-VAE, VQGAN, dVAE, FSQ, LFQ) on pictures"
    examples: ClassVar[tuple[str, ...]] = (
        "train image --data photos --image-size 128 --preset fsq --out tokenizers/photos",
        "train image --data assets/emoji.tar --preset vqgan --steps 1000 --out tokenizers/emoji",
        "train image --data photos --image-size 64 --quantizer.kind rvq --quantizer.codebooks 4 --out tokenizers/rvq",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_learned("batch_size", "validation_pictures")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"--image-size {self.image_size} must be at least 1")
        if self.max_scale < 1:
            raise ValueError(f"--max-scale {self.max_scale} must be at least 1 (1 cuts squares of image_size)")
        if self.max_scale > 1 and self.image_size is None:
            raise ValueError(f"--max-scale {self.max_scale} needs an --image-size to scale to")


def check_loss(config: LossConfig, channels: int) -> None:
    """Refuse losses that the pictures cannot have.

    Raises:
        ValueError: LPIPS on transparent pictures.
    """
    if config.perceptual_weight and channels == 4:
        raise ValueError("--loss.perceptual-weight is for grey and RGB pictures; leave it out with --channels 4")
