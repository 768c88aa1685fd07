"""Small video autoencoders with random weights that do something, for the tests of what works with any of them."""

import torch

from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer

FSQ = {"kind": "fsq", "levels": (8, 5, 5)}
RVQ = {"kind": "rvq", "codebook_size": 32, "codebooks": 3, "codebook_dim": 4, "kmeans_init": False}
_LATENT = {"body": "latent", "width": 16, "latent_channels": 8, "encoder_blocks": 2, "decoder_blocks": 2}
_CONVOLUTIONAL = {
    "body": "convolutional",
    "width": 8,
    "multipliers": (1, 2),
    "encoder_levels": (0, 1),
    "decoder_levels": (1, 1),
    "latent_channels": 8,
}
NETWORKS = {
    "latent": _LATENT | {"temporal_factor": 4, "spatial_factor": 4},
    "haar": _LATENT | {"temporal_factor": 2, "spatial_factor": 8, "haar": True},
    "bands": _LATENT | {"temporal_factor": 8, "spatial_factor": 4, "haar": True, "band_blocks": 1},
    "convolutional": _CONVOLUTIONAL | {"temporal_factor": 4, "spatial_factor": 4},
    "full": _CONVOLUTIONAL | {"convolution": "full", "padding": "zeros", "temporal_factor": 2, "spatial_factor": 8},
    "attention": _CONVOLUTIONAL
    | {"attention": True, "attention_window": 3, "norm": "group", "temporal_factor": 8, "spatial_factor": 4},
}
"""One or more networks of each body."""


def toy_config(network="latent", quantizer=FSQ, **options):
    """The configuration of a small video autoencoder."""
    return VideoConfig(VideoNetworkConfig(**NETWORKS[network] | options), QuantizerConfig(**quantizer))


GAINS = {"latent": 0.7, "haar": 0.7, "bands": 0.7, "convolutional": 0.7, "full": 0.7, "attention": 0.7}
"""How large the weights are, so that ids are of all sorts, and what comes out is about as bright as a video."""


def awakened(model, gain, seed=0):
    """Give every weight a random value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            size = {"encoder": 2 * gain, "quantizer": 3, "decoder": gain}[name.partition(".")[0]]
            size *= 0.1 if "bias" in name else 1  # else all that is said is the bias
            parameter.copy_(noise * size * max(1, parameter[0].numel()) ** -0.5)
    return model.eval()


def toy_model(network="latent", quantizer=FSQ, seed=3, **options):
    """A `VideoAutoencoder` that knows nothing of videos."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return awakened(VideoAutoencoder(toy_config(network, quantizer, **options)), GAINS[network], seed)


def toy_video(network="latent", quantizer=FSQ, block=3, tile=256, seed=3, **options):
    """A `VideoTokenizer` around it."""
    return VideoTokenizer(toy_model(network, quantizer, seed, **options), block, tile)
