"""Learned codebooks: gradients of each loss, averages, the start, dead codes, residuals; and the search under them."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import mse_loss
from vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer
from tokenize_kit.tokenizers.learned.quantizers.nearest import _pieces, highest, nearest_angle, nearest_code
from tokenize_kit.tokenizers.learned.quantizers.rotation import rotated


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(kind, dim=4, **options):
    torch.manual_seed(0)
    return build_quantizer(QuantizerConfig(kind, **options), dim)


def as_rows(z):
    return z.movedim(1, -1).flatten(0, -2)


# ---- search


@pytest.mark.parametrize(
    ("size", "dim", "count"), [(2, 3, 1), (256, 4, 2100), (1000, 5, 530), (16384, 2, 70), (70000, 1, 9)]
)
def test_search_equals_the_plain_one_with_ties_to_the_lowest_id(size, dim, count):
    # Small whole numbers: every distance is exact and many are equal.
    generator = torch.Generator().manual_seed(size)
    codes = torch.randint(-4, 5, (size, dim), generator=generator).float()
    vectors = torch.randint(-4, 5, (count, dim), generator=generator).float()
    plain = torch.stack([(codes - vector).square().sum(1).argmin() for vector in vectors])
    assert torch.equal(nearest_code(vectors, codes), plain)


def test_search_finds_the_nearest_of_arbitrary_codes():
    codes, vectors = latents(3000, 16, seed=1), latents(700, 16, seed=2)
    exact = torch.cdist(vectors.double(), codes.double())
    found = exact.gather(1, nearest_code(vectors, codes)[:, None])[:, 0]
    assert torch.allclose(found, exact.amin(1), rtol=1e-6, atol=0)


def test_search_by_angle_ignores_lengths():
    codes = torch.nn.functional.normalize(latents(500, 8), dim=1)
    vectors = latents(300, 8, seed=1)
    ids = nearest_angle(vectors, codes)
    assert torch.equal(ids, nearest_angle(vectors * 64, codes))
    cosines = torch.nn.functional.normalize(vectors.double(), dim=1) @ codes.double().t()
    assert torch.allclose(cosines.gather(1, ids[:, None])[:, 0], cosines.amax(1), rtol=1e-6, atol=0)


def test_no_piece_is_too_short_unless_there_is_no_more():
    # A matrix product of one to three rows differs in the last bit from the same rows among others.
    assert _pieces(33, 32) == [(0, 33)]
    assert _pieces(39, 16) == [(0, 16), (16, 39)]
    assert _pieces(40, 16) == [(0, 16), (16, 32), (32, 40)]
    assert _pieces(3, 16) == [(0, 3)]
    assert _pieces(0, 16) == []


def test_highest_takes_the_first_of_equals():
    assert highest(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])).tolist() == [1, 0]


# ---- gradients


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "vq", "codebook_size": 8, "codebook_update": "gradient"},
        {"kind": "vq", "codebook_size": 8, "codebook_update": "gradient", "l2_normalised": True},
        {"kind": "simvq", "codebook_size": 8},
        {"kind": "rvq", "codebook_size": 8, "codebooks": 2, "codebook_update": "gradient"},
    ],
)
def test_commitment_reaches_only_the_encoder_and_codebook_only_the_codebook(options):
    quantizer = built(**options)
    z = latents(4, 4, 5).requires_grad_()
    parameters = list(quantizer.parameters())
    losses = quantizer(z).losses
    commitment = torch.autograd.grad(losses["commitment"], [z, *parameters], allow_unused=True, retain_graph=True)
    codebook = torch.autograd.grad(losses["codebook"], [z, *parameters], allow_unused=True)
    assert commitment[0].abs().sum() > 0
    assert all(gradient is None or not gradient.any() for gradient in commitment[1:])
    assert codebook[0] is None or not codebook[0].any()
    assert all(gradient.abs().sum() > 0 for gradient in codebook[1:])


def test_losses_of_vq_are_the_mean_squares_with_their_gradients():
    quantizer = built("vq", codebook_size=8, codebook_update="gradient", kmeans_init=False, dead_code_threshold=0.0)
    z = latents(4, 4, 5).requires_grad_()
    _, ids, losses = quantizer(z)
    table = quantizer.codebook.codes
    rows = as_rows(z)
    difference = (rows - table[ids.flatten()]).detach()
    assert torch.allclose(losses["commitment"], difference.square().mean())
    assert torch.allclose(losses["codebook"], difference.square().mean())
    pulled = torch.autograd.grad(losses["commitment"], z)[0]
    assert torch.allclose(as_rows(pulled), 2 * difference / difference.numel())
    moved = torch.autograd.grad(losses["codebook"], table)[0]
    expected = torch.zeros_like(table).index_add_(0, ids.flatten(), -2 * difference / difference.numel())
    assert torch.allclose(moved, expected)


@pytest.mark.parametrize("kind", ["vq", "simvq", "rvq"])
def test_straight_through_hands_the_gradient_on_as_it_is(kind):
    quantizer = built(kind, codebook_size=8)
    z = latents(4, 4, 5).requires_grad_()
    weights = latents(4, 4, 5, seed=3)
    (quantizer(z).codes * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_rotation_trick_equals_the_formula():
    z, codes, weights = latents(50, 6, seed=1).requires_grad_(), latents(50, 6, seed=2), latents(50, 6, seed=3)
    out = rotated(z, codes)
    assert torch.equal(out, codes)
    ours = torch.autograd.grad((out * weights).sum(), z)[0]
    for row in range(50):
        e, q = z[row].detach().double(), codes[row].double()
        start, goal = e / e.norm(), q / q.norm()
        r = (start + goal) / (start + goal).norm()
        turn = torch.eye(6).double() - 2 * torch.outer(r, r) + 2 * torch.outer(goal, start)
        assert torch.allclose(q.norm() / e.norm() * turn @ e, q)
        assert torch.allclose(ours[row].double(), q.norm() / e.norm() * turn.t() @ weights[row].double(), atol=1e-5)
    theirs = torch.autograd.grad((rotate_to(z, codes) * weights).sum(), z)[0]
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kind", ["vq", "simvq", "rvq"])
def test_rotation_trick_changes_the_gradient_and_not_the_codes(kind):
    z = latents(4, 4, 5).requires_grad_()
    results = []
    for trick in (False, True):
        codes = built(kind, codebook_size=8, rotation_trick=trick)(z).codes
        results.append((codes, torch.autograd.grad(codes.square().sum(), z)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


# ---- averages, start, dead codes


def test_moving_averages_equal_the_reference():
    count, size = 400, 16
    ours = built("vq", dim=5, codebook_size=size, kmeans_init=False, dead_code_threshold=0.0, ema_decay=0.9)
    theirs = VectorQuantize(5, size, decay=0.9, eps=1e-12, rotation_trick=False)
    book = theirs._codebook
    book.embed.copy_(ours.codebook.codes[None])
    # Our shares start equal, so each code weighs as much as count / size vectors.
    book.cluster_size.fill_(count / size)
    book.embed_avg.copy_(book.embed * count / size)
    for step in range(20):
        z = latents(1, 5, count, seed=step) + 2
        result, (codes, ids, _) = ours(z), theirs(z.mT)
        assert torch.equal(result.ids, ids)
        assert torch.allclose(result.codes.mT, codes, atol=1e-5)
        assert torch.allclose(ours.codebook.codes, book.embed[0], atol=1e-5)
        assert torch.allclose(ours.codebook.shares * count, book.cluster_size[0], atol=1e-3)


def test_an_unused_code_stays_where_it_is():
    quantizer = built("vq", codebook_size=3, kmeans_init=False, dead_code_threshold=0.0)
    far = torch.tensor([100.0, 100.0, 100.0, 100.0])
    quantizer.codebook.codes[1] = far
    for step in range(500):
        quantizer(latents(1, 4, 10, seed=step))
    assert torch.equal(quantizer.codebook.codes[1], far)
    assert quantizer.codebook.codes.isfinite().all()


def clusters(count=200, seed=0):
    """Points around the four corners of a square, (1, 2, count), far tighter than apart."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[5.0, 5.0], [5.0, -5.0], [-5.0, 5.0], [-5.0, -5.0]])
    places = corners[torch.arange(count) % 4] + 0.05 * torch.randn(count, 2, generator=generator)
    return places.t()[None]


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_kmeans_start_survives_the_average(update):
    torch.manual_seed(3)
    quantizer = built("vq", dim=2, codebook_size=16, codebook_update=update)
    assert not quantizer.codebook.initialised
    quantizer(clusters())
    assert quantizer.codebook.initialised
    start = quantizer.codebook.codes.detach().clone()
    assert ((start.abs() - 5).abs() < 0.3).all()
    assert math.isclose(float(quantizer.codebook.shares.sum()), 1, abs_tol=1e-5)
    for step in range(1, 6):
        error = quantizer(clusters(seed=step)).losses["commitment"]
        assert error < 0.01
    # No code leaves its corner: an average that began elsewhere would have pulled all of them.
    assert torch.equal(quantizer.codebook.codes.sign(), start.sign())
    assert ((quantizer.codebook.codes.abs() - 5).abs() < 0.3).all()


def test_kmeans_start_lowers_the_error_to_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    z = latents(1, 3, 2000)
    quantizer = built("vq", dim=3, codebook_size=32)
    quantizer(z)
    quantizer.eval()
    error = mse_loss(quantizer(z).codes, z) * 3
    best = KMeans(32, n_init=1, max_iter=10, init="random", random_state=0).fit(z[0].t().numpy()).inertia_ / 2000
    assert error < 1.1 * best


def test_a_resumed_run_does_not_start_again():
    quantizer, resumed = (built("vq", dim=2, codebook_size=8, dead_code_threshold=0.0) for _ in range(2))
    quantizer(clusters())
    resumed.load_state_dict(quantizer.state_dict())
    before = resumed.codebook.codes.clone()
    resumed(clusters(seed=1) + 3)
    # One update of decay 0.99 moves a code by at most a hundredth of the way; another k-means start would jump by 3.
    assert (resumed.codebook.codes - before).abs().max() < 0.2


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("l2_normalised", [False, True])
def test_replaced_codes_survive_the_update(update, l2_normalised):
    quantizer = built("vq", codebook_size=6, codebook_update=update, l2_normalised=l2_normalised, kmeans_init=False)
    book = quantizer.codebook
    with torch.no_grad():
        book.codes[4] = torch.tensor([-9.0, -9.0, -9.0, 9.0])
        book.shares[4] = 0.0
    z = latents(1, 4, 300, seed=5)
    ids = quantizer(z).ids
    # The code lies at (or a hundredth of the way from) a vector of the batch, it is used at once, and its share is fair.
    nearest = torch.cdist(book.codes[4:5].detach(), book.prepared(as_rows(z))).min()
    assert nearest < 0.05
    assert (ids == 4).any()
    assert 0.5 / 6 < book.shares[4] < 2 / 6
    kept = book.codes[4].detach().clone()
    quantizer(latents(1, 4, 300, seed=6))
    assert (book.codes[4] - kept).abs().max() < 0.1


def test_dead_codes_are_judged_by_their_part_of_an_equal_share():
    quantizer = built("vq", codebook_size=4, kmeans_init=False, dead_code_threshold=0.2)
    quantizer.codebook.shares.copy_(torch.tensor([0.6, 0.3, 0.051, 0.049]))
    before = quantizer.codebook.codes.clone()
    with torch.no_grad():
        quantizer.codebook.before_search(latents(50, 4, seed=1))
    changed = (quantizer.codebook.codes != before).any(1)
    assert changed.tolist() == [False, False, False, True]
    assert quantizer.codebook.shares[3] == 0.25


def test_more_dead_codes_than_vectors_replace_as_many_as_there_are():
    quantizer = built("vq", codebook_size=32, kmeans_init=False)
    quantizer.codebook.shares.zero_()
    before = quantizer.codebook.codes.clone()
    with torch.no_grad():
        quantizer.codebook.before_search(latents(5, 4, seed=1))
    assert int((quantizer.codebook.codes != before).any(1).sum()) == 5
    assert len(quantizer.codebook.codes.unique(dim=0)) == 32


def test_dead_codes_come_back_into_use():
    def used(threshold):
        quantizer = built("vq", dim=2, codebook_size=32, kmeans_init=False, dead_code_threshold=threshold)
        with torch.no_grad():
            quantizer.codebook.codes += 20
        for step in range(30):
            torch.manual_seed(step)
            quantizer(latents(1, 2, 500, seed=step))
            quantizer.codebook.shares[quantizer.codebook.shares < 0.025] = 0
        quantizer.eval()
        return len(quantizer.encode(latents(1, 2, 2000, seed=99)).unique())

    assert used(0.1) >= 28
    assert used(0.0) < 16


# ---- simvq


def test_simvq_equals_the_reference_without_the_bias():
    ours = built("simvq", dim=6, codebook_size=40)
    theirs = SimVQ(6, 40, rotation_trick=False, input_to_quantize_commit_loss_weight=0.25)
    theirs.frozen_codebook.copy_(ours.frozen)
    theirs.code_transform.weight.data.copy_(ours.transform.weight.data)
    ours.transform.bias.data.zero_()
    z = latents(3, 6, 50)
    codes, ids, losses = ours(z)
    their_codes, their_ids, their_loss = theirs(z.mT)
    assert torch.equal(ids, their_ids)
    assert torch.allclose(codes.mT, their_codes, atol=1e-6)
    assert torch.allclose(losses["codebook"] + 0.25 * losses["commitment"], their_loss)


def test_simvq_starts_with_codes_of_the_papers_spread_and_moves_them_all():
    quantizer = built("simvq", dim=64, codebook_size=2000)
    assert math.isclose(float(quantizer.frozen.std()), 64**-0.5, rel_tol=0.01)
    assert not quantizer.frozen.requires_grad
    before = quantizer.transform(quantizer.frozen).detach()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    losses = quantizer(latents(1, 64, 3)).losses
    losses["codebook"].backward()
    optimizer.step()
    assert ((quantizer.transform(quantizer.frozen) - before).norm(dim=1) > 0).all()


# ---- rvq


def test_rvq_equals_the_reference():
    ours = built("rvq", dim=5, codebook_size=12, codebooks=3, kmeans_init=False).eval()
    theirs = ResidualVQ(dim=5, codebook_size=12, num_quantizers=3, rotation_trick=False).eval()
    for layer, peer in zip(ours.layers, theirs.layers, strict=True):
        peer._codebook.embed.copy_(layer.codebook.codes[None])
    z = latents(3, 5, 40)
    codes, ids, _ = ours(z)
    their_codes, their_ids, _ = theirs(z.mT)
    assert torch.equal(ids, their_ids)
    assert torch.allclose(codes.mT, their_codes, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"codebook_dim": 2, "codebook_update": "gradient"}])
def test_first_codebooks_are_the_same_whatever_was_asked_for(options):
    whole = built("rvq", codebook_size=8, codebooks=4, **options)
    whole(latents(8, 4, 20))
    whole.eval()
    short = built("rvq", codebook_size=8, codebooks=2, **options).eval()
    short.load_state_dict({n: t for n, t in whole.state_dict().items() if n.startswith(("layers.0", "layers.1"))})
    z = latents(3, 4, 7, seed=1)
    ids = whole.encode(z)
    assert torch.equal(ids[..., :2], short.encode(z))
    assert torch.equal(whole.decode(ids[..., :2]), short.decode(ids[..., :2]))


def test_each_further_codebook_lowers_the_error():
    quantizer = built("rvq", codebook_size=16, codebooks=4)
    z = latents(4, 4, 100)
    quantizer(z)
    ids = quantizer.eval().encode(z)
    errors = [float(mse_loss(quantizer.decode(ids[..., : n + 1]), z)) for n in range(4)]
    assert all(after < 0.8 * before for before, after in pairwise(errors))


@pytest.mark.parametrize("count", [0, 4])
def test_decoding_a_wrong_number_of_codebooks_is_refused(count):
    quantizer = built("rvq", codebook_size=8, codebooks=3).eval()
    with pytest.raises(ValueError, match="1 to 3 codebooks"):
        quantizer.decode(torch.zeros(1, 5, count, dtype=torch.int64))


def test_commitment_of_every_codebook_reaches_the_encoder():
    quantizer = built("rvq", codebook_size=8, codebooks=3, codebook_update="gradient", kmeans_init=False)
    z = latents(2, 4, 6).requires_grad_()
    _, ids, losses = quantizer(z)
    residual, expected = as_rows(z).detach(), torch.zeros(12, 4)
    for layer, column in zip(quantizer.layers, ids.flatten(0, -2).unbind(1), strict=True):
        residual = residual - layer.codebook.codes[column].detach()
        expected += 2 * residual / residual.numel() / 3
    # With an attached residual only the first codebook's part would be left.
    assert torch.allclose(as_rows(torch.autograd.grad(losses["commitment"], z)[0]), expected, atol=1e-7)


def test_the_reference_passes_the_decoders_gradient_once_for_each_codebook():
    # Why ours is not the sum of its layers' straight-through results; if this fails, the reference was repaired.
    theirs = ResidualVQ(dim=4, codebook_size=8, num_quantizers=3, rotation_trick=False)
    z = latents(2, 6, 4).requires_grad_()
    theirs(z)[0].sum().backward()
    assert torch.allclose(z.grad, torch.full_like(z, 3.0))


def test_gradients_of_projected_codebooks_go_the_way_of_the_values():
    # With square linear layers that undo each other each codebook is one without layers: the gradient passes once.
    quantizer = built("rvq", codebook_size=8, codebooks=3, codebook_dim=4, kmeans_init=False)
    for layer in quantizer.layers:
        for linear in (layer.project_in, layer.project_out):
            linear.weight.data.copy_(torch.eye(4))
            linear.bias.data.zero_()
    z = latents(2, 4, 6).requires_grad_()
    weights = latents(2, 4, 6, seed=1)
    (quantizer(z).codes * weights).sum().backward()
    assert torch.allclose(z.grad, weights, atol=1e-6)


def test_quantizer_dropout_uses_prefixes_a_sample_each_in_training_only():
    quantizer = built(
        "rvq", codebook_size=16, codebooks=4, quantizer_dropout=1.0, kmeans_init=False, ema_decay=0.999999
    )
    z = latents(64, 4, 5)
    codes, ids, _ = quantizer(z)
    depths = []
    for sample in range(64):
        fits = [
            n
            for n in range(1, 5)
            if torch.allclose(quantizer.decode(ids[sample, None, :, :n])[0], codes[sample], atol=1e-4)
        ]
        assert len(fits) == 1
        depths += fits
    assert set(depths) == {1, 2, 3, 4}
    assert max(depths.count(n) for n in range(1, 5)) < 32
    quantizer.eval()
    codes, ids, _ = quantizer(z)
    assert torch.equal(quantizer.decode(ids), codes)


def test_dropped_samples_do_not_move_the_codebooks_they_do_not_use():
    quantizer = built(
        "rvq", codebook_size=4, codebooks=2, quantizer_dropout=1.0, kmeans_init=False, dead_code_threshold=0.0
    )
    seen = []
    for layer in quantizer.layers:
        layer.codebook.after_search = lambda vectors, ids: seen.append(len(vectors))
    quantizer(latents(400, 4, 3))
    assert seen[0] == 1200
    assert 450 < seen[1] < 750
    assert seen[1] % 3 == 0
