"""A video network that begins with the weights of a picture tokenizer gives, for one frame, what that gives: all bits."""

from dataclasses import replace

import pytest
import torch
from toys.neural_video import RVQ, awakened, toy_config, toy_model

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig, NetworkConfig
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.inflation import from_pictures, from_videos, picture_options
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder

# How a batch is shared out among threads may change the last bit, and a film is a batch of its frames.
pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = {
    "default": {"width": 8, "latent_channels": 16},
    "vqgan": {
        "width": 32,
        "multipliers": (1, 1, 2),
        "encoder_blocks": (1, 1, 1),
        "decoder_blocks": (2, 0, 1),
        "patch": 1,
        "attention": True,
        "norm": "group",
        "latent_channels": 16,
    },
    "grey": {
        "channels": 1,
        "width": 8,
        "multipliers": (1,),
        "encoder_blocks": (1,),
        "decoder_blocks": (1,),
        "patch": 4,
    },
}
VIDEOS = {
    "factorised": {},
    "full": {"convolution": "full", "temporal_factor": 8},
    "zeros": {"padding": "zeros", "temporal_factor": 2, "attention_window": 3, "temporal_kernel": 2},
}


def picture_model(pictures, quantizer=RVQ):
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        config = AutoencoderConfig(NetworkConfig(**PICTURES[pictures]), QuantizerConfig(**quantizer))
        return awakened(Autoencoder(config), 0.7)


def video_config(model, **options):
    """The configuration of a video network that can begin with a picture model."""
    network = picture_options(model.config.to_dict()["network"])
    network = {name: tuple(value) if isinstance(value, list) else value for name, value in network.items()}
    return VideoConfig(VideoNetworkConfig(**network | options), model.config.quantizer)


def begin(model, pictures):
    from_pictures(model, pictures.config.to_dict(), pictures.state_dict(), "runs/pictures")


@pytest.mark.parametrize("videos", VIDEOS)
@pytest.mark.parametrize("pictures", PICTURES)
def test_a_picture_is_what_the_picture_tokenizer_makes_of_it_to_the_bit(pictures, videos):
    image = picture_model(pictures)
    # Not a fresh one: all that could look at other frames is set back.
    model = awakened(VideoAutoencoder(video_config(image, **VIDEOS[videos])), 0.7)
    begin(model, image)
    factor = image.config.network.downsample_factor
    generator = torch.Generator().manual_seed(0)
    for height, width in ((1, 2), (3, 2), (8, 8)):
        shape = (1, image.config.network.channels, height * factor, width * factor)
        picture = torch.rand(shape, generator=generator) * 2 - 1
        ids = image.encode(picture)
        assert height < 8 or ids.flatten().unique().numel() > 8
        assert torch.equal(model.encode(picture[:, :, None])[:, 0], ids)
        assert torch.equal(model.decode(ids[:, None])[:, :, 0], image.decode(ids))
        # Its weights are those of a picture model in every step: a still picture has the same ids again and again.
        still = picture[:, :, None].expand(-1, -1, 1 + 2 * model.config.network.temporal_factor, -1, -1)
        steps = ids[:, None].expand(-1, 3, *ids.shape[1:])
        assert torch.equal(model.encode(still), steps)
        made = model.decode(steps)
        # Where a frame ends inside a vector of the processor the last bit may be another than that of the picture by itself.
        torch.testing.assert_close(made, image.decode(ids)[:, :, None].expand_as(made), atol=1e-6, rtol=0)
    # One id alone: libraries choose other paths.
    picture = torch.rand(1, image.config.network.channels, factor, factor, generator=generator) * 2 - 1
    torch.testing.assert_close(model.encoder(picture[:, :, None])[:, :, 0], image.encoder(picture), atol=1e-4, rtol=0)


def test_it_learns_to_look_at_other_frames():
    image = picture_model("default", {"kind": "fsq", "levels": (8, 5, 5)})
    model = VideoAutoencoder(video_config(image, attention_window=3))
    begin(model, image)
    made = model(torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, quantize=False)
    made.pixels.square().mean().backward()
    time = model.encoder.layers.layers[0].time.weight.grad
    assert (time[:, :-1].abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 16},
            r"this network differs from that of runs/pictures: width 16 instead of 8; give the same options",
        ),
        ({"norm": "group", "latent_channels": 8}, r"norm group instead of rms, latent_channels 8 instead of 16"),
        ({"decoder_levels": (1, 1)}, r"decoder_levels \(1, 1\) instead of \(1, 2\)"),
        ({"spatial_factor": 8}, r"spatial_factor 8 instead of 4"),
    ],
)
def test_what_differs_is_named(options, message):
    image = picture_model("default")
    model = VideoAutoencoder(video_config(image, **options))
    with pytest.raises(ValueError, match=message):
        begin(model, image)


def test_another_quantizer_and_another_body_are_named():
    image = picture_model("default")
    config = video_config(image)
    other = VideoAutoencoder(replace(config, quantizer=replace(config.quantizer, codebooks=2)))
    with pytest.raises(ValueError, match="codebooks 2 instead of 3"):
        begin(other, image)
    with pytest.raises(ValueError, match=r"body latent cannot begin with it. Use --network.body convolutional"):
        begin(toy_model("latent"), image)


def test_weights_that_are_not_all_there_are_refused_and_nothing_is_half_done():
    image = picture_model("default")
    model = VideoAutoencoder(video_config(image))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(image.state_dict())
    weights.pop("encoder.layers.0.bias")
    with pytest.raises(ValueError, match=r"lacks the tensor 'encoder.layers.0.bias' \(1 missing\)"):
        from_pictures(model, image.config.to_dict(), weights, "runs/pictures")
    weights = {**image.state_dict(), "encoder.layers.0.other": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"has an unknown tensor 'encoder.layers.0.other' \(1 unknown\)"):
        from_pictures(model, image.config.to_dict(), weights, "runs/pictures")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("network", ["latent", "convolutional"])
def test_a_video_network_begins_with_another_of_its_configuration(network):
    other = toy_model(network, RVQ, seed=5)
    model = VideoAutoencoder(toy_config(network, RVQ))
    from_videos(model, other.config, other.state_dict(), "runs/videos")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    wrong = VideoAutoencoder(toy_config(network, RVQ, width=32, frame_rate=24.0))
    with pytest.raises(ValueError, match=r"that of runs/videos: frame_rate 24.0 instead of 12.0, width 32 instead of"):
        from_videos(wrong, other.config, other.state_dict(), "runs/videos")
