"""The tokenizer around a video autoencoder: lengths, pieces, streams, tiles, batches, memory.

What every tokenizer promises is in tests/protocol/test_tokenizer_contract.py.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from toys.neural_video import FSQ, NETWORKS, RVQ, toy_video
from toys.states import held_bytes

from tokenize_kit.protocol import decode_like
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.video.time import frames_of, latent_steps
from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer

KINDS = [
    pytest.param(
        {"network": network, "quantizer": quantizer, "channels": channels}, id=f"{network}-{quantizer['kind']}"
    )
    for network, quantizer, channels in zip(NETWORKS, itertools.cycle((FSQ, RVQ)), itertools.cycle((3, 1, 4)))
]
EVERY = pytest.mark.parametrize("kind", KINDS)


def noise(tokenizer, frames, height=11, width=18, seed=0):
    generator = torch.Generator().manual_seed(seed + frames)
    shape = (frames, tokenizer.spec.channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def lengths(tokenizer):
    time = tokenizer.config.network.temporal_factor
    edge = frames_of(1 + tokenizer.block, time)
    return sorted({1, 2, time, time + 1, time + 2, edge - 1, edge, edge + 1, edge + time * tokenizer.block})


def filled(video, tokenizer):
    """The video continued with its last frame, row and column, to what the network has."""
    network = tokenizer.config.network
    frames = frames_of(latent_steps(len(video), network.temporal_factor), network.temporal_factor)
    places = [
        torch.arange(-(-size // network.spatial_factor) * network.spatial_factor).clamp(max=size - 1)
        for size in video.shape[2:]
    ]
    video = video[torch.arange(frames).clamp(max=len(video) - 1)]
    return video[..., places[0], :][..., places[1]]


@EVERY
def test_pieces_give_what_the_whole_network_gives(kind):
    tokenizer = toy_video(**kind, block=2)
    for length in lengths(tokenizer):
        video = noise(tokenizer, length)
        ids = tokenizer.encode(video)
        whole = to_pixels(filled(video, tokenizer)).transpose(0, 1)[None]
        assert torch.equal(ids, tokenizer.model.encode(whole)[0])
        made = tokenizer.decode(ids)
        assert made.shape == filled(video, tokenizer).shape
        expected = from_pixels(tokenizer.model.decode(ids[None])[0]).transpose(0, 1)
        assert (made.int() - expected.int()).abs().max() <= 1
        (cut,) = decode_like(tokenizer, [ids], [video])
        assert torch.equal(cut, made[:length, :, :11, :18])
    assert len(ids.unique()) > 6
    assert made.float().std() > 10


@EVERY
def test_cuttings_of_any_kind_give_the_same_bits(kind):
    tokenizer = toy_video(**kind, block=2)
    time, block = tokenizer.config.network.temporal_factor, tokenizer.block
    plain, eager = tokenizer.stream(), tokenizer.stream(eager=True)  # which serve one video after the other
    for length in (1, time + 1, 2 + 2 * block * time):
        video = noise(tokenizer, length)
        ids = tokenizer.encode(video)
        made = tokenizer.decode(ids)
        for size in (1, 3, block * time + 1):
            pieces = video.split(size)
            assert torch.equal(torch.cat(list(tokenizer.encode_pieces(pieces))), ids)
            for stream in (plain, eager):
                assert torch.equal(torch.cat([*map(stream.encode, pieces), stream.finish()]), ids)
        for plan in ([1], [1, 4], [100]):
            pieces = list(cut(ids, plan))
            assert torch.equal(torch.cat(list(tokenizer.decode_pieces(pieces, length))), made[:length])
            assert torch.equal(torch.cat([*map(plain.decode, pieces), plain.finish_decode(length)]), made[:length])
            assert torch.equal(torch.cat([*map(eager.decode, pieces), eager.finish_decode()]), made)


def cut(ids, plan):
    """Pieces of so many steps, the last number again and again."""
    for count in itertools.chain(plan, itertools.repeat(plan[-1])):
        if not len(ids):
            return
        yield ids[:count]
        ids = ids[count:]


@EVERY
def test_what_comes_later_changes_nothing_and_a_picture_is_the_first_frame(kind):
    tokenizer = toy_video(**kind, block=2)
    time = tokenizer.config.network.temporal_factor
    video = noise(tokenizer, 1 + 5 * time)
    ids = tokenizer.encode(video)
    made = tokenizer.decode(ids)
    for steps in range(1, len(ids)):
        frames = frames_of(steps, time)
        assert torch.equal(tokenizer.encode(video[:frames]), ids[:steps])
        assert torch.equal(tokenizer.decode(ids[:steps]), made[:frames])


@EVERY
def test_an_eager_stream_has_the_delay_that_is_said(kind):
    tokenizer = toy_video(**kind)
    stream = tokenizer.stream(eager=True)
    video = noise(tokenizer, 25)
    shown, worst = 0, 0
    for count, frame in enumerate(video.split(1), 1):
        came = len(stream.decode(ids)) if len(ids := stream.encode(frame)) else 0
        # The first of what came has waited longest.
        worst = max(worst, count - (shown + 1)) if came else worst
        shown += came
    assert shown == 25
    assert worst == tokenizer.delay == tokenizer.config.network.temporal_factor - 1
    assert tokenizer.lookahead == 0


@EVERY
def test_batches_and_threads_do_not_change_a_bit(kind):
    tokenizer = toy_video(**kind, block=2)
    sizes = [(1, 8, 8), (9, 11, 18), (5, 3, 30), (1, 16, 16), (9, 11, 18), (20, 8, 8)]
    videos = [noise(tokenizer, *size, seed=seed) for seed, size in enumerate(sizes)]
    single = [tokenizer.encode(video) for video in videos]
    made = [tokenizer.decode(ids) for ids in single]
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, tokenizer.encode_batch(videos), single))
            with tokenizer.encode_ahead() as begin:
                running = [begin(videos[:4]), begin(videos[4:])]
                assert all(map(torch.equal, [ids for wait in running for ids in wait()], single))
            assert all(map(torch.equal, tokenizer.decode_batch(single), made))
            assert torch.equal(tokenizer.encode(videos[1]), single[1])
            cut = tokenizer.decode_sized(single, sizes)
            assert [each.shape for each in cut] == [video.shape for video in videos]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@EVERY
def test_tiles_are_a_whole_frame(kind):
    whole = toy_video(**kind, block=2)
    side = whole.config.network.spatial_factor
    tiled = toy_video(**kind, block=2, tile=3 * side)
    video = noise(whole, 2 + whole.config.network.temporal_factor, 7 * side - 1, 8 * side)
    ids = whole.encode(video)
    assert torch.equal(tiled.encode(video), ids)
    made, other = whole.decode(ids), tiled.decode(ids)
    assert (made.int() - other.int()).abs().max() <= 1
    # A tile has a memory of its own, and that is what makes its pieces equal.
    for size in (1, 2):
        assert torch.equal(torch.cat(list(tiled.encode_pieces(video.split(size)))), ids)
        assert torch.equal(torch.cat(list(tiled.decode_pieces(ids.split(size)))), other)


def test_a_last_step_is_filled_up_with_the_last_frame_and_edges_with_the_last_row():
    tokenizer = toy_video("latent")
    video = noise(tokenizer, 7, 11, 18)
    more = torch.cat([video, video[-1:], video[-1:]])
    assert torch.equal(tokenizer.encode(video), tokenizer.encode(more))
    assert torch.equal(tokenizer.encode(video), tokenizer.encode(filled(video, tokenizer)))


def test_what_is_wrong_is_refused_in_a_piece_as_in_a_whole_video():
    tokenizer = toy_video("latent", RVQ)
    stream = tokenizer.stream()
    good = noise(tokenizer, 6)
    for bad, message in (
        (good[:, :1], "1 channels, expected 3"),
        (good[:0], "has no frames"),
        (good[..., :0], "has no pixels"),
        (good[0], "has the axes"),
    ):
        for call in (tokenizer.encode, stream.encode, lambda piece: list(tokenizer.encode_pieces([good, piece]))):
            with pytest.raises(ValueError, match=message):
                call(bad)
    with pytest.raises(TypeError, match=r"torch\.float32"):
        stream.encode(good.float())
    for call in (stream.encode, lambda piece: list(tokenizer.encode_pieces([good, piece]))):
        stream.encode(good)
        with pytest.raises(ValueError, match="frames of 11x17 after frames of 11x18: one video has frames of one size"):
            call(good[..., 1:])
    stream = tokenizer.stream()
    for call in (stream.finish, lambda: list(tokenizer.encode_pieces([]))):
        with pytest.raises(ValueError, match="a video without a frame has no ids"):
            call()
    for call in (stream.finish_decode, lambda: list(tokenizer.decode_pieces([]))):
        with pytest.raises(ValueError, match="no ids, no video"):
            call()
    ids = tokenizer.encode(good)
    stream.decode(ids)
    with pytest.raises(ValueError, match="ids of 3x5x2 a step after ids of 3x5x3"):
        stream.decode(ids[..., :2])
    with pytest.raises(ValueError, match="ids of 3x4x3 a step after ids of 3x5x3"):
        stream.decode(ids[:, :, 1:])
    with pytest.raises(ValueError, match="id 32 is outside the vocabulary"):
        stream.decode(ids * 0 + 32)
    for length in (5, 10):  # three steps
        with pytest.raises(ValueError, match=f"cover 9 frames are not those of a video of {length}"):
            tokenizer.decode_sized([ids], [(length, 11, 18)])
    for sides in ((8, 18), (13, 18), (11, 16), (11, 21)):
        with pytest.raises(ValueError, match="covers 12x20 pixels is not that of frames of"):
            tokenizer.decode_sized([ids], [(6, *sides)])
    with pytest.raises(ValueError, match="is empty"):
        tokenizer.decode(ids[:0])
    with pytest.raises(ValueError, match="block 0"):
        VideoTokenizer(tokenizer.model, 0)
    with pytest.raises(ValueError, match="tile 3 is smaller than the spatial factor 4"):
        VideoTokenizer(tokenizer.model, tile=3)


def test_an_eager_stream_says_so_when_it_has_handed_out_more_than_the_length():
    tokenizer = toy_video("latent")
    stream = tokenizer.stream(eager=True)
    assert len(stream.decode(tokenizer.encode(noise(tokenizer, 7)))) == 9
    with pytest.raises(ValueError, match="9 frames of a video of 7 have been handed out"):
        stream.finish_decode(7)


@pytest.mark.parametrize(
    "quantizer",
    [
        {"kind": "lfq", "codebook_size": 64},
        {"kind": "bsq", "codebook_size": 64},
        {"kind": "vq", "codebook_size": 50, "kmeans_init": False},
        {"kind": "simvq", "codebook_size": 50},
        {"kind": "library", "library_class": "ResidualFSQ", "library_options": ("num_quantizers=2", "levels=5,3")},
    ],
    ids=lambda options: options["kind"],
)
def test_every_quantizer_comes_through_the_same_door(quantizer, tmp_path):
    tokenizer = toy_video("latent", quantizer)
    video = noise(tokenizer, 18)
    ids = tokenizer.encode(video)
    assert ids.shape == ((6, 3, 5, 2) if quantizer["kind"] == "library" else (6, 3, 5))
    assert len(ids.unique()) > 3
    assert 0 <= ids.min() <= ids.max() < tokenizer.spec.max_vocab_size
    assert torch.equal(torch.cat(list(tokenizer.encode_pieces(video.split(5)))), ids)
    tokenizer.save(tmp_path)
    again = VideoTokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert torch.equal(again.encode(video), ids)
    assert torch.equal(torch.cat(list(again.decode_pieces(ids.split(2), 18))), tokenizer.decode(ids)[:18])


def test_the_first_codebooks_decode_alone():
    tokenizer = toy_video("latent", RVQ)
    ids = tokenizer.encode(noise(tokenizer, 9))
    made = [tokenizer.decode(ids[..., :count]) for count in (1, 2, 3)]
    assert all(each.shape == made[0].shape for each in made)
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


@EVERY
def test_memory_does_not_grow_with_the_length(kind):
    tokenizer = toy_video(**kind, block=2)
    time, pulled = tokenizer.config.network.temporal_factor, []

    def endless():
        for place in itertools.count():
            pulled.append(place)
            yield noise(tokenizer, 3, 16, 16, place)

    produced, seen = 0, []
    for ids in tokenizer.encode_pieces(endless()):
        produced += len(ids)
        seen.append(len(pulled) * 3 - frames_of(produced, time))
        if frames_of(produced, time) >= 100:
            break
    # What has come in and not gone out is never more than a block and a piece.
    assert max(seen) < tokenizer.block * time + 3
    for eager in (False, True):
        stream, sizes = tokenizer.stream(eager), []
        for place in range(20):
            ids = stream.encode(noise(tokenizer, 5, 16, 16, place))
            if len(ids):
                stream.decode(ids)
            encoding, decoding = stream._encoding._pieces, stream._decoding._pieces
            waiting = sum(held_bytes(part) for each in (encoding, decoding) for part in each._waiting._parts)
            sizes.append((held_bytes(encoding._state) + held_bytes(decoding._state), waiting))
        assert len({size for size, _ in sizes[10:]}) == 1
        assert sizes[10][0] == max(size for size, _ in sizes)
        assert max(waiting for _, waiting in sizes[10:]) <= 1.5 * max(waiting for _, waiting in sizes[:10])


def test_a_state_keeps_no_more_than_it_must():
    tokenizer = toy_video("latent", block=8)
    stream = tokenizer.stream()
    stream.encode(noise(tokenizer, 33, 32, 32))
    # Two convolutions of 16 channels keep what three steps of 8 x 8 places have become: one of the oldest, two of the next.
    assert held_bytes(stream._encoding._pieces._state) == 2 * 3 * 8 * 8 * 16 * 4


def test_the_memory_of_a_piece_may_be_used_again_by_the_caller():
    tokenizer = toy_video("latent")
    video = noise(tokenizer, 23)
    stream, buffer, made = tokenizer.stream(), torch.empty(2, 3, 11, 18, dtype=torch.uint8), []
    for piece in video.split(2):
        made.append(stream.encode(buffer[: len(piece)].copy_(piece)))
    buffer.zero_()
    assert torch.equal(torch.cat([*made, stream.finish()]), tokenizer.encode(video))


@EVERY
def test_extreme_videos_stay_finite(kind):
    tokenizer = toy_video(**kind)
    flicker = torch.zeros(9, tokenizer.spec.channels, 8, 8, dtype=torch.uint8)
    flicker[::2] = 255
    for video in (flicker * 0, flicker * 0 + 255, flicker):
        assert tokenizer.model.decode(tokenizer.encode(video)[None]).isfinite().all()


def test_arithmetic_is_float32_inside_autocast_and_bfloat16_when_asked_for():
    tokenizer = toy_video("latent")
    video = noise(tokenizer, 9)
    ids = tokenizer.encode(video)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(video), ids)
    made = tokenizer.decode(ids)
    mixed = tokenizer.to("cpu", "bf16-mixed")
    apart = (mixed.decode(ids).int() - made.int()).abs()
    assert apart.max() > 0
    assert apart.float().mean() < 2
    with pytest.raises(ValueError, match="precision '16-mixed'"):
        tokenizer.to("cpu", "16-mixed")


def test_the_spec_says_what_the_tokenizer_is():
    spec = toy_video("haar", RVQ, frame_rate=7.5).spec
    assert (spec.modality, spec.axes, spec.step) == ("video", ("time", "height", "width", "codebook"), (2, 8, 8, None))
    assert (spec.vocab_size, spec.frame_rate, spec.channels, spec.lossless) == ((32, 32, 32), 7.5, 3, False)
    assert not spec.is_open
    spec = toy_video("bands", FSQ).spec
    assert (spec.axes, spec.step, spec.vocab_size) == (("time", "height", "width"), (8, 4, 4), 200)


def test_other_weights_blocks_or_tiles_are_another_tokenizer():
    options = ({}, {"seed": 4}, {"block": 6}, {"tile": 64}, {"frame_rate": 24.0})
    assert len({toy_video(**each).fingerprint for each in options}) == len(options)


def test_padding_is_by_edges_and_not_by_zeros():
    tokenizer = toy_video("latent")
    video = noise(tokenizer, 5, 10, 10)
    zeros = F.pad(video, (0, 2, 0, 2))
    assert not torch.equal(tokenizer.encode(video), tokenizer.encode(zeros))
