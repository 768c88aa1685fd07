"""What holds for every body, temporal and spatial factor and quantizer of a video tokenizer, over videos of 1 to 20 frames.

Nothing that comes later changes a bit; cuttings of any kind, pictures, batches and prefixes give the bits of the whole.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.neural_video import FSQ, RVQ, toy_model, toy_video

from tokenize_kit.protocol import decode_like

QUANTIZERS = {
    "fsq": FSQ,
    "rvq": RVQ,
    "vq": {"kind": "vq", "codebook_size": 64, "codebook_dim": 4, "kmeans_init": False},
    "lfq": {"kind": "lfq", "codebook_size": 256},
    "bsq": {"kind": "bsq", "codebook_size": 256},
    "library": {"kind": "library", "library_class": "FSQ", "library_options": ("levels=8,5,5",)},
}
BODIES = ("latent", "convolutional")
TIMES, SIDES = (2, 4, 8), (4, 8, 16)
LONGEST = 20
SMALL = {"latent": {"encoder_blocks": 1, "decoder_blocks": 1}, "convolutional": {"width": 4}}

BODY = pytest.mark.parametrize("body", BODIES)
# The fewest in which any two values of different columns meet.
CASES = [
    (body, time, side, list(QUANTIZERS)[2 * ((i + j) % 3) + (b + i) % 2])
    for b, body in enumerate(BODIES)
    for i, time in enumerate(TIMES)
    for j, side in enumerate(SIDES)
]


def tokenizer_of(body, time, side, quantizer, **options):
    options = {"temporal_factor": time, "spatial_factor": side, **SMALL[body], **options}
    return toy_video(body, QUANTIZERS[quantizer], block=2, **options)


def noise(frames, side, seed=0):
    """A video of an odd size, of grids of 1 x 2."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, side - 1, side + 2), generator=generator, dtype=torch.uint8)


def steps_of(frames, time):
    """Steps of the ids, counted: one for the first frame, and one for each ``time`` frames that have begun after it."""
    return 1 + len(range(1, frames, time))


def test_any_two_values_meet_in_a_case():
    columns = (BODIES, TIMES, SIDES, QUANTIZERS)
    for one, other in itertools.combinations(range(4), 2):
        assert {(case[one], case[other]) for case in CASES} == set(itertools.product(columns[one], columns[other]))


@pytest.mark.parametrize(("body", "time", "side", "quantizer"), CASES)
def test_every_length_is_a_prefix_and_comes_back_at_its_size(body, time, side, quantizer):
    tokenizer = tokenizer_of(body, time, side, quantizer)
    longest = min(LONGEST, 2 * time + 3)  # beyond the first piece of two steps
    video = noise(longest, side)
    codebooks = (3,) if quantizer == "rvq" else ()
    ids = tokenizer.encode(video)
    made = tokenizer.decode(ids)
    assert len(ids.unique()) > 2
    assert made.shape == (1 + (len(ids) - 1) * time, 3, side, 2 * side)
    for frames in range(1, longest + 1):
        steps = steps_of(frames, time)
        part = tokenizer.encode(video[:frames])
        assert part.dtype == torch.int64
        assert part.shape == (steps, 1, 2, *codebooks)
        whole = steps - ((frames - 1) % time > 0)  # a step that has not ended may still change
        assert torch.equal(part[:whole], ids[:whole])
        if frames in (2, longest - 1) and whole < steps:  # T of no such form: filled up by its last frame
            full = torch.cat([video[:frames], video[frames - 1 : frames].expand(-(frames - 1) % time, -1, -1, -1)])
            assert torch.equal(part, tokenizer.encode(full))
    for steps in range(1, len(ids)):
        frames = 1 + (steps - 1) * time
        assert torch.equal(tokenizer.decode(ids[:steps]), made[:frames])
    cut = [longest, longest - 1, 2, 1]
    grids = [ids[: steps_of(frames, time)] for frames in cut]
    for frames, same in zip(cut, decode_like(tokenizer, grids, [video[:frames] for frames in cut]), strict=True):
        assert torch.equal(same, made[:frames, :, : side - 1, : side + 2])


@BODY
@pytest.mark.parametrize("time", TIMES)
def test_no_later_frame_and_no_later_id_changes_a_bit_at_any_time(body, time):
    tokenizer = tokenizer_of(body, time, 4, "fsq")
    video, other = noise(2 * time + 2, 4), noise(2 * time + 2, 4, seed=1)
    ids = tokenizer.encode(video)
    made = tokenizer.decode(ids)
    for frame in range(len(video) - 1):
        changed = tokenizer.encode(torch.cat([video[: frame + 1], other[frame + 1 :]]))
        known = 1 + frame // time  # steps that have ended with this frame
        assert torch.equal(changed[:known], ids[:known])
        assert not torch.equal(changed, ids)
        shown = 1 + (known - 1) * time
        assert torch.equal(tokenizer.decode(changed)[:shown], made[:shown])
    for step in range(len(ids) - 1):
        changed = torch.cat([ids[: step + 1], (ids[step + 1 :] + 7) % tokenizer.spec.vocab_size])
        again = tokenizer.decode(changed)
        assert torch.equal(again[: 1 + step * time], made[: 1 + step * time])
        assert not torch.equal(again, made)


@BODY
def test_no_gradient_reaches_a_later_frame_through_the_whole_network(body):
    model = toy_model(body)
    time, side = model.config.network.temporal_factor, model.config.network.spatial_factor
    video = torch.rand(1, 3, 1 + 2 * time, side, 2 * side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video.requires_grad_()
    made = model(video, quantize=False).pixels
    for frame in range(1 + 2 * time):
        (gradient,) = torch.autograd.grad(made[:, :, frame].square().sum(), video, retain_graph=True)
        ended = -(-frame // time) * time  # the last frame of its step
        seen = gradient.abs().amax((0, 1, 3, 4)) > 0
        assert not seen[ended + 1 :].any()
        assert seen[: ended + 1].all()


@BODY
@pytest.mark.parametrize("plan", [(1, 4, 4, 4), (1, 8, 4), (1, 12), (13,), (2, 3, 1, 7)], ids=str)
def test_pieces_are_the_whole(body, plan):
    assert_pieces_are_the_whole(tokenizer_of(body, 4, 8, "fsq"), plan)


@BODY
@settings(max_examples=8, deadline=None, derandomize=True)
@given(plan=st.lists(st.integers(1, 9), min_size=1, max_size=5), time=st.sampled_from(TIMES))
def test_pieces_of_any_lengths_are_the_whole(body, plan, time):
    assert_pieces_are_the_whole(tokenizer_of(body, time, 4, "rvq"), plan)


def assert_pieces_are_the_whole(tokenizer, plan):
    """Pieces of frames, and of steps, that have the lengths of a plan."""
    side = tokenizer.config.network.spatial_factor
    video = noise(sum(plan), side)
    ids = tokenizer.encode(video)
    parts = video.split(list(plan))
    assert torch.equal(torch.cat(list(tokenizer.encode_pieces(parts))), ids)
    stream = tokenizer.stream(eager=True)
    assert torch.equal(torch.cat([*map(stream.encode, parts), stream.finish()]), ids)
    made = tokenizer.decode(ids)
    starts = itertools.accumulate(plan, initial=0)
    grids = [ids[start : start + count] for start, count in zip(starts, plan, strict=False) if start < len(ids)]
    assert torch.equal(torch.cat(list(tokenizer.decode_pieces(grids))), made)
    stream = tokenizer.stream(eager=True)
    assert torch.equal(torch.cat([*map(stream.decode, grids), stream.finish_decode()]), made)


@BODY
def test_pictures_and_videos_of_all_lengths_in_a_batch_are_what_they_are_alone(body):
    tokenizer = tokenizer_of(body, 4, 8, "bsq")
    videos = [noise(frames, side, seed=frames) for frames, side in ((1, 8), (6, 8), (1, 16), (9, 8), (6, 8), (2, 16))]
    grids = tokenizer.encode_batch(videos)
    for video, ids in zip(videos, grids, strict=True):
        assert torch.equal(ids, tokenizer.encode(video))
        assert torch.equal(tokenizer.encode(video[:1]), ids[:1])  # a picture is the first frame of any video
    for ids, made in zip(grids, tokenizer.decode_batch(grids), strict=True):
        assert torch.equal(made, tokenizer.decode(ids))
        assert torch.equal(tokenizer.decode(ids[:1]), made[:1])
