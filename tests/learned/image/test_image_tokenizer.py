"""The tokenizer around an autoencoder: batches, tiles, sizes, prefixes and its folder.

What every tokenizer promises is in tests/test_tokenizer_contract.py.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.autoencoder import FSQ, RVQ, VQ, awakened, toy_autoencoder
from toys.damage import read_unsigned

from tokenize_kit.protocol import CONFIG_FILE, decode_like, fingerprint_of, load_tokenizer
from tokenize_kit.tokenizers.learned.image.batching import call_size
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
from tokenize_kit.tokenizers.learned.pieces import Cut
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from trainers.autoencoder.image.config import recipe


@pytest.fixture
def picture(make_picture):
    return make_picture


def noise(channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


def watched(tokenizer):
    """Return a list to which every call of the network adds what came in."""
    calls = []
    tokenizer.model.encoder.register_forward_pre_hook(lambda _module, given: calls.append(given[0].clone()))
    tokenizer.model.decoder.register_forward_pre_hook(lambda _module, given: calls.append(given[0].clone()))
    return calls


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("preset", ["fsq", "vqgan"])
def test_the_latents_of_a_picture_are_the_same_bits_in_every_batch(preset, threads, monkeypatch):
    # Ids hide most of the difference: what goes into the quantizer, and out of the decoder, has to be equal.
    tokenizer = AutoencoderTokenizer(awakened(Autoencoder(recipe(preset).model)))
    made = {}

    def kept(where, original):
        def call(values):
            result = original(values)
            made.setdefault(where, []).append(result)
            return result

        return call

    monkeypatch.setattr(tokenizer.model.encoder, "forward", kept("latents", tokenizer.model.encoder.forward))
    monkeypatch.setattr(tokenizer.model.decoder, "forward", kept("pixels", tokenizer.model.decoder.forward))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size, count in ((64, 9), (28, 40), (13, 40)):
            pictures = [noise(3, size, size, seed) for seed in range(count)]
            ids = tokenizer.encode_batch(pictures)
            decoded = tokenizer.decode_batch(ids)
            together = {where: torch.cat(calls) for where, calls in made.items()}
            for place in (0, 1, count // 2, count - 1):
                made.clear()
                assert torch.equal(tokenizer.encode(pictures[place]), ids[place])
                assert torch.equal(tokenizer.decode(ids[place]), decoded[place])
                for where, (alone, *_) in made.items():
                    assert (together[where] == alone[0]).flatten(1).all(1).any(), (where, size, place)
            made.clear()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_calls_have_a_number_of_pictures_that_follows_from_the_size_alone():
    tokenizer = toy_autoencoder()
    calls = watched(tokenizer)
    for size in (4, 9, 28, 60, 64, 100, 200):
        picture, expected = noise(3, size, size), set()
        for count in (1, 2, 3, 7):
            calls.clear()
            tokenizer.decode_batch(tokenizer.encode_batch([picture] * count))
            expected |= {len(values) for values in calls}
        assert len(expected) == 1, size
        (number,) = expected
        grid = -(-size // 4)
        assert number == 1 or number * (4 * grid) ** 2 <= max(1 << 15, (1 << 21) // tokenizer.config.network.width)
        # The last numbers of a tensor, fewer than 32, are computed in another way; they are not those of a picture.
        _, used = call_size(grid * grid, tokenizer.config.network, torch.device("cpu"))
        assert number == 1 or (number - used) * grid * grid >= 32 or number * grid * grid % 32 == 0


def test_a_batch_of_many_sizes_in_any_order_and_number():
    tokenizer = toy_autoencoder(VQ)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (60, 2), generator=generator).tolist()
    pictures = [noise(3, height, width, seed) for seed, (height, width) in enumerate([*sizes, *sizes[:20], *sizes[:5]])]
    single = [tokenizer.encode(picture) for picture in pictures]
    for start, stop in ((0, 85), (10, 13), (40, 80)):
        assert all(map(torch.equal, tokenizer.encode_batch(pictures[start:stop]), single[start:stop]))
    order = torch.randperm(len(pictures), generator=generator).tolist()
    for place, ids in zip(order, tokenizer.encode_batch([pictures[place] for place in order]), strict=True):
        assert torch.equal(ids, single[place])


def test_arithmetic_is_float32_inside_autocast():
    tokenizer = toy_autoencoder()
    picture = noise(3, 40, 40)
    ids = tokenizer.encode(picture)
    decoded = tokenizer.decode(ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(picture), ids)
        assert torch.equal(tokenizer.decode(ids), decoded)


def test_tiles_cover_an_axis_once_and_read_a_margin():
    assert [tuple(span) for span in Cut(4, 2, 2).spans(10)] == [(0, 4, 0, 6), (4, 8, 2, 10), (8, 10, 6, 10)]
    assert [tuple(span) for span in Cut(4, 2, 2).spans(4)] == [(0, 4, 0, 4)]


@pytest.mark.parametrize("quantizer", [FSQ, VQ, RVQ], ids=lambda options: options["kind"])
@pytest.mark.parametrize("size", [(70, 131), (33, 16), (17, 90)])
def test_tiles_of_a_local_network_give_what_the_whole_picture_gives(quantizer, size):
    whole, tiled = toy_autoencoder(quantizer), toy_autoencoder(quantizer, tile=18)
    picture = noise(3, *size)
    ids, other = whole.encode(picture), tiled.encode(picture)
    assert other.shape == ids.shape == (-(-size[0] // 4), -(-size[1] // 4), *ids.shape[2:])
    unlike = ids != other
    if unlike.any():
        # Rounding may turn a tie: both codes must then be as near to the vector as float32 can tell.
        assert float(unlike.float().mean()) < 0.002
    difference = tiled.decode(ids).int() - whole.decode(ids).int()
    assert int(difference.abs().max()) <= 1
    assert float((difference != 0).float().mean()) < 0.01


def test_without_the_margin_the_tiles_would_show():
    # The test above can fail: one id less of margin, and codes and pixels differ.
    whole, tiled = toy_autoencoder(), toy_autoencoder(tile=18)
    picture = noise(3, 70, 131)
    ids = whole.encode(picture)
    tiled._encoder_margin = tiled._decoder_margin = 0
    assert not torch.equal(tiled.encode(picture), ids)
    assert int((tiled.decode(ids).int() - whole.decode(ids).int()).abs().max()) > 1


@pytest.mark.parametrize("network", [{"norm": "group"}, {"attention": True}])
def test_tiles_of_a_network_that_sees_everything_are_defined_and_repeatable(network):
    tokenizer = toy_autoencoder(tile=32, **network)
    picture = noise(3, 50, 90)
    ids = tokenizer.encode(picture)
    assert ids.shape == (13, 23)
    assert torch.equal(tokenizer.encode(picture), ids)
    assert torch.equal(tokenizer.encode_batch([noise(3, 50, 90, 1), picture])[1], ids)
    again = toy_autoencoder(tile=32, **network)
    assert torch.equal(again.encode(picture), ids)
    assert torch.equal(again.decode(ids), tokenizer.decode(ids))
    # What fits into a tile is seen whole.
    small = noise(3, 32, 32)
    whole = toy_autoencoder(**network)
    assert torch.equal(tokenizer.encode(small), whole.encode(small))
    assert tokenizer.fingerprint != whole.fingerprint, "the tile decides about ids"


def test_a_tile_smaller_than_an_id_is_refused():
    with pytest.raises(ValueError, match="tile 3 is smaller than the downsample factor 4"):
        toy_autoencoder(tile=3)


@pytest.mark.parametrize("side", [1, 3, 4, 5])
def test_sides_around_the_factor(side):
    tokenizer = toy_autoencoder()
    picture = noise(3, side, 9 - side)
    ids = tokenizer.encode(picture)
    assert ids.shape == (-(-side // 4), -(-(9 - side) // 4))
    assert tokenizer.decode(ids).shape == (3, 4 * ids.shape[0], 4 * ids.shape[1])
    (cut,) = decode_like(tokenizer, [ids], [picture])
    assert cut.shape == picture.shape
    assert torch.equal(cut, tokenizer.decode(ids)[:, :side, : 9 - side])
    # Beyond the edge are the last row and column again.
    rows = torch.arange(4 * ids.shape[0]).clamp(max=side - 1)
    columns = torch.arange(4 * ids.shape[1]).clamp(max=8 - side)
    assert torch.equal(tokenizer.encode(picture[:, rows][:, :, columns]), ids)


@pytest.mark.parametrize("size", [(4, 8), (9, 8), (5, 3), (5, 9), (0, 8), (-3, 8)])
def test_sizes_that_are_not_those_of_the_grid_are_refused(size):
    tokenizer = toy_autoencoder()
    ids = tokenizer.encode(noise(3, 7, 6))
    assert tokenizer.decode_sized([ids], [(5, 5)])[0].shape == (3, 5, 5)
    with pytest.raises(ValueError, match=f"covers 8x8 pixels is not that of a picture of {size[0]}x{size[1]}"):
        tokenizer.decode_sized([ids], [size])


def test_grids_without_ids_are_refused():
    for quantizer, shape in ((FSQ, (0, 3)), (RVQ, (2, 2, 0))):
        with pytest.raises(ValueError, match="is empty"):
            toy_autoencoder(quantizer).decode(torch.zeros(shape, dtype=torch.int64))


def test_the_first_codebooks_decode_on_their_own():
    tokenizer = toy_autoencoder(RVQ)
    spec = tokenizer.spec
    assert spec.axes == ("height", "width", "codebook")
    assert (spec.vocab_size, spec.step) == ((32, 32, 32), (4, 4, None))
    ids = tokenizer.encode(noise(3, 20, 24))
    assert ids.shape == (5, 6, 3)
    for count in (1, 2):
        expected = from_pixels(tokenizer.model.decode(ids[None, ..., :count]))[0]
        assert int((tokenizer.decode(ids[..., :count]).int() - expected.int()).abs().max()) <= 1
    assert not torch.equal(tokenizer.decode(ids[..., :1]), tokenizer.decode(ids))
    with pytest.raises(ValueError, match="4 codebooks"):
        tokenizer.decode(torch.zeros(5, 6, 4, dtype=torch.int64))


def test_it_computes_what_its_model_does(picture):
    tokenizer = toy_autoencoder()
    sample = picture(3, 16, 24)
    ids = tokenizer.model.encode(to_pixels(sample)[None])[0]
    assert torch.equal(tokenizer.encode(sample), ids)
    expected = from_pixels(tokenizer.model.decode(ids[None]))[0]
    assert int((tokenizer.decode(ids).int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("quantizer", [FSQ, VQ], ids=lambda options: options["kind"])
def test_the_fingerprint_sees_every_weight(quantizer):
    seen = {toy_autoencoder(quantizer).fingerprint}
    for name, value in toy_autoencoder(quantizer).model.state_dict().items():
        tokenizer = toy_autoencoder(quantizer)
        changed = value.reshape(-1).clone()
        changed[-1] = ~changed[-1] if value.dtype == torch.bool else changed[-1] + 1
        tokenizer.model.state_dict()[name].copy_(changed.view(value.shape))
        seen.add(tokenizer.fingerprint)
    assert len(seen) == 1 + len(toy_autoencoder(quantizer).model.state_dict())
    assert toy_autoencoder(quantizer).fingerprint in seen


def test_weights_that_do_not_belong_are_refused(tmp_path):
    tokenizer = toy_autoencoder(VQ)
    tokenizer.save(tmp_path)
    path = tmp_path / "model.safetensors"
    (tmp_path / CONFIG_FILE).write_text(json.dumps(read_unsigned(tmp_path / CONFIG_FILE, "sha256")))
    tensors = load_file(path)
    name = "encoder.layers.0.weight"
    without = {key: value for key, value in tensors.items() if key != name}
    for changed, message in [
        (without, f"lacks the tensor '{name}' \\(1 missing\\)"),
        (tensors | {"zebra": torch.zeros(1)}, r"unknown tensor 'zebra' \(1 unknown\)"),
        (tensors | {name: torch.zeros(1, 2)}, rf"tensor '{name}' is torch.float32 \(1, 2\)"),
        (tensors | {name: tensors[name].double()}, "is torch.float64"),
        (tensors | {name: tensors[name] + 1e-6}, "was changed after it was saved"),
    ]:
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)
    save_file(tensors, path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_options_that_do_not_belong_are_refused(tmp_path):
    tokenizer = toy_autoencoder()
    tokenizer.save(tmp_path)
    config = read_unsigned(tmp_path / CONFIG_FILE)
    options = config["options"]
    for changed, message in [
        ({"config": options["config"]}, "is damaged: its options"),
        ({**options, "tile": "large"}, "is damaged: its options"),
        ({**options, "tile": 2}, "tile 2 is smaller"),
        ({**options, "config": {"network": options["config"]["network"]}}, "has the parts"),
        ({**options, "tile": 512}, "was changed after it was saved"),
    ]:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"options": changed}))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"tokenizer": "pixels"}))
    with pytest.raises(ValueError, match="holds a 'pixels' tokenizer, not 'autoencoder'"):
        AutoencoderTokenizer.load(tmp_path)


def test_loading_leaves_the_random_numbers_of_others_alone(tmp_path):
    toy_autoencoder().save(tmp_path)
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(torch.rand(4), expected)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_fingerprint_does_not_depend_on_the_layout_in_memory():
    tokenizer = toy_autoencoder()
    plain = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in tokenizer.model.state_dict().items()
    }
    assert tokenizer.fingerprint == fingerprint_of("autoencoder", tokenizer._options(), plain)
