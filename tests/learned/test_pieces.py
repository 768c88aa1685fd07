"""Pieces of samples: each id belongs to one, with a margin around it or a memory before it."""

import pytest
import torch
import torch.nn.functional as F

from tokenize_kit.tokenizers.learned.pieces import Aligned, Cut, Span, computed, cut


def test_pieces_of_several_axes_cover_each_id_once_and_read_what_there_is():
    cuts = [Cut(2, 1, 0), Cut(3, 2, 2)]
    assert list(cut((3, 4), cuts)) == [
        (Span(0, 2, 0, 2), Span(0, 3, 0, 4)),
        (Span(0, 2, 0, 2), Span(3, 4, 1, 4)),
        (Span(2, 3, 1, 3), Span(0, 3, 0, 4)),
        (Span(2, 3, 1, 3), Span(3, 4, 1, 4)),
    ]
    seen = torch.zeros(5, 7, 4)
    for piece in cut(seen.shape, [Cut(2, 1, 1), Cut(3, 0, 2), Cut(9, 1, 1)]):
        seen[tuple(slice(span.start, span.stop) for span in piece)] += 1
    assert torch.equal(seen, torch.ones(5, 7, 4))


@pytest.mark.parametrize("sizes", [(2, 3, 4), (5, 7, 9), (1, 1, 1), (3, 20, 2)])
def test_what_sees_no_further_than_the_margin_is_computed_as_the_whole(sizes):
    # Causal along the first axis, a place on both sides along the others, and 1, 2 and 3 places for each id.
    x = torch.randint(0, 9, (2, 1, 5, 7, 9), generator=torch.Generator().manual_seed(0)).float()
    weight = torch.arange(27.0).view(1, 1, 3, 3, 3)

    def upsampled(part, before):
        sums = F.conv3d(F.pad(part, (1, 1, 1, 1, before, 0)), weight)
        return sums.repeat_interleave(2, 3).repeat_interleave(3, 4)

    def compute(piece):
        assert all(span.read_stop - span.read_start <= size + 2 for span, size in zip(piece, sizes, strict=True))
        return upsampled(x[(..., *(slice(span.read_start, span.read_stop) for span in piece))], 2)

    cuts = [Cut(sizes[0], 2, 0), Cut(sizes[1], 1, 1), Cut(sizes[2], 1, 1)]
    made = computed((5, 7, 9), cuts, compute, first=2, factors=(1, 2, 3))
    assert torch.equal(made, upsampled(x, 2))


class Sums:
    """A network with a memory: running sums of every two places, which looks ``ahead`` places ahead."""

    def __init__(self, ahead=0):
        self.ahead, self.pieces = ahead, []

    def push(self, piece, state, last, steps):
        self.pieces.append((piece.tolist(), last, steps))
        total, rest = state
        piece = torch.cat([rest, piece])
        count = max(0, len(piece) - (0 if last else self.ahead)) // 2
        made = total + piece[: 2 * count].view(count, 2).sum(1).cumsum(0)
        return made[:steps], ((made[-1] if count else total), piece[2 * count :])

    def aligned(self, eager=False):
        start = (torch.tensor(0), torch.empty(0, dtype=torch.int64))
        return Aligned(self.push, start, 4, ahead=self.ahead, step=2, eager=eager)


@pytest.mark.parametrize("plan", [[11], [1] * 11, [3, 0, 8], [10, 1], [5, 5, 1]])
def test_a_network_is_given_pieces_of_one_length_at_fixed_places(plan):
    x = torch.arange(1, 12)
    network = Sums(ahead=1)
    pieces = network.aligned()
    made = [y for part in x.split(plan) for y in pieces.push(part)]
    assert pieces.waiting == 2
    made.append(pieces.advance(F.pad(pieces.rest(), (0, 1)), True))
    assert network.pieces == [([1, 2, 3, 4, 5], False, None), ([6, 7, 8, 9], False, None), ([10, 11, 0], True, None)]
    assert torch.cat(made).tolist() == [3, 10, 21, 36, 55, 66]
    assert (pieces.seen, pieces.handed) == (11, 6)


def test_an_eager_sample_is_handed_out_when_it_is_certain_and_computed_again():
    network = Sums()
    pieces = network.aligned(eager=True)
    came = [torch.cat([torch.empty(0), *pieces.push(torch.tensor([value]))]).tolist() for value in range(1, 8)]
    assert came == [[], [3], [], [10], [], [21], []]
    assert network.pieces[0] == ([1, 2, 0, 0], False, 1)
    assert network.pieces[1] == ([1, 2, 3, 4], False, None)
    assert pieces.advance(pieces.filled()).tolist() == [28]
    assert network.pieces[-1] == ([5, 6, 7, 0], False, None)


def test_what_waits_is_a_copy():
    network = Sums()
    pieces, buffer = network.aligned(), torch.tensor([1, 2, 3])
    pieces.push(buffer)
    buffer.fill_(9)
    (made,) = pieces.push(buffer)
    assert made.tolist() == [3, 3 + 3 + 9]
