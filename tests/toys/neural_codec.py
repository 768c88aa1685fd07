"""Small neural codecs with random weights that do something, for the tests of what works with any of them."""

import torch

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig, CodecNetworkConfig
from tokenize_kit.tokenizers.learned.audio.model import Codec
from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

FSQ = {"kind": "fsq", "levels": (8, 5, 5)}
RVQ = {"kind": "rvq", "codebook_size": 32, "codebooks": 3, "codebook_dim": 4, "kmeans_init": False}
NETWORKS = {
    # Odd and even strides; both families of the strided body.
    "encodec": {"body": "strided", "strides": (2, 3), "width": 8, "latent_channels": 8, "lstm_layers": 1},
    "dac": {
        "body": "strided",
        "strides": (2, 5),
        "width": 4,
        "decoder_width": 6,
        "latent_channels": 8,
        "latent_kernel": 3,
        "residual_kernel": 7,
        "dilations": (1, 3),
        "compression": 1,
        "activation": "snake",
        "lstm_layers": 0,
    },
    "frames": {
        "body": "frames",
        "window": 20,
        "frame_hop": 6,
        "factor": 2,
        "width": 12,
        "latent_channels": 8,
        "encoder_blocks": (1, 1),
        "decoder_blocks": (1, 1),
    },
}


def toy_config(network="frames", quantizer=RVQ, **options):
    """The configuration of a small codec."""
    return CodecConfig(CodecNetworkConfig(**NETWORKS[network] | options), QuantizerConfig(**quantizer))


GAINS = {"encodec": 0.6, "dac": 0.5, "frames": 0.7}
"""How large the weights are, so that ids are of all sorts, and what comes out is about as loud as a sound."""


def awakened(model, gain, seed=0):
    """Give every weight a random value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("alpha"):
                parameter.copy_(1 + noise.abs())
            else:
                size = {"encoder": 2 * gain, "quantizer": 3, "decoder": gain}[name.partition(".")[0]]
                size *= 0.1 if "bias" in name else 1  # else all that is said is the bias
                parameter.copy_(noise * size * parameter[0].numel() ** -0.5)
    return model.eval()


def toy_codec(network="frames", quantizer=RVQ, block=5, seed=3, **options):
    """A `CodecTokenizer` with a hop of 6, 10 or 12 samples that knows nothing of sounds."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Codec(toy_config(network, quantizer, **options))
        return CodecTokenizer(awakened(model, GAINS[network], seed), block)
