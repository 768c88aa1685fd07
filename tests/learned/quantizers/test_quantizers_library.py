"""The classes of vector-quantize-pytorch behind our contract: options by name, and what the library leaves to its caller."""

import json
from dataclasses import replace

import pytest
import torch
import vector_quantize_pytorch as library
from torch import nn

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig
from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer
from tokenize_kit.tokenizers.learned.quantizers.library_options import CLASSES, OURS, option_values, words


def configured(options):
    name, *rest = options.split()
    return QuantizerConfig("library", library_class=name, library_options=tuple(rest))


def built(options, dim=4):
    torch.manual_seed(0)
    return build_quantizer(configured(options), dim)


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- options


def test_words_are_kept_in_one_spelling_and_order():
    config = configured("VectorQuantize kmeans-init=True decay=0.90 codebook_size=64 codebook_dim=None")
    assert config.library_options == ("codebook_dim=none", "codebook_size=64", "decay=0.9", "kmeans_init=true")
    assert config == configured("VectorQuantize codebook_size=64 codebook_dim=null decay=.9 kmeans_init=true")
    assert not {word.split("=")[0] for word in config.library_defaults} & {"decay", "kmeans_init", "dim"}


def test_values_of_every_form_come_back():
    values = {
        "a": 3,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "tanh",
        "f": [8, 5, 5],
        "g": [8],
        "h": [0.5, 1.0],
        "i": 1e-05,
    }
    assert option_values(words(values)) == values
    assert option_values(["levels=[8, 5]", "x-y=8,"]) == {"levels": [8, 5], "x_y": [8]}


def test_the_librarys_defaults_are_those_of_its_signature():
    found = option_values(configured("SimVQ codebook_size=32").library_defaults)
    assert found == {
        "rotation_trick": True,
        "input_to_quantize_commit_loss_weight": 0.25,
        "commitment_weight": 1.0,
        "frozen_codebook_dim": None,
    }


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_not_given_is_as_for_our_own_kinds(name):
    given = option_values(QuantizerConfig("library", library_class=name).library_options)
    assert given == {option: OURS[option] for option in given}
    assert ("levels" in given) == ("FSQ" in name)
    assert ("codebook_size" in given) == ("FSQ" not in name)
    assert ("num_quantizers" in given) == ("Residual" in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "ResidualVq codebook_size=8",
            "library_class 'ResidualVq' is not one of VectorQuantize, .*did you mean 'ResidualVQ'",
        ),
        (
            "ResidualVQ num_quantisers=4",
            "unknown library_options num_quantisers of ResidualVQ; did you mean 'num_quantizers'",
        ),
        ("GroupedResidualVQ kmean_init=true", "kmean_init of GroupedResidualVQ; did you mean 'kmeans_init'"),
        ("FSQ codebook_size=8", "unknown library_options codebook_size of FSQ"),
        ("SimVQ xyz=8", "unknown library_options xyz of SimVQ; it has codebook_size, "),
        ("VectorQuantize dim=8", "dim cannot be given: it is the number of channels of the latent"),
        ("ResidualVQ accept_image_fmap=true", "accept_image_fmap cannot be given: the tokens are laid out"),
        ("VectorQuantize heads=2", "heads cannot be given: .*GroupedResidualVQ has groups"),
        ("VectorQuantize sync_codebook=true", "sync_codebook cannot be given: it follows from the number of processes"),
        ("VectorQuantize affine_param=true", "affine_param cannot be given: .* depend on the others of its batch"),
        ("VectorQuantize vq_bridge=x", "vq_bridge cannot be given: it takes a Python object"),
        ("ResidualVQ diveq=true", "diveq cannot be given: it draws random numbers in evaluation"),
        ("ResidualFSQ preserve_symmetry=false", "preserve_symmetry cannot be given: each codebook must"),
        ("ResidualLFQ codebook_scale=2", "codebook_scale cannot be given: each codebook has half"),
        ("VectorQuantize codebook_size", "'codebook_size' is not of the form NAME=VALUE"),
        ("VectorQuantize =8", "'=8' is not of the form NAME=VALUE"),
        ("VectorQuantize codebook_size=8 codebook-size=9", "library_options has codebook_size twice"),
        ("VectorQuantize kmeans_init=3", "kmeans_init=3 of VectorQuantize must be true or false"),
        ("VectorQuantize decay=high", "decay=high of VectorQuantize must be a number"),
        ("VectorQuantize decay=true", "decay=true of VectorQuantize must be a number"),
        (
            "VectorQuantize codebook_size=many",
            "codebook_size=many of VectorQuantize must be made of positive whole numbers",
        ),
        ("FSQ levels=8,0", "levels=8,0 of FSQ must be made of positive whole numbers"),
        ("FSQ levels=[8,", r"value '\[8,' is not a list"),
        ("FSQ levels=64,64,64,64,64", r"more than 2\^24 codes"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        configured(options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codebook_size": 8}, "codebook_size 8 is not an option of the quantizer library; .*NAME=VALUE"),
        (
            {"kind": "vq", "library_class": "FSQ"},
            "library_class FSQ is not an option of the quantizer vq; it is for library",
        ),
        ({"kind": "vq", "library_options": ("decay=0.9",)}, "it is for library"),
    ],
)
def test_options_of_other_kinds_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**{"kind": "library", **given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("GroupedResidualVQ groups=3 num_quantizers=2 codebook_size=8", r"4 channels: \(dim % groups\) == 0"),
        ("LFQ codebook_size=12", "LFQ of vector-quantize-pytorch cannot be built for 4 channels: .*power of 2"),
        ("FSQ levels=8,2", "preserve_symmetry"),
        ("VectorQuantize codebook_size=8 learnable_codebook=true", "not compatible with EMA update"),
        ("VectorQuantize codebook_size=1", "a codebook of less than 2 codes"),
    ],
)
def test_what_the_library_refuses_is_said_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        built(options)
    assert "\n" not in str(error.value)


# ---- what is saved


def test_configurations_of_other_kinds_stay_the_same():
    saved = AutoencoderConfig(quantizer=QuantizerConfig("rvq", codebooks=2)).to_dict()
    assert list(saved["quantizer"]) == [
        *(
            "kind",
            "codebook_size",
            "codebook_dim",
            "levels",
            "codebooks",
            "l2_normalised",
            "codebook_update",
            "ema_decay",
        ),
        *("kmeans_init", "dead_code_threshold", "rotation_trick", "entropy_temperature", "entropy_group_bits"),
        *("gumbel_temperature_start", "gumbel_temperature_end", "straight_through", "quantizer_dropout"),
    ]
    assert saved["quantizer"]["codebooks"] == 2
    assert saved["quantizer"]["kmeans_init"] is None


def test_a_saved_configuration_comes_back():
    config = AutoencoderConfig(quantizer=configured("ResidualFSQ num_quantizers=2 levels=5,3"))
    saved = json.loads(json.dumps(config.to_dict()))
    assert saved["quantizer"]["library_options"] == ["levels=5,3", "num_quantizers=2"]
    assert AutoencoderConfig.from_dict(saved) == config


def test_a_saved_configuration_keeps_the_defaults_it_was_made_with():
    made = configured("SimVQ codebook_size=32")
    # As if the library had had another default then, and not yet one of its options.
    before = tuple(w.replace("=true", "=false") for w in made.library_defaults if not w.startswith("commitment_weight"))
    saved = AutoencoderConfig(quantizer=replace(made, library_defaults=before)).to_dict()
    config = AutoencoderConfig.from_dict(saved)
    assert config.quantizer.library_defaults == before
    assert build_quantizer(config.quantizer, 4).library.rotation_trick is False
    assert build_quantizer(made, 4).library.rotation_trick is True
    assert config.to_dict() == saved


# ---- the library's own numbers


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (
            "VectorQuantize codebook_size=12 decay=0.9",
            lambda: library.VectorQuantize(dim=4, codebook_size=12, decay=0.9),
        ),
        (
            "ResidualVQ num_quantizers=3 codebook_size=8",
            lambda: library.ResidualVQ(dim=4, num_quantizers=3, codebook_size=8),
        ),
        ("SimVQ codebook_size=12", lambda: library.SimVQ(dim=4, codebook_size=12)),
        ("LFQ codebook_size=32", lambda: library.LFQ(dim=4, codebook_size=32)),
        ("FSQ levels=8,5,5", lambda: library.FSQ(levels=[8, 5, 5], dim=4)),
        (
            "ResidualFSQ num_quantizers=2 levels=5,3",
            lambda: library.ResidualFSQ(levels=[5, 3], num_quantizers=2, dim=4),
        ),
    ],
)
def test_training_is_that_of_the_class_itself(options, theirs):
    ours = built(options)
    torch.manual_seed(0)
    peer = theirs()
    for step in range(3):
        z = latents(3, 4, 20, seed=step).requires_grad_()
        torch.manual_seed(step)
        codes, ids, losses = ours(z)
        torch.manual_seed(step)
        their_codes, their_ids, *their_losses = peer(z.movedim(1, -1).reshape(1, 60, 4))
        assert torch.equal(codes.movedim(1, -1).reshape(60, 4), their_codes[0])
        assert torch.equal(ids.flatten(0, 1), their_ids[0].long())
        assert ids.dtype == torch.int64
        assert set(losses) == ({"library"} if their_losses else set())
        if their_losses:
            assert torch.equal(losses["library"], their_losses[0].mean())
    assert all(torch.equal(ours.state_dict()[f"library.{name}"], value) for name, value in peer.state_dict().items())


def test_losses_have_the_weights_of_the_options():
    once, twice = (built(f"VectorQuantize codebook_size=8 commitment_weight={weight}") for weight in (1, 2))
    z = latents(2, 4, 9)
    assert torch.allclose(2 * once(z).losses["library"], twice(z).losses["library"])


# ---- codebooks


@pytest.mark.parametrize(
    "options",
    [
        "ResidualVQ num_quantizers=4 codebook_size=16 kmeans_init=true rotation_trick=false",
        "ResidualVQ num_quantizers=4 codebook_size=16 shared_codebook=true kmeans_init=true",
        "ResidualVQ codebook_size=32,16,8 kmeans_init=true",
        "ResidualSimVQ num_quantizers=4 codebook_size=16",
        "ResidualFSQ num_quantizers=4 levels=5,3,3",
        "ResidualLFQ num_quantizers=4 codebook_size=16",
        "GroupedResidualVQ groups=2 num_quantizers=3 codebook_size=8 kmeans_init=true",
        "GroupedResidualFSQ groups=2 num_quantizers=3 levels=5,3",
        "GroupedResidualLFQ groups=2 num_quantizers=3 codebook_size=4",
    ],
)
def test_prefixes_decode_to_the_sum_of_their_codebooks(options):
    quantizer = built(options)
    for step in range(3):
        quantizer(latents(8, 4, 30, seed=step))
    quantizer.eval()
    z = latents(3, 4, 7, seed=9)
    ids = quantizer.encode(z)
    count = len(quantizer.codebook_sizes)
    assert ids.shape == (3, 7, count)
    assert [int(column.max()) < size for column, size in zip(ids.unbind(-1), quantizer.codebook_sizes, strict=True)]
    outputs = [quantizer.decode(ids[..., : n + 1]) for n in range(count)]
    assert torch.equal(outputs[-1], quantizer(z).codes)
    # What a codebook adds depends on its own id alone: another id in a later place changes no earlier step.
    other = ids.clone()
    other[..., -1] = (other[..., -1] + 1) % quantizer.codebook_sizes[-1]
    assert torch.equal(quantizer.decode(other[..., :-1]), outputs[-2])
    assert not torch.equal(quantizer.decode(other), outputs[-1])


def test_groups_take_turns_from_coarse_to_fine():
    quantizer = built("GroupedResidualVQ groups=2 num_quantizers=3 codebook_size=8 kmeans_init=true")
    z = latents(8, 4, 30)
    quantizer(z)
    quantizer.eval()
    ids = quantizer.encode(z)
    for group, residual in enumerate(quantizer.library.rvqs):
        theirs = residual(z.movedim(1, -1)[..., 2 * group : 2 * group + 2])[1]
        assert torch.equal(ids[..., group::2], theirs)
    # The first id alone says something of the first half of the channels, and nothing of the others.
    first = quantizer.decode(ids[..., :1])
    assert torch.equal(first[:, 2:], torch.zeros_like(first[:, 2:]))
    assert ((first - z)[:, :2].square().mean() < 0.5 * z[:, :2].square().mean()).item()


def test_codebooks_of_different_sizes_are_checked_each():
    quantizer = built("ResidualVQ codebook_size=16,12,8").eval()
    assert quantizer.codebook_sizes == (16, 12, 8)
    quantizer.decode(torch.tensor([[15, 11, 7]]))
    with pytest.raises(ValueError, match=r"id 12 is not in 0\.\.11"):
        quantizer.decode(torch.tensor([[15, 12, 7]]))


def test_a_shared_codebook_is_saved_once_and_stays_shared():
    quantizer = built("ResidualVQ num_quantizers=3 codebook_size=8 shared_codebook=true")
    assert [name for name in quantizer.state_dict() if name.endswith("_codebook.embed")] == [
        "library.layers.0._codebook.embed"
    ]
    assert all(layer._codebook is quantizer.library.layers[0]._codebook for layer in quantizer.library.layers)


@pytest.mark.parametrize("options", ["ResidualVQ", "ResidualSimVQ", "ResidualLFQ", "ResidualFSQ"])
def test_dropout_gives_valid_ids_and_is_off_in_evaluation(options):
    sizes = "levels=5,3" if "FSQ" in options else "codebook_size=8"
    quantizer = built(f"{options} num_quantizers=4 quantize_dropout=true {sizes}")
    left_out = 0
    for step in range(12):
        torch.manual_seed(step)
        ids = quantizer(latents(4, 4, 25, seed=step)).ids
        assert ids.min() >= 0
        left_out += bool((ids[..., -1] == 0).all())
    assert 0 < left_out < 12
    quantizer.eval()
    assert len(quantizer(latents(4, 4, 25)).ids[..., -1].unique()) > 1


def test_noise_is_off_in_evaluation():
    quantizer = built("FSQ levels=5,5,5,5 preserve_symmetry=true noise_dropout=0.9")
    z = latents(4, 4, 25)
    assert not torch.equal(quantizer(z).codes, quantizer(z).codes)
    quantizer.eval()
    assert torch.equal(quantizer(z).codes, quantizer(z).codes)


# ---- evaluation


@pytest.mark.parametrize(
    "options",
    ["VectorQuantize codebook_size=8 kmeans_init=true", "ResidualVQ num_quantizers=2 codebook_size=8 kmeans_init=true"],
)
def test_evaluation_does_not_start_a_codebook(options):
    quantizer = built(options).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents(4, 4, 25))
    quantizer.encode(latents(4, 4, 25))
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())
    flags = [name for name in before if name.endswith("initted")]
    assert flags
    assert not any(before[name] for name in flags)
    quantizer.train()(latents(4, 4, 25))
    assert all(quantizer.state_dict()[name] for name in flags)


def test_a_resumed_run_does_not_start_again():
    options = "VectorQuantize codebook_size=8 kmeans_init=true"
    quantizer, resumed = built(options, 2), built(options, 2)
    quantizer(latents(4, 2, 50))
    resumed.load_state_dict(quantizer.state_dict())
    before = resumed.library.codebook.clone()
    resumed(latents(4, 2, 50, seed=1) + 30)
    # One update of decay 0.8 moves a code by at most a fifth of the way of 30; another start would put all of them there.
    assert (resumed.library.codebook - before).abs().max() < 30


def test_large_inputs_are_encoded_in_parts_with_the_same_ids(monkeypatch):
    quantizer = built("VectorQuantize codebook_size=40").eval()
    z = latents(2, 4, 500)
    whole = quantizer.encode(z)
    monkeypatch.setattr(quantizer, "_rows_at_a_time", 64)
    assert torch.equal(quantizer.encode(z), whole)
    seen = []
    forward = nn.Module.__call__
    monkeypatch.setattr(
        type(quantizer.library), "__call__", lambda self, rows: (seen.append(rows.shape), forward(self, rows))[1]
    )
    quantizer.encode(z)
    assert seen == [(1, 64, 4)] * 15 + [(1, 40, 4)]
