"""Small autoencoders with random weights that do something, for the tests of what works with any of them."""

import torch

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig, NetworkConfig
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.image.tokenizer import TILE_PIXELS, AutoencoderTokenizer
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

SMALL = {"width": 8, "multipliers": (1, 2), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1), "latent_channels": 8}
FSQ = {"kind": "fsq", "levels": (8, 5, 5, 5)}
VQ = {"kind": "vq", "codebook_size": 64, "codebook_dim": 4}
RVQ = {"kind": "rvq", "codebook_size": 32, "codebooks": 3}


def awakened(module, seed=0):
    """Give every parameter a random value, as training would; fresh blocks add nothing to what comes in."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 * parameter[0].numel() ** -0.5)
    return module.eval()


def toy_autoencoder(quantizer=FSQ, tile=TILE_PIXELS, seed=3, **network):
    """An `AutoencoderTokenizer` with a downsample factor of 4 that knows nothing of pictures."""
    config = AutoencoderConfig(NetworkConfig(**SMALL | network), QuantizerConfig(**quantizer))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return AutoencoderTokenizer(awakened(Autoencoder(config), seed), tile)
