"""PixelCNN beside the contract of all models: what a pixel sees, channels, conditions, several sizes, and whole trainings."""

import itertools
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.cli.main import main
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.segment import NO_CELL
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoregressive.generation import inputs_of
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models.canvases import inside, resampled
from trainers.autoregressive.models.family import TemplatePart
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.pixel_network import PixelCNNConfig
from trainers.autoregressive.models.pixelcnn import PixelCNN

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["gated", "original"]
SPECS = {
    "text": TokenSpec("text", 5, ("time",), (None,), lossless=True),
    "grey": TokenSpec("image", 4, ("height", "width"), (1, 1), lossless=True, channels=1),
    "image": TokenSpec("image", 4, ("height", "width", "channel"), (1, 1, 1), lossless=True, channels=3),
    "codes": TokenSpec("image", (3, 2), ("height", "width", "codebook"), (8, 8, None), lossless=False, channels=3),
}
SHAPES = {
    "grey": [(2, 3), (3, 2), (4, 5), (6, 2)],
    "image": [(2, 3, 3), (3, 2, 3), (4, 5, 3)],
    "codes": [(2, 3, 2), (3, 2, 2)],
}
VOCABULARY = Vocabulary(SPECS, SHAPES)


def build(trained=True, **changes):
    """A small model; its weights are as if trained, since fresh ones have layers of zeros."""
    torch.manual_seed(0)
    values = {"vocab_size": VOCABULARY.size, "context": 200, "layers": 3, "width": 24, "kernel": 3, "first_kernel": 3}
    model = PixelCNN.from_config(values | changes)
    if trained:
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def grids_for(template, rng, **shapes):
    """Random grids of the parts of a template."""
    grids = {}
    for name in template.names:
        stream = template.stream_of(name)
        known = SHAPES.get(stream)
        shape = shapes.get(name, known[rng.integers(2)] if known else (4,))
        sizes = np.array(SPECS[stream].codebook_sizes)
        grids[name] = rng.integers(0, sizes if len(sizes) > 1 else sizes[0], shape)
    return grids


def document(template, seed=0, **shapes):
    """The tokens of a random document, all but <eos>, with what is told of them."""
    template = SequenceTemplate.parse(template)
    grids = grids_for(template, np.random.default_rng(seed), **shapes)
    ids = template.document(grids, VOCABULARY).ids[:-1]
    return inputs_of(template.grammar(VOCABULARY), ids, True, torch.device("cpu"))


def canvas(height, width, channels=1):
    """A document of one token and a picture: ids of zero, and the cells."""
    places = list(itertools.product(range(height), range(width), range(channels)))
    cells = [(0, *place, height, width, channels, 0) for place in places]
    ids = torch.zeros(1, len(cells), dtype=torch.int64)
    return Inputs(ids, cells=torch.tensor(cells)[None]), places


def influence(model, inputs, place):
    """Which tokens reach the logits of a place, by gradient: bool (T,)."""
    model = model.double()
    embedded = model.embedding.weight.detach()[inputs.ids].requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), embedded)
    return gradient[0].abs().sum(-1) > 0


def reached(kind, halves):
    """The pixels that are seen, as (rows up, columns to the right): by what each layer reads, one after the other."""
    above, row = {(0, 0)}, {(0, 0)}  # of the vertical stack and of the horizontal one; of the original only the second
    for number, h in reversed(list(enumerate(halves))):
        first = number == 0
        to_left = {(0, -d) for d in range(int(first), h + 1)}
        rows_above = {(u, d) for u in range(1, h + 1) for d in range(-h, h + 1)}
        row, above = (
            plus(row, to_left | rows_above if kind == "original" else to_left),
            # What comes down into this layer, and what the vertical stack reads of the layer below.
            plus(above | row, rows_above if first else rows_above | {(0, d) for d in range(-h, h + 1)}),
        )
    return row if kind == "original" else row | above


def plus(places, steps):
    return {(u + du, d + dd) for u, d in places for du, dd in steps}


def documented(kind, halves):
    """The same as the documentation of the family says it."""
    total, largest = sum(halves), sorted(halves, reverse=True)
    seen = {(0, -d) for d in range(1, total + 1)}
    for up in range(1, total + 1):
        right = total if kind == "gated" else sum(largest[:up])
        seen |= {(up, d) for d in range(-total, right + 1)}
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "kernel", "first_kernel"), [(1, 3, 5), (3, 3, 3), (3, 3, 5), (2, 5, 5)])
def test_a_pixel_sees_what_the_documentation_says(kind, layers, kernel, first_kernel):
    model = build(kind=kind, layers=layers, kernel=kernel, first_kernel=first_kernel, width=8)
    halves = [first_kernel // 2] + [kernel // 2] * (layers - 1)
    total = model.config.field
    assert total == sum(halves)
    height, width = total + 3, 2 * total + 4
    inputs, places = canvas(height, width)
    at = (height - 1, total + 2)
    seen = influence(model, inputs, places.index((*at, 0)))
    # The first token is no pixel but the condition, the last pixel is no input.
    assert seen[0]
    found = {
        (at[0] - row, column - at[1]) for (row, column, _), one in zip(places, seen[1:].tolist(), strict=False) if one
    }
    assert found == documented(kind, halves) == reached(kind, halves)


def test_the_blind_spot_has_the_pixels_that_are_told():
    """Of four layers of 3x3 six pixels: of the row above those from the second to the right on, and so on."""
    blind = documented("gated", [1] * 4) - documented("original", [1] * 4)
    assert blind == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    for layers, half in ((2, 1), (5, 1), (3, 2), (4, 3)):
        halves = [half] * layers
        count = len(documented("gated", halves)) - len(documented("original", halves))
        assert count == half * layers * (layers - 1) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_channels_see_those_before_them(kind):
    model = build(kind=kind, channels=3)
    inputs, places = canvas(3, 3, 3)
    for channel in range(3):
        seen = influence(model, inputs, places.index((1, 1, channel)))[1:].tolist()
        found = {place for place, one in zip(places, seen, strict=False) if one}
        own = {(1, 1, before) for before in range(channel)}
        assert found == own | {place for place in places if place[:2] < (1, 1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "ids"), [((2, 2, 1), 2), ((1, 2, 3), 2), ((1, 1, 2), 4)])
def test_probabilities_of_all_pictures_sum_to_one(kind, shape, ids):
    model = build(kind=kind, channels=shape[-1], vocab_size=ids, width=12)
    inputs, places = canvas(*shape)
    pictures = torch.tensor(list(itertools.product(range(ids), repeat=len(places))))
    before = torch.cat((torch.zeros(len(pictures), 1, dtype=torch.int64), pictures[:, :-1]), 1)
    known = Inputs(before, cells=inputs.cells.expand(len(pictures), -1, -1))
    each = model.logits(known).log_softmax(-1).gather(-1, pictures[..., None])[..., 0]
    assert float(each.double().sum(1).exp().sum().detach()) == pytest.approx(1, abs=1e-5)


TEMPLATES = {
    "text -> grey": False,
    "image": False,
    "codes": False,
    "grey -> image": True,
    "text image grey": True,
    "grey image -> codes": True,
}
"""And whether an earlier grid is a condition."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEMPLATES)
def test_drawing_equals_the_whole(kind, text):
    """Documents of different sizes in one batch, padded on the left, token by token and in pieces, beside each by itself."""
    model = build(kind=kind, channels=3, grid_condition=TEMPLATES[text])
    rows = [document(text, seed) for seed in range(3)]
    alone = [model.logits(row)[0] for row in rows]
    lengths = [row.ids.shape[1] for row in rows]
    longest = max(lengths)
    padding = torch.tensor([longest - length for length in lengths])
    ids = torch.stack(
        [torch.cat((torch.full((longest - n,), 3), row.ids[0])) for row, n in zip(rows, lengths, strict=True)]
    )
    cells = torch.stack(
        [
            torch.cat((torch.tensor([NO_CELL] * (longest - n), dtype=torch.int64).view(-1, 8), row.cells[0]))
            for row, n in zip(rows, lengths, strict=True)
        ]
    )
    middle = longest // 2
    cuts = [0, 2, middle // 2, middle, *range(middle + 1, longest - 3), longest]
    cache = model.new_cache(3, longest, left_padding=padding)
    found = [
        model.step(Inputs(ids[:, start:stop], cells=cells[:, start:stop]), cache)
        for start, stop in itertools.pairwise(cuts)
    ]
    for row, whole in enumerate(alone):
        torch.testing.assert_close(torch.cat(found, 1)[row, longest - len(whole) :], whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_leave_change_nothing_for_the_others(kind):
    model = build(kind=kind, channels=3, grid_condition=True)
    rows = [document("grey -> image", seed, image=(2, 3, 3), grey=(3, 2)) for seed in range(3)]
    length = rows[0].ids.shape[1]
    ids, cells = torch.cat([row.ids for row in rows]), torch.cat([row.cells for row in rows])
    cache = model.new_cache(3, length)
    model.step(Inputs(ids[:, :14], cells=cells[:, :14]), cache)
    kept = torch.tensor([2, 0])
    cache = cache.select(kept)
    for place in range(14, length):
        found = model.step(Inputs(ids[kept, place, None], cells=cells[kept, place, None]), cache)
        for at, row in enumerate(kept.tolist()):
            torch.testing.assert_close(found[at], model.logits(rows[row])[0, place, None], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_of_several_sizes_equal_each_by_itself(kind):
    model = build(kind=kind, channels=3, grid_condition=True)
    every = [document("grey -> image", seed) for seed in range(4)]
    packed = Inputs(
        torch.cat([one.ids for one in every], 1),
        None,
        torch.cat([torch.full_like(one.ids, number) for number, one in enumerate(every)], 1),
        cells=torch.cat([one.cells for one in every], 1),
    )
    model.config = replace(model.config, context=packed.ids.shape[1])
    assert len({tuple(one.cells[0, -2, 4:7].tolist()) for one in every}) > 1
    expected = torch.cat([model.logits(one) for one in every], 1)
    torch.testing.assert_close(model.logits(packed), expected, atol=1e-5, rtol=1e-5)


def test_a_step_does_not_compute_more_the_more_is_drawn():
    """By counting what convolutions give: of a pixel in the middle of the third row and in the middle of the last."""
    model = build()
    inputs, places = canvas(12, 6)
    cache, count, counts = model.new_cache(1, len(places)), 0, []

    def add(module, given, result):
        nonlocal count
        count += result.numel()

    for module in model.modules():
        if not list(module.children()) or type(module).__name__ == "RowConv":
            module.register_forward_hook(add)
    for place in range(len(places)):
        count = 0
        model.step(Inputs(inputs.ids[:, place, None], cells=inputs.cells[:, place, None]), cache)
        counts.append(count)
    by_row = np.array(counts).reshape(12, 6)
    # What comes down into a row is computed with its first pixel.
    assert (by_row[1:] == by_row[1]).all()
    assert (by_row[1:, 1:] == by_row[1, 1]).all()
    assert by_row[1, 0] > by_row[1, 1]


def test_the_condition_is_seen_where_it_is():
    """A picture of twice the size: the pixels of the condition around the own one are seen, others are not; all are a label's."""
    model = build(layers=1, grid_condition=True, channels=3)
    inputs = document("text grey -> image", text=(1,), grey=(6, 2), image=(4, 5, 3))
    cells = inputs.cells[0].tolist()
    place = cells.index([2, 2, 1, 0, 4, 5, 3, 0])
    seen = influence(model, inputs, place).tolist()
    own = [NO_CELL, *map(tuple, cells[:-1])]
    found = {cell[1:3] for cell, one in zip(own, seen, strict=True) if one and cell[0] == 1}
    # Row 2 of 4 covers rows 3 and 4 of 6, column 1 of 5 is inside column 0 of 2. The two convolutions of the condition reach two
    # rows and columns further: rows 0 to 4 are rows 0 to 5 of the condition and columns 0 to 3 are both of its columns.
    assert found == set(itertools.product(range(6), range(2)))
    assert all(one for cell, one in zip(own[: place + 1], seen, strict=False) if cell[0] == -1)
    small = document("grey -> image", grey=(4, 5), image=(4, 5, 3))
    place = small.cells[0].tolist().index([1, 0, 0, 0, 4, 5, 3, 0])
    own = [NO_CELL, *map(tuple, small.cells[0].tolist())]
    found = {
        cell[1:3]
        for cell, one in zip(own, influence(model, small, place).tolist(), strict=False)
        if one and cell[0] == 0
    }
    assert found == set(itertools.product(range(3), range(3)))


def test_a_condition_that_is_dropped_leaves_only_its_token():
    """A picture without its condition in one batch with one that has it, as guidance draws them."""
    vocabulary = Vocabulary(SPECS, SHAPES, ("grey",))
    template, rng = SequenceTemplate.parse("grey -> image"), np.random.default_rng(0)
    model = build(grid_condition=True, channels=3, vocab_size=vocabulary.size)
    grids = grids_for(template, rng, image=(2, 3, 3), grey=(3, 2))
    rows = []
    for given in (grids, {"image": grids["image"]}):
        ids = template.document(given, vocabulary).ids[:-1]
        rows.append(inputs_of(template.grammar(vocabulary), ids, True, torch.device("cpu")))
    whole, without = (model.logits(row)[0] for row in rows)
    assert float((whole[-18:] - without[-18:]).detach().abs().max()) > 0.01
    padding = torch.tensor([0, len(whole) - len(without)])
    begin = len(whole) - 18
    parts = [row.ids[0, : row.ids.shape[1] - 18] for row in rows]
    ids = torch.stack((parts[0], torch.cat((torch.zeros(int(padding[1]), dtype=torch.int64), parts[1]))))
    blank = torch.full((int(padding[1]), 8), -1)
    cells = torch.stack((rows[0].cells[0, :begin], torch.cat((blank, rows[1].cells[0, :-18]))))
    cache = model.new_cache(2, len(whole), left_padding=padding)
    model.step(Inputs(ids, cells=cells), cache)
    for place in range(-18, 0):
        new = [row.ids[:, place, None] for row in rows], [row.cells[:, place, None] for row in rows]
        found = model.step(Inputs(torch.cat(new[0]), cells=torch.cat(new[1])), cache)
        torch.testing.assert_close(found[0, 0], whole[place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1, 0], without[place], atol=1e-5, rtol=1e-5)


def test_a_condition_of_another_size_is_brought_to_that_of_the_picture():
    picture = torch.arange(6.0).view(1, 1, 2, 3)
    expected = picture.repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(resampled(picture, (4, 9)), expected)
    halved = torch.tensor([[[[2.0, 3.0, 4.0]]]]) - 0.5
    torch.testing.assert_close(resampled(picture, (1, 3)), halved)
    torch.testing.assert_close(resampled(picture, (2, 2)), torch.tensor([[[[1 / 3, 5 / 3], [10 / 3, 14 / 3]]]]))
    assert inside((2, 4), (2, 2), picture)[1].tolist() == [[-0.5, 0.5, -0.5, 0.5]] * 2
    assert inside((2, 4), (2, 2), picture)[0].tolist() == [[0.0] * 4] * 2


PLANE = TemplatePart("image", True, ("height", "width"), 3, False, True)
LABEL = TemplatePart("label", False, ("label",), 1, False, True)


def test_settings_follow_from_the_templates():
    grey = replace(PLANE, name="grey", depth=1)
    assert PixelCNN.settings_for([[grey]]) == {"channels": 1, "grid_condition": False}
    assert PixelCNN.settings_for([[LABEL, PLANE]]) == {"channels": 3, "grid_condition": False}
    small = replace(PLANE, predicted=False)
    assert PixelCNN.settings_for([[small, replace(PLANE, name="image#2")]]) == {"channels": 3, "grid_condition": True}
    assert PixelCNN.settings_for([[grey], [LABEL, small, grey]]) == {"channels": 3, "grid_condition": True}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [PLANE, replace(LABEL, predicted=True)],
            r"predicts pictures, and the grids of 'label' have the axes label; make 'label' a condition \(left of '->'\)",
        ),
        ([replace(PLANE, axes=("time", "height", "width"))], "the axes time, height, width"),
        ([replace(PLANE, in_grid_order=False)], "goes row by row, and 'image' has another order or layout"),
    ],
)
def test_templates_that_it_cannot_serve_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN.settings_for([parts])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel": 4}, "kernel 4 must be odd; use 5"),
        ({"width": 32, "channels": 3}, "width 32 is not a multiple of 6, twice the 3 channels that share it; use 36"),
        ({"kind": "gatd"}, "did you mean 'gated'"),
        ({"first_kernel": 1}, "first_kernel 1 must be at least 3"),
    ],
)
def test_configurations_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        PixelCNNConfig(**values)


def test_a_document_without_a_picture_is_read_and_drawn():
    model = build()
    ids, cells = torch.tensor([[1, 3, 5]]), torch.full((1, 3, 8), -1)
    whole = model.logits(Inputs(ids, cells=cells))
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(model.step(Inputs(ids, cells=cells), model.new_cache(1, 3)), whole, atol=1e-5, rtol=1e-5)


def test_parameters_are_counted_without_memory():
    with torch.device("meta"):
        model = PixelCNN.from_config({"width": 240, "channels": 3, "layers": 12, "grid_condition": True})
    small = PixelCNN.from_config({"width": 6, "channels": 3, "layers": 2, "grid_condition": True})
    assert len(list(model.parameters())) > len(list(small.parameters()))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_cells_cannot_be_left_out():
    with pytest.raises(ValueError, match="this model needs the cells of the tokens"):
        build()(torch.zeros(1, 4, dtype=torch.int64))


# The whole way, on the command line.


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Pictures of 4x4 with a label, and each at half the size and in grey besides."""
    folder = tmp_path_factory.mktemp("pixelcnn")
    (folder / "data").mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (12, 4, 4), np.uint8)
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pictures.shape)
    (folder / "data/train-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
    (folder / "data/train-labels-idx1-ubyte").write_bytes(
        bytes([0, 0, 8, 1]) + struct.pack(">I", 12) + bytes([0, 1] * 6)
    )
    Image.fromarray(pictures[0]).convert("RGB").save(folder / "prompt.png")
    PixelTokenizer(3).save(folder / "pixels")
    for command in (
        ["train", "labels", "--data", folder / "data", "--out", folder / "labels", "--names", "light", "dark"],
        [
            *("encode", "--tokenizer", folder / "labels", "--tokenizer", folder / "pixels", "--data", folder / "data"),
            *("--out", folder / "shards", "--view", "small=resize:2", "--view", "grey=grey"),
        ],
    ):
        assert main([str(word) for word in command]) == 0
    (folder / "family.json").write_text('{"layers": 2, "width": 12, "kernel": 3, "first_kernel": 3}')
    return folder


def train(shards, out, template, *more):
    return main(
        [
            *("train", "transformer", "--family", "pixelcnn", "--family-config", str(shards / "family.json")),
            *("--shards", str(shards / "shards"), "--template", template, "--out", str(out), "--device", "cpu"),
            *("--precision", "32-true", "--steps", "2", "--batch-size", "2", "--validate-every", "2"),
            *("--validation-fraction", "0.2", *more),
        ]
    )


@pytest.mark.parametrize(
    ("template", "prompt", "settings"),
    [
        ("image", [], {"channels": 3, "grid_condition": False}),
        ("label -> image", ["--prompt", "dark"], {"channels": 3, "grid_condition": False}),
        ("image@small -> image", ["--prompt-file", "prompt.png"], {"channels": 3, "grid_condition": True}),
        ("image@grey -> image", ["--prompt-file", "prompt.png"], {"channels": 3, "grid_condition": True}),
    ],
)
def test_pictures_are_drawn_by_the_commands(shards, tmp_path, template, prompt, settings):
    assert train(shards, tmp_path / "model", template) == 0
    loaded = load_model(str(tmp_path / "model"))
    assert {name: getattr(loaded.model.config, name) for name in settings} == settings
    if prompt[:1] == ["--prompt-file"]:
        prompt = [prompt[0], str(shards / prompt[1])]
    command = ["generate", "--model", str(tmp_path / "model"), "--count", "2", "--out", str(tmp_path / "out")]
    assert main([*command, *prompt]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert loaded.template.parse_ids(line["ids"], loaded.vocabulary)["image"].shape == (4, 4, 3)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_a_template_that_it_cannot_serve_is_refused_by_the_command(shards, tmp_path, capsys):
    assert train(shards, tmp_path / "model", "image -> label") == 1
    assert "--family pixelcnn: a PixelCNN predicts pictures, and the grids of 'label'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_training_learns_from_the_aligned_condition():
    """Where the colour is that of the condition at the same place, some steps make it nearly certain."""
    torch.manual_seed(0)
    model = PixelCNN.from_config(
        {
            "vocab_size": VOCABULARY.size,
            "context": 60,
            "layers": 1,
            "width": 16,
            "first_kernel": 3,
            "grid_condition": True,
        }
    )
    template = SequenceTemplate.parse("grey grey")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        grid = rng.integers(0, 4, (4, 5))
        ids = template.document({"grey": grid, "grey#2": (grid + 1) % 4}, VOCABULARY).ids
        rows.append(
            (inputs_of(template.grammar(VOCABULARY), ids[:-1], True, torch.device("cpu")), torch.tensor(ids[1:]))
        )
    inputs = Inputs(torch.cat([row.ids for row, _ in rows]), cells=torch.cat([row.cells for row, _ in rows]))
    labels = torch.stack([label for _, label in rows])
    second = (inputs.cells[..., 0] == 1).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        loss = model.loss(inputs, labels, second)
        (loss.total / loss.weight).backward()
        optimizer.step()
    assert float(loss.nll / loss.weight) < 0.15
