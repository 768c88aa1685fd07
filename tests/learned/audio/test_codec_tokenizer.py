"""The tokenizer around a neural codec: lengths, pieces, streams, batches, prefixes, memory.

What every tokenizer promises is in tests/test_tokenizer_contract.py.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from toys.neural_codec import FSQ, NETWORKS, RVQ, toy_codec, toy_config
from toys.states import held_bytes

from tokenize_kit.protocol import decode_like
from tokenize_kit.tokenizers.learned.audio.model import Codec
from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer

KINDS = [
    pytest.param({"network": network, "causal": causal, "channels": channels, "quantizer": quantizer}, id=name)
    for network, causal, channels, quantizer, name in (
        ("encodec", True, 1, RVQ, "encodec-causal"),
        ("encodec", False, 2, FSQ, "encodec-stereo-fsq"),
        ("dac", False, 1, RVQ, "dac"),
        ("dac", True, 2, FSQ, "dac-causal-stereo-fsq"),
        ("frames", False, 1, RVQ, "frames"),
        ("frames", True, 2, RVQ, "frames-causal-stereo"),
    )
]
EVERY = pytest.mark.parametrize("kind", KINDS)


def noise(codec, samples, seed=0):
    generator = torch.Generator().manual_seed(seed + samples)
    return torch.rand(codec.spec.channels, samples, generator=generator) * 2 - 1


def lengths(codec):
    hop, block, ahead = codec.config.network.hop, codec.block, codec.lookahead
    edge = hop * block + ahead
    return [1, 2, hop - 1, hop, hop + 1, 37, 101, hop * block, edge - 1, edge, edge + 1, edge + hop * block, 257]


@EVERY
def test_blocks_give_what_the_whole_network_gives(kind):
    codec = toy_codec(**kind)
    hop = codec.config.network.hop
    for length in lengths(codec):
        samples = noise(codec, length)
        ids = codec.encode(samples)
        whole = codec.model.encode(F.pad(samples, (0, -length % hop))[None])[0]
        assert torch.equal(ids, whole)
        sound = codec.decode(ids)
        assert sound.shape == (codec.spec.channels, -(-length // hop) * hop)
        torch.testing.assert_close(sound, codec.model.decode(ids[None])[0].clamp(-1, 1), atol=1e-5, rtol=0)
        (cut,) = decode_like(codec, [ids], [samples])
        assert torch.equal(cut, sound[:, :length])
    assert len(ids.unique()) > 6
    assert sound.std() > 0.02


@EVERY
def test_pieces_of_any_size_give_the_same_bits(kind):
    codec = toy_codec(**kind)
    hop = codec.config.network.hop
    for length in (1, hop, 3 * hop * codec.block, 257):
        samples = noise(codec, length)
        ids = codec.encode(samples)
        (sound,) = codec.decode_sized([ids], [(length,)])
        for size in (1, 7, hop, hop * codec.block + 1):
            pieces = samples.split(size, 1)
            assert torch.equal(torch.cat(list(codec.encode_pieces(pieces))), ids)
            stream = codec.stream()
            for _ in range(2):  # a stream can serve one sound after the other
                assert torch.equal(torch.cat([*map(stream.encode, pieces), stream.finish()]), ids)
        for size in (1, 3, codec.block, 2 * codec.block + 1):
            pieces = ids.split(size)
            assert torch.equal(torch.cat(list(codec.decode_pieces(pieces, length)), 1), sound)
            stream = codec.stream()
            for _ in range(2):
                made = torch.cat([*map(stream.decode, pieces), stream.finish_decode(length)], 1)
                assert torch.equal(made, sound)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("quantizer", [RVQ, FSQ], ids=lambda options: options["kind"])
def test_eager_streams_give_the_same_bits(network, quantizer):
    codec = toy_codec(network, quantizer, causal=True)
    hop = codec.config.network.hop
    for length in (1, hop, hop + 1, hop * codec.block, 2 * hop * codec.block + 3):
        samples = noise(codec, length)
        ids = codec.encode(samples)
        sound = codec.decode(ids)
        for size in (1, hop - 1, 3 * hop, 8 * hop):
            stream = codec.stream(eager=True)
            assert torch.equal(torch.cat([*map(stream.encode, samples.split(size, 1)), stream.finish()]), ids)
        for size in (1, 2, codec.block, 8):
            stream = codec.stream(eager=True)
            assert torch.equal(torch.cat([*map(stream.decode, ids.split(size)), stream.finish_decode()], 1), sound)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_eager_stream_has_the_delay_that_is_said(network):
    codec = toy_codec(network, causal=True)
    hop, stream = codec.config.network.hop, codec.stream(eager=True)
    samples = noise(codec, 12 * hop)
    heard, worst = 0, 0
    for count, sample in enumerate(samples.split(1, 1), 1):
        ids = stream.encode(sample)
        if len(ids):
            came = stream.decode(ids).shape[1]
            # The first of what came has waited longest.
            worst = max(worst, count - (heard + 1)) if came else worst
            heard += came
    assert worst == codec.delay
    assert codec.delay == {"encodec": 5, "dac": 9, "frames": 12 - 1 + 2 * 7}[network]
    assert codec.lookahead == {"encodec": 0, "dac": 0, "frames": 7}[network]


def test_only_causal_networks_have_eager_streams():
    with pytest.raises(ValueError, match="an eager stream needs a causal codec"):
        toy_codec(causal=False).stream(eager=True)


@EVERY
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_and_threads_do_not_change_a_bit(kind, threads):
    codec = toy_codec(**kind)
    sounds = [noise(codec, length) for length in (5, 300, 37, 120, 1, 300)]
    single = [codec.encode(samples) for samples in sounds]
    decoded = [codec.decode(ids) for ids in single]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(map(torch.equal, codec.encode_batch(sounds), single))
        assert all(map(torch.equal, codec.decode_batch(single), decoded))
        assert torch.equal(codec.encode(sounds[1]), single[1])
        cut = codec.decode_sized(single, [(samples.shape[1],) for samples in sounds])
        assert [made.shape for made in cut] == [samples.shape for samples in sounds]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_first_codebooks_decode_alone_and_do_not_depend_on_the_others():
    config = toy_config("frames")
    few, all_of_them = (
        CodecTokenizer(toy_codec("frames").model if count == 3 else _first_codebooks(config, count), 5)
        for count in (2, 3)
    )
    samples = noise(all_of_them, 200)
    ids = all_of_them.encode(samples)
    assert ids.shape[1] == 3
    assert torch.equal(few.encode(samples), ids[:, :2])
    assert torch.equal(few.decode(ids[:, :2]), all_of_them.decode(ids[:, :2]))
    assert not torch.equal(all_of_them.decode(ids[:, :1]), all_of_them.decode(ids[:, :2]))


def _first_codebooks(config, count):
    """The codec of `toy_codec("frames")` with only the first codebooks."""
    other = Codec(toy_config("frames", RVQ | {"codebooks": count}))
    weights = toy_codec("frames").model.state_dict()
    other.load_state_dict({name: weights[name] for name in other.state_dict()})
    return other


@EVERY
def test_extreme_sounds_stay_finite(kind):
    codec = toy_codec(**kind)
    channels = codec.spec.channels
    square = torch.ones(channels, 100)
    square[:, ::2] = -1
    for samples in (torch.zeros(channels, 100), torch.ones(channels, 100), -torch.ones(channels, 100), square):
        sound = codec.decode(codec.encode(samples))
        assert sound.isfinite().all()
        assert sound.abs().max() <= 1


def test_what_is_wrong_in_a_piece_is_refused_as_in_a_whole_sound():
    codec = toy_codec(channels=2)
    stream = codec.stream()
    good = noise(codec, 50)
    for bad, message in (
        (good[:1], "1 channels, expected 2"),
        (good + float("nan"), r"values in \[-1, 1\], got nan"),
        (good * 3, r"values in \[-1, 1\]"),
        (good[:, :0], "has no samples"),
    ):
        for call in (codec.encode, stream.encode, lambda piece: list(codec.encode_pieces([good, piece]))):
            with pytest.raises(ValueError, match=message):
                call(bad)
    with pytest.raises(TypeError, match=r"torch\.float64"):
        stream.encode(good.double())
    for call in (stream.finish, lambda: list(codec.encode_pieces([]))):
        with pytest.raises(ValueError, match="a sound without a sample has no ids"):
            call()
    for call in (stream.finish_decode, lambda: list(codec.decode_pieces([]))):
        with pytest.raises(ValueError, match="no ids, no sound"):
            call()
    ids = codec.encode(good)
    stream.decode(ids)
    with pytest.raises(ValueError, match="ids of 2 codebooks after ids of 3"):
        stream.decode(ids[:, :2])
    with pytest.raises(ValueError, match="id 32 is outside the vocabulary"):
        stream.decode(ids * 0 + 32)
    for length in (48, 61):  # 5 steps of 12 samples
        with pytest.raises(ValueError, match=f"cover 60 samples are not those of a sound of {length}"):
            codec.decode_sized([ids], [(length,)])
    with pytest.raises(ValueError, match="is empty"):
        codec.decode(ids[:0])
    with pytest.raises(ValueError, match="block 0"):
        CodecTokenizer(codec.model, 0)


def test_an_eager_stream_says_so_when_it_has_handed_out_more_than_the_length():
    codec = toy_codec("encodec", causal=True)
    stream = codec.stream(eager=True)
    assert stream.decode(codec.encode(noise(codec, 11))).shape == (1, 12)
    with pytest.raises(ValueError, match="12 samples of a sound of 11 have been handed out"):
        stream.finish_decode(11)


@EVERY
def test_memory_does_not_grow_with_the_length(kind):
    codec = toy_codec(**kind)
    pulled = []

    def endless():
        for place in itertools.count():
            pulled.append(place)
            yield noise(codec, 10, place)

    produced, seen = 0, []
    for ids in codec.encode_pieces(endless()):
        produced += len(ids)
        seen.append(len(pulled) * 10 - produced * codec.config.network.hop)
        if produced > 200:
            break
    # What has come in and not gone out is never more than a block and what the network looks ahead.
    assert max(seen) <= (codec.block + 1) * codec.config.network.hop + codec.lookahead + 10
    stream = codec.stream()
    sizes = []
    for place in range(40):
        ids = stream.encode(noise(codec, 30, place))
        if len(ids):
            stream.decode(ids)
        encoding, decoding = stream._encoding._pieces, stream._decoding._pieces
        waiting = sum(held_bytes(part) for queue in (encoding._waiting, decoding._waiting) for part in queue._parts)
        sizes.append((held_bytes(encoding._state) + held_bytes(decoding._state), waiting))
    assert max(size for size, _ in sizes[20:]) == max(size for size, _ in sizes[8:20])
    assert max(waiting for _, waiting in sizes[20:]) <= 2 * max(waiting for _, waiting in sizes[8:20])


def test_the_memory_of_a_piece_may_be_used_again_by_the_caller():
    codec = toy_codec()
    samples = noise(codec, 90)
    stream, buffer, made = codec.stream(), torch.empty(1, 9), []
    for piece in samples.split(9, 1):
        made.append(stream.encode(buffer.copy_(piece)))
    assert torch.equal(torch.cat([*made, stream.finish()]), codec.encode(samples))


def test_arithmetic_is_float32_inside_autocast_and_a_model_with_weight_norm_goes_on_training():
    model = Codec(toy_config("dac", weight_norm=True))
    codec = CodecTokenizer(model)
    samples = noise(codec, 100)
    ids = codec.encode(samples)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(samples), ids)
    assert codec.config.network.weight_norm is False
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert codec.block == 1600  # about a second of 16,000 samples, 10 a step


def test_other_weights_or_blocks_are_another_tokenizer():
    prints = {toy_codec(**options).fingerprint for options in ({}, {"seed": 4}, {"block": 6}, {"causal": True})}
    assert len(prints) == 4
