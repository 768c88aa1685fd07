"""Pixels and palettes: the exact table against direct distances and scikit-learn, and the fitting of palettes."""

import json
import math
import pickle
import tarfile
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.cluster import MiniBatchKMeans

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.media.image import read_image
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.image import colors as colors_module
from tokenize_kit.tokenizers.image.colors import COLOR_SPACES, OKLAB_STEPS, NearestColor, colors_at, coordinates
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer, PixelTokenizer
from trainers.palette.train import TrainPaletteOptions, train_palette


def random_colors(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, count), dtype=np.uint8)


def obvious_nearest(colors, palette, space):
    """Every distance, as exact integers; argmin takes the first of equals."""
    points, centres = coordinates(colors, space).astype(np.int64), coordinates(palette, space).astype(np.int64)
    distances = ((points[:, :, None] - centres[:, None, :]) ** 2).sum(axis=0)
    return distances.argmin(axis=1)


@pytest.fixture(scope="module")
def emoji_pictures(emoji_tar):
    with tarfile.open(emoji_tar) as archive:
        names = [name for name in archive.getnames() if name.endswith(".png")][::30]
        return [read_image(archive.extractfile(name).read(), 3) for name in names]


@pytest.mark.parametrize("space", COLOR_SPACES)
@pytest.mark.parametrize("size", [1, 2, 7, 256, 257])
def test_the_whole_table_is_the_direct_computation(space, size):
    palette = random_colors(size, seed=size)
    if size == 7:
        palette[:, 5] = palette[:, 2]  # of equal colours the first wins
    table = NearestColor(palette, space).complete(threads=2)
    assert table.dtype == (np.uint8 if size <= 256 else np.uint16)
    packed = np.concatenate([np.random.default_rng(1).integers(0, 1 << 24, 40_000), [0, (1 << 24) - 1]])
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255]).astype(np.uint8)
    assert np.array_equal(table[packed], obvious_nearest(colors, palette, space))


def test_clustered_palettes_and_ties():
    # Many colours in one corner, and a lattice on which most colours are equally far from several.
    corner = random_colors(300, seed=3) // 8
    lattice = np.indices((5, 5, 5)).reshape(3, -1).astype(np.uint8) * 60
    colors = random_colors(20_000, seed=4)
    for palette in (corner, lattice):
        assert np.array_equal(NearestColor(palette, "rgb")(colors), obvious_nearest(colors, palette, "rgb"))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(COLOR_SPACES), st.integers(1, 300))
def test_a_lazily_filled_table_gives_the_same(size, seed, space, pixels):
    palette, colors = random_colors(size, seed), random_colors(pixels, seed + 1)
    nearest = NearestColor(palette, space)
    for start in range(0, pixels, 100):
        part = np.ascontiguousarray(colors[:, start : start + 100])
        assert np.array_equal(nearest(part), obvious_nearest(part, palette, space))


def test_one_small_picture_does_not_pay_for_the_table():
    nearest = NearestColor(random_colors(16), "rgb")
    nearest(np.zeros((3, 100), np.uint8))
    assert int(nearest._ready.sum()) == 1
    assert not nearest._complete
    nearest(random_colors(30_000))
    assert nearest._complete
    assert nearest._ready.all()


def test_threads_and_chunks_do_not_change_ids(monkeypatch):
    monkeypatch.setattr(colors_module, "_PIXELS_PER_THREAD", 1000)
    nearest = NearestColor(random_colors(50), "oklab")
    colors = random_colors(2 * colors_module._CHUNK + 77)
    one = nearest(colors)
    assert np.array_equal(one, nearest(colors, threads=3))
    assert np.array_equal(one, NearestColor(random_colors(50), "oklab")(colors, threads=4))


def test_ids_are_those_of_scikit_learn(emoji_pictures):
    """In float64 and float32: all distances are whole numbers below 2^24, so there is nothing to round."""
    pixels = torch.cat([picture.reshape(3, -1) for picture in emoji_pictures[::4]], dim=1)
    for dtype in (np.float64, np.float32):
        rows = pixels.T.numpy().astype(dtype)
        fitted = MiniBatchKMeans(64, random_state=0, n_init=1, max_iter=2).fit(rows)
        centres = fitted.cluster_centers_.round()
        fitted.cluster_centers_ = centres
        tokenizer = PaletteTokenizer(torch.from_numpy(centres.astype(np.uint8)))
        ids = tokenizer.encode(pixels.reshape(3, 1, -1))
        assert np.array_equal(ids[0].numpy(), fitted.predict(rows))


def test_oklab_is_that_of_its_author():
    # Reference values published with the definition: white, and the three primaries of sRGB.
    published = {
        (255, 255, 255): (1.0, 0.0, 0.0),
        (255, 0, 0): (0.6279554, 0.2248631, 0.1258463),
        (0, 255, 0): (0.8664396, -0.2338874, 0.1794985),
        (0, 0, 255): (0.4520137, -0.0324570, -0.3115281),
    }
    got = coordinates(np.array(list(published), np.uint8).T, "oklab").T / OKLAB_STEPS
    assert np.abs(got - np.array(list(published.values()))).max() < 1e-4


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_coordinates_and_back(space):
    colors = random_colors(20_000, seed=9)
    assert np.array_equal(colors_at(coordinates(colors, space), space), colors)
    assert colors_at(np.array([[1e9], [-1e9], [0.0]]), "rgb")[:, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_lossless_in_row_column_channel_order(make_picture, channels):
    tokenizer = PixelTokenizer(channels)
    picture = make_picture(channels, 3, 5)
    ids = tokenizer.encode(picture)
    assert ids.dtype == torch.int64
    assert tokenizer.spec.axes == (("height", "width") if channels == 1 else ("height", "width", "channel"))
    flat = [int(picture[c, y, x]) for y in range(3) for x in range(5) for c in range(channels)]
    assert ids.reshape(-1).tolist() == flat
    back = tokenizer.decode(ids)
    assert torch.equal(back, picture)
    assert back.dtype == torch.uint8
    assert back.is_contiguous()


def test_the_four_kinds_of_pixel_tokenizers_differ():
    assert len({PixelTokenizer(channels).fingerprint for channels in (1, 3, 4)}) == 3
    for channels in (0, 2, 5, True):
        with pytest.raises(ValueError, match=f"channels {channels!r}"):
            PixelTokenizer(channels)
    with pytest.raises(ValueError, match="3 channels last"):
        PixelTokenizer(3).decode(torch.zeros(2, 2, 4, dtype=torch.int64))


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_palette_encodes_to_the_nearest_and_decodes_to_its_colours(emoji_pictures, space):
    palette = random_colors(100, seed=5)
    tokenizer = PaletteTokenizer(torch.from_numpy(palette.T.copy()), space)
    for picture in emoji_pictures[:5]:
        ids = tokenizer.encode(picture)
        assert ids.shape == picture.shape[1:]
        expected = obvious_nearest(picture.reshape(3, -1).numpy(), palette, space)
        assert np.array_equal(ids.reshape(-1).numpy(), expected)
        decoded = tokenizer.decode(ids)
        assert np.array_equal(decoded.reshape(3, -1).numpy(), palette[:, expected])
        # Colours of the palette stand for themselves.
        assert torch.equal(tokenizer.decode(tokenizer.encode(decoded)), decoded)


def test_views_of_pictures_are_read_as_they_look(make_picture):
    tokenizer = PaletteTokenizer(random_colors(20).T.tolist())
    picture = make_picture(3, 12, 10)
    for view in (picture.flip(2), picture.transpose(1, 2), picture[:, ::2, 1:-1], picture[:1].expand(3, -1, -1)):
        assert torch.equal(tokenizer.encode(view), tokenizer.encode(view.clone().contiguous()))


@pytest.mark.parametrize(
    ("colors", "space", "kind", "message"),
    [
        ([[0.5, 1, 2]], "rgb", TypeError, "round them"),
        ([[0, 1]], "rgb", ValueError, r"shape \(1, 2\)"),
        (torch.zeros(0, 3, dtype=torch.uint8), "rgb", ValueError, r"shape \(0, 3\)"),
        (torch.zeros(65_537, 3, dtype=torch.uint8), "rgb", ValueError, "65,536"),
        ([[0, 1, 256]], "rgb", ValueError, "from 0 to 256"),
        ([[0, -1, 2]], "rgb", ValueError, "from -1 to 2"),
        ([[0, 1, 2]], "lab", ValueError, "'lab' is not one of rgb, oklab"),
    ],
)
def test_wrong_palettes_are_refused(colors, space, kind, message):
    with pytest.raises(kind, match=message):
        PaletteTokenizer(colors, space)


def test_a_palette_cannot_be_changed_from_outside():
    source = torch.zeros(2, 3, dtype=torch.uint8)
    tokenizer = PaletteTokenizer(source)
    source += 9
    tokenizer.colors[:] = 7
    assert tokenizer.colors.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_fingerprint_depends_on_colours_order_and_space():
    colors = [[1, 2, 3], [4, 5, 6]]
    prints = {
        PaletteTokenizer(colors).fingerprint,
        PaletteTokenizer(colors[::-1]).fingerprint,
        PaletteTokenizer(colors, "oklab").fingerprint,
        PaletteTokenizer([*colors, [7, 8, 9]]).fingerprint,
    }
    assert len(prints) == 4


def test_a_tokenizer_travels_to_a_worker_without_its_table(make_picture):
    tokenizer = PaletteTokenizer(random_colors(300).T.tolist())
    ids = tokenizer.encode(make_picture())
    data = pickle.dumps(tokenizer)
    assert len(data) < 10_000
    assert torch.equal(pickle.loads(data).encode(make_picture()), ids)


# -- fitting ----------------------------------------------------------------------------------------------------------


def train(tmp_path, data, name="palette", **options):
    out = tmp_path / name
    return train_palette(TrainPaletteOptions(data=tuple(map(str, data)), out=str(out), **options), Progress(False)), out


@pytest.fixture
def picture_folder(tmp_path, emoji_pictures):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(emoji_pictures[:20]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_training_is_deterministic_and_reports_what_evaluation_finds(tmp_path, picture_folder, emoji_pictures, space):
    first, out = train(tmp_path, [picture_folder], colors=32, color_space=space, seed=3)
    again, _ = train(tmp_path, [picture_folder], "again", colors=32, color_space=space, seed=3)
    assert first.fingerprint == again.fingerprint
    tokenizer = load_tokenizer(out)
    assert tokenizer.fingerprint == first.fingerprint
    assert (tokenizer.spec.vocab_size, tokenizer.color_space) == (32, space)
    pixels = torch.cat([picture.reshape(3, 1, -1) for picture in emoji_pictures[:20]], dim=2)
    decoded = tokenizer.decode(tokenizer.encode(pixels))
    error = (pixels.double() - decoded.double()).square().mean()
    assert first.psnr == pytest.approx(10 * math.log10(255**2 / error), abs=1e-9)
    assert first.psnr > 25
    assert (first.pictures, first.pixels) == (20, pixels[0].numel())
    assert first.distinct_colors == len(torch.unique(pixels.reshape(3, -1), dim=1).T)


def test_fitting_is_no_worse_than_mini_batches(tmp_path, picture_folder, emoji_pictures):
    ours, _ = train(tmp_path, [picture_folder], colors=32)
    rows = torch.cat([picture.reshape(3, -1) for picture in emoji_pictures[:20]], dim=1).T.double().numpy()
    theirs = MiniBatchKMeans(32, random_state=0, n_init=3).fit(rows)
    error = ((rows - theirs.cluster_centers_[theirs.predict(rows)].round()) ** 2).mean()
    assert ours.psnr > 10 * math.log10(255**2 / error) - 0.1


def test_many_colours_are_fitted_through_cells(tmp_path, monkeypatch, picture_folder):
    whole, _ = train(tmp_path, [picture_folder], "whole", colors=32)
    monkeypatch.setattr("trainers.palette.train._MAX_POINTS", 100)
    cells, _ = train(tmp_path, [picture_folder], "cells", colors=32)
    assert cells.psnr > whole.psnr - 0.3


def test_few_colours_give_a_smaller_exact_palette(tmp_path, capsys):
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 255]]], np.uint8)).save(tmp_path / "a.png")
    options = TrainPaletteOptions(data=(str(tmp_path / "a.png"),), out=str(tmp_path / "out"), colors=16)
    result = train_palette(options, Progress())
    assert (result.colors, result.psnr, result.distinct_colors) == (2, None, 2)
    assert load_tokenizer(tmp_path / "out").colors.tolist() == [[0, 0, 255], [255, 0, 0]]  # dark to light
    assert "2 colours instead of 16" in capsys.readouterr().err


def test_sources_tar_parquet_limit_and_size(tmp_path, emoji_tar, emoji_pictures):
    import pyarrow as pa
    import pyarrow.parquet as pq

    result, _ = train(tmp_path, [emoji_tar], "tar", colors=4, limit=3, image_size=8)
    assert (result.pictures, result.pixels) == (3, 3 * 64)
    files = []
    for picture in emoji_pictures[:3]:
        buffer = BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
        files.append(buffer.getvalue())
    pq.write_table(pa.table({"photo": files}), tmp_path / "a.parquet")
    result, _ = train(tmp_path, [tmp_path / "a.parquet"], "parquet", colors=4, media_field="photo")
    assert result.pictures == 3


def test_broken_pictures_are_counted_and_too_many_stop(tmp_path, picture_folder, capsys):
    (picture_folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    result, _ = train(tmp_path, [picture_folder], colors=4)
    assert (result.pictures, result.failures) == (20, 1)
    with pytest.raises(TooManyFailuresError, match=r"more than 0 .* broken\.png"):
        train(tmp_path, [picture_folder], "none", colors=4, max_failures=0)
    assert not (tmp_path / "none").exists()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.png").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="none of the 1 pictures"):
        train(tmp_path, [alone], "none", colors=4)
    with pytest.raises(FileNotFoundError):
        train(tmp_path, [tmp_path / "missing"], "none")


def test_another_palette_is_not_overwritten(tmp_path, picture_folder):
    _, out = train(tmp_path, [picture_folder], colors=4)
    before = json.loads((out / "tokenizer_config.json").read_text())
    with pytest.raises(ValueError, match="already holds another tokenizer"):
        train(tmp_path, [picture_folder], colors=5)
    assert json.loads((out / "tokenizer_config.json").read_text()) == before
    assert load_tokenizer(out).spec.vocab_size == 4


@pytest.mark.parametrize(
    "options", [{"colors": 0}, {"colors": 65_537}, {"limit": 0}, {"image_size": 0}, {"max_iterations": 0}]
)
def test_wrong_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        TrainPaletteOptions(data=("a",), out="b", **options)
