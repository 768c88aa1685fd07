"""Every file that the kit writes and reads back: a bit that was turned in it is found, by `verify` and when it is first used."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.autoencoder import VQ, toy_autoencoder
from toys.damage import flipped, places, read_unsigned
from toys.world import Letters, text_samples, write_shards

from tokenize_kit.cli import main
from tokenize_kit.cli.verify import VerifyCommandOptions, verify_command
from tokenize_kit.container import compress, decompress
from tokenize_kit.errors import VerificationError
from tokenize_kit.files import read_signed, sha256_of_file, signed, write_json
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.shards import ShardSet, checked
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer
from tokenize_kit.tokenizers.text.bpe import BPETokenizer
from tokenize_kit.weights import check_seal, read_tensors, read_training, write_sealed
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import (
    ModelConfigFile,
    load_model,
    write_model_folder,
    write_weights,
)
from trainers.autoregressive.models import build_model
from trainers.checkpoints import claim_folder, load_checkpoint, save_checkpoint

FLIPS = 400
QUIET = Progress(enabled=False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A set of two shards that is older than what the machine would not remember."""
    return Path(write_shards(tmp_path_factory.mktemp("flips") / "set", text_samples(40)))


@pytest.fixture(scope="module")
def model(tmp_path_factory, shards):
    """A model folder with a run and a checkpoint, as a training leaves it."""
    folder = tmp_path_factory.mktemp("flips") / "model"
    data = TokenData.open([str(shards)], "text")
    vocabulary = data.documents.vocabulary
    config = {"vocab_size": vocabulary.size, "context": 16, "width": 4}
    claim_folder(folder, {"command": "train transformer", "steps": 7})
    fingerprints = {"text": data.infos["text"].fingerprint}
    file = ModelConfigFile("mean", config, SequenceTemplate.parse("text"), vocabulary, fingerprints)
    write_model_folder(folder, file, {"text": shards / "tokenizers" / "text"})
    network = build_model("mean", config)
    write_weights(folder, network, 7, {"loss": 2.6875109434127808})
    tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}
    state = {"loop": {"metrics": {"loss": 0.30000000000000004}, "norms": {"model": [1e-05, 7]}}}
    save_checkpoint(folder / "checkpoints", 7, {"model": tensors, "optimizer_model_0": tensors}, state)
    return folder


def verified(path):
    return verify_command(VerifyCommandOptions(str(path)), QUIET)


def all_found(path, whole, *uses, flips=FLIPS):
    """Turn bits of a file: each use of it, and `verify` of the whole, must end in one line that names the file."""
    uses = (*uses, lambda: verified(whole))
    for use in uses:
        use()
    for bit in places(path.stat().st_size, flips):
        with flipped(path, bit):
            for use in uses:
                with pytest.raises((ValueError, FileNotFoundError), match=path.name) as caught:
                    use()
                assert "\n" not in str(caught.value)
    for use in uses:
        use()


def test_a_shard(shards):
    def read():
        assert len(list(ShardSet.open(shards).records())) == 40

    def flat():
        assert sum(len(array) for array in ShardSet.open(shards).stream_arrays("text")) == 40

    all_found(shards / "shard-00001.arrow", shards, read, flat)


def test_a_manifest(shards):
    all_found(shards / "dataset.json", shards, lambda: ShardSet.open(shards))


@pytest.mark.parametrize("name", ["plan.json", "00000.json", "failures.jsonl"])
def test_what_lies_beside_the_shards(tmp_path, name):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbad\n{"text": "two"}\n')
    Letters().save(tmp_path / "tok")
    encode(EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.jsonl"),), str(tmp_path / "out")))
    all_found(tmp_path / "out" / name, tmp_path / "out", flips=100)


def test_an_edited_manifest_without_its_digest_is_compared_with_what_lies_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    Letters().save(tmp_path / "tok")
    out = tmp_path / "out"
    encode(EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.txt"),), str(out)))
    values = read_unsigned(out / "dataset.json")
    write_json(out / "dataset.json", values)
    (note,) = verified(out).notes
    assert "is from before manifests carried a digest of themselves" in note
    for place, name, value, message in [
        ((), "rows", 2, "rows is 2, its files have 1"),
        ((), "failures", 1, "failures.jsonl tells of 0 samples, expected 1"),
        (("tokens",), "text", 4, "tokens is"),
        (("streams", "text", "spec"), "vocab_size", 200, "vocab_size 27, not 200"),
        (("streams", "text", "spec"), "lossless", False, "lossless True, not False"),
        (("streams", "text"), "tokenizer", "bpe", "a 'letters' tokenizer, not a 'bpe' one"),
        (("streams", "text"), "fingerprint", "0" * 64, "not 000000000000"),
        (("options",), "split", "lines", 'options.split was "none", is now "lines"'),
        (("inputs",), "files", 2, "inputs.files was 1, is now 2"),
        (("files", 0), "name", "00001.arrow", "00001.arrow: it is missing"),
        (("files", 0), "sha256", "0" * 64, "expected 000000000000"),
    ]:
        changed = json.loads(json.dumps(values))
        part = changed
        for key in place:
            part = part[key]
        part[name] = value
        write_json(out / "dataset.json", changed)
        with pytest.raises(VerificationError, match=message):
            verified(out)


def test_verify_says_what_was_edited(shards, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(shards, folder)
    text = (folder / "dataset.json").read_text()
    rows = r"rows is 40, its files have 39; shard-00000\.arrow: it has 20 rows, expected 19$"
    changes = {
        ('"rows": 40', '"rows": 41'): r"own_digest differs; dataset\.json: rows is 41, its files have 40$",
        ('"rows": 20', '"rows": 19'): rf"own_digest differs; .*{rows}",
        ('"vocab_size": 27', '"vocab_size": 28'): r"own_digest differs; tokenizers/text .*\(vocab_size 27, not 28\)$",
        ('"modality": "text"', '"modality": "scent"'): r"own_digest differs, and it can no longer be read .*scent",
        ('"format_version": 1', '"format_version": 3'): r"own_digest differs, and it can no longer be read .*version 3",
        ('"rows": 20', '"rows": [20]'): r"dataset\.json is damaged \(",
        ('"bytes": ', '"bytes": 1'): r"own_digest differs; shard-00000\.arrow: it has \d+ bytes, expected 1\d+$",
        ('"sha256": "', '"sha256": 7, "x": "'): r"dataset\.json is damaged \(",
    }
    for edit, message in changes.items():
        (folder / "dataset.json").write_text(text.replace(*edit, 1))
        with pytest.raises(VerificationError, match=message):
            verified(folder)


def test_weights_of_a_sequence_model(model):
    all_found(model / "model.safetensors", model, lambda: load_model(model))
    assert load_model(model).metrics == {"loss": 2.6875109434127808}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer_model_0.safetensors", "state.json"])
def test_a_checkpoint(model, name):
    checkpoint = model / "checkpoints" / "step_00000007"
    all_found(checkpoint / name, model, lambda: load_checkpoint(checkpoint))


def test_the_configuration_of_a_model_and_of_its_run(model):
    all_found(model / "model_config.json", model, lambda: load_model(model), flips=100)
    again = {"command": "train transformer", "steps": 7}
    all_found(model / "run.json", model, lambda: claim_folder(model, again), flips=100)


@pytest.fixture
def bpe(tmp_path):
    """A tokenizer of 258 ids."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat and the hat and the bat " * 50)
    assert (
        main(["train", "bpe", "--data", str(corpus), "--vocab-size", "260", "--out", str(tmp_path / "bpe"), "--quiet"])
        == 0
    )
    return tmp_path / "bpe"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_of_text(bpe, name):
    all_found(bpe / name, bpe, lambda: load_tokenizer(bpe))


@pytest.mark.parametrize("name", ["palette.safetensors", "tokenizer_config.json"])
def test_a_palette(tmp_path, name):
    folder = tmp_path / "palette"
    PaletteTokenizer(torch.arange(300).reshape(100, 3) % 256).save(folder)
    all_found(folder / name, folder, lambda: load_tokenizer(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_learned_tokenizer(tmp_path, name):
    folder = tmp_path / "learned"
    toy_autoencoder(VQ).save(folder)
    path = folder / name
    verified(folder)
    # Building a network takes its time, and nothing is built from a file whose sum is not right.
    for bit in places(path.stat().st_size, FLIPS):
        with flipped(path, bit), pytest.raises(VerificationError, match=name):
            load_tokenizer(folder)


def test_every_bit_of_a_compressed_file(tmp_path):
    tokenizer, path = PaletteTokenizer([[0, 0, 0], [255, 255, 255], [9, 9, 9]]), tmp_path / "a.tkc"
    compress(tokenizer, torch.zeros(3, 5, 7, dtype=torch.uint8), path)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        with flipped(path, bit), pytest.raises(ValueError, match=r"a\.tkc"):
            decompress(tokenizer, path)
    for bit in places(len(data), 40):
        with flipped(path, bit), pytest.raises(ValueError, match=r"a\.tkc"):
            verified(path)
    assert verified(path).checked == {"": f"image by the tokenizer {tokenizer.fingerprint[:12]}"}


# --- what is remembered


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The files that are read through, on a machine that remembers nothing yet, and takes no file for too young."""
    seen = []

    def read(path):
        seen.append(Path(path).name)
        return sha256_of_file(path)

    monkeypatch.setenv("TOKENIZE_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked, "YOUNG_SECONDS", -1.0)
    monkeypatch.setattr(checked, "sha256_of_file", read)
    return seen


def test_a_shard_is_read_through_once_a_machine(shards, seen):
    first = ShardSet.open(shards)
    assert seen == []
    first.record(0)
    assert seen == ["shard-00000.arrow"]
    first.stream_arrays("text")
    first.column("key")
    assert sorted(seen) == ["shard-00000.arrow", "shard-00001.arrow"]
    ShardSet.open(shards).stream_arrays("text")
    assert len(seen) == 2
    # Whatever happens to a file makes its time of change another one, which nobody can set back.
    path = shards / "shard-00001.arrow"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with flipped(path, 4 * path.stat().st_size):
        os.utime(path, ns=times)
        with pytest.raises(VerificationError, match=r"shard-00001\.arrow is damaged: its sha256 is") as caught:
            ShardSet.open(shards).record(39)
        assert caught.value.exit_code == 3
        assert ShardSet.open(shards, trust=True).num_rows == 40
    assert len(seen) == 3
    ShardSet.open(shards).record(39)
    assert len(seen) == 4


def test_it_is_said_where_much_is_read(shards, seen, monkeypatch):
    monkeypatch.setattr(checked, "LARGE_BYTES", 3000)
    told = []
    for _ in range(2):
        ShardSet.open(shards, note=told.append).stream_arrays("text")
    size = sum(file.stat().st_size for file in shards.glob("*.arrow"))
    assert told == [
        f"{shards}: {size / 1e9:.1f} GB of shards are read through, once on this machine (--trust-shards leaves it out)"
    ]
    assert len(seen) == 2


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, seen, monkeypatch):
    monkeypatch.setattr(checked, "YOUNG_SECONDS", 60.0)
    folder = write_shards(tmp_path / "set", text_samples(3), shards=1)
    for _ in range(2):
        ShardSet.open(folder).record(0)
    assert len(seen) == 2


@pytest.mark.parametrize("cache", ["", "/proc/nowhere", "file"])
def test_a_machine_without_a_cache_reads_every_time(shards, seen, tmp_path, monkeypatch, cache):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKENIZE_KIT_CACHE", str(tmp_path / cache) if cache == "file" else cache)
    if not cache:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(2):
        assert ShardSet.open(shards).record(0).key == "sample-0"
    assert len(seen) == 2


def test_a_damaged_cache_is_looked_through(shards, seen, tmp_path):
    ShardSet.open(shards).stream_arrays("text")
    (memory,) = (tmp_path / "cache" / "checked").iterdir()
    memory.write_bytes(b"\xff" + memory.read_bytes()[1:])
    ShardSet.open(shards).stream_arrays("text")
    assert len(seen) == 3
    ShardSet.open(shards).stream_arrays("text")
    assert len(seen) == 3


def test_of_several_processes_one_reads(shards, seen):
    """Each opens the memory of the set for itself, and so has a lock of its own, as processes do."""
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: ShardSet.open(shards).stream_arrays("text"), range(6)))
    assert sorted(seen) == ["shard-00000.arrow", "shard-00001.arrow"]


# --- what came before, and what comes after


def test_what_was_written_before_opens_and_verify_says_what_it_cannot_tell():
    before = Path(__file__).parent / "data" / "before"
    told = {name: verified(before / name) for name in ("model", "bpe", "palette", "codec", "sounds", "pcm.tkc")}
    notes = {name: [Path(note.split(" ")[0]).name for note in report.notes] for name, report in told.items()}
    assert notes == {
        "model": ["model_config.json", "model.safetensors", "run.json", "state.json"],
        "bpe": ["tokenizer_config.json"],
        "palette": ["tokenizer_config.json"],
        "codec": ["tokenizer_config.json"],
        "sounds": ["dataset.json"],
        "pcm.tkc": [],
    }
    assert list(told["model"].checked) == [
        *("model_config.json", "tokenizers/text", "tokenizers/image", "model.safetensors", "run.json"),
        "checkpoints/step_00000002",
    ]


def test_a_digest_is_of_all_else_however_it_is_spelled(tmp_path):
    path = tmp_path / "a.json"
    values = {"b": [1, 2.5, None, True], "a": {"z": "\u00e9\u2028", "y": 1e-05}, "long": "0" * 64}
    write_json(path, signed(values))
    assert read_signed(path) == values
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=None))
    assert read_signed(path) == values
    for old, new in [("2.5", "2.50"), ("1e-05", "1E-05"), ("own_digest", "own_digdst"), ("true", "1"), ("}", "")]:
        changed = tmp_path / "changed.json"
        changed.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(VerificationError, match=r"changed\.json"):
            read_signed(changed)
    for text in ("", "[]", "3", "\udcff", "[" * 5000, '{"a": ' + "9" * 5000 + "}"):
        changed.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(VerificationError, match="it is no JSON object"):
            read_signed(changed)
    write_json(path, {"old": "0" * 64})
    assert read_signed(path) == {"old": "0" * 64}


def test_weights_with_a_sum_are_read_by_others_and_the_same_on_every_run(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.int8), "c": torch.zeros(0)}
    write_sealed(path, tensors, {"step": 3, "metrics": {"loss": 0.5}})
    first = path.read_bytes()
    write_sealed(path, tensors, {"step": 3, "metrics": {"loss": 0.5}})
    assert path.read_bytes() == first
    found = load_file(path)
    assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in tensors.items()}
    assert read_training(path) == {"step": 3, "metrics": {"loss": 0.5}}
    assert check_seal(path)
    save_file(tensors, tmp_path / "foreign.safetensors", {"format": "pt"})
    assert not check_seal(tmp_path / "foreign.safetensors")
    assert set(read_tensors(tmp_path / "foreign.safetensors")) == set(tensors)
    for damaged in (first[:-1], first + b"\0", first[:100], b"", b"\xff" * 20):
        path.write_bytes(damaged)
        with pytest.raises(VerificationError, match=r"w\.safetensors is damaged"):
            read_tensors(path)


def test_a_ledger_that_was_damaged_is_made_again(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    Letters().save(tmp_path / "tok")
    (tmp_path / "a.txt").write_text("one")
    options = EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.txt"),), str(tmp_path / "out"))
    encode(options)
    manifest = (tmp_path / "out" / "dataset.json").read_bytes()
    ledger = tmp_path / "out" / "00000.json"
    original = ledger.read_bytes()
    ledger.write_bytes(original.replace(b'"rows": 1', b'"rows": 3', 1))
    encode(options)
    assert ledger.read_bytes() == original
    assert (tmp_path / "out" / "dataset.json").read_bytes() == manifest


def test_a_tokenizer_saved_again_is_whole_whenever_it_is_killed(bpe, monkeypatch):
    """The file may be spelled in another way than the one that is there, with the same fingerprint."""
    tokenizer = BPETokenizer(json.loads((bpe / "tokenizer.json").read_text()))
    (bpe / "tokenizer.json").write_text(json.dumps(json.loads((bpe / "tokenizer.json").read_text()), indent=7))
    with pytest.raises(VerificationError):
        load_tokenizer(bpe)
    moments = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: (replace(*paths), moments.append(load_tokenizer(bpe))))
    tokenizer.save(bpe)
    assert [one.fingerprint for one in moments] == [tokenizer.fingerprint] * 3


def test_a_damaged_checkpoint_sends_back_to_the_one_before(model, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(model / "checkpoints", checkpoints)
    shutil.copytree(checkpoints / "step_00000007", checkpoints / "step_00000009")
    for step, words in {9: "and the same command goes on from step_00000007", 7: "start the training again"}.items():
        checkpoint = checkpoints / f"step_{step:08}"
        with (
            flipped(checkpoint / "state.json", 80),
            pytest.raises(VerificationError, match=f"remove {checkpoint}.*{words}"),
        ):
            load_checkpoint(checkpoint)


def test_verify_of_a_run_names_all_that_is_damaged(model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for path in (folder / "model.safetensors", folder / "checkpoints" / "step_00000007" / "state.json"):
        path.write_bytes(path.read_bytes()[:-2])
    assert main(["verify", str(folder), "--quiet"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model.safetensors is damaged" in said
    assert "state.json is damaged" in said
    assert main(["verify", str(model), "--tokenizer", "x", "--quiet"]) == 2


def test_what_is_used_of_a_set_is_its_tokenizers_too(shards, tmp_path, capsys):
    """A manifest that was edited and signed again is compared with the tokenizer that travels with it, and with a given one."""
    folder = tmp_path / "set"
    shutil.copytree(shards, folder)
    values = read_unsigned(folder / "dataset.json")
    values["streams"]["text"]["spec"]["lossless"] = False
    write_json(folder / "dataset.json", signed(values))
    with pytest.raises(
        VerificationError, match=r"tokenizers/text is not what dataset\.json says of it \(lossless True, not False"
    ):
        ShardSet.open(folder)
    shutil.move(folder / "tokenizers" / "text", tmp_path / "given")
    assert ShardSet.open(folder).num_rows == 40
    words = {
        "decode": ["--shards", str(folder), "--tokenizer", str(tmp_path / "given"), "--out", str(tmp_path / "files")],
        "train transformer": [
            *(
                "--shards",
                str(folder),
                "--tokenizer",
                str(tmp_path / "given"),
                "--template",
                "text",
                "--out",
                str(tmp_path / "m"),
            ),
        ],
        "verify": [str(folder), "--tokenizer", str(tmp_path / "given")],
    }
    for command, more in words.items():
        assert main([*command.split(), *more, "--quiet"]) == 3
        assert "(lossless True, not False)" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_set_can_be_trusted_on_the_command_line(shards, tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(shards, folder)
    # The ids are the last but a few bytes of a record batch: turned ones are other letters.
    path = folder / "shard-00000.arrow"
    ids = ShardSet.open(shards).record(3).grids["text"].tobytes()
    bit = 8 * path.read_bytes().index(ids)
    words = ["decode", "--shards", str(folder), "--tokenizer", str(folder / "tokenizers" / "text"), "--quiet"]
    with flipped(path, bit):
        assert main([*words, "--out", str(tmp_path / "refused")]) == 3
        assert "shard-00000.arrow is damaged" in capsys.readouterr().err
        assert main([*words, "--out", str(tmp_path / "trusted"), "--trust-shards"]) == 0
    assert main([*words, "--out", str(tmp_path / "sound")]) == 0
    different = [
        name for name in range(40) if (tmp_path / "sound" / f"sample-{name}.txt").read_bytes()
        != (tmp_path / "trusted" / f"sample-{name}.txt").read_bytes()
    ]  # fmt: skip
    assert different == [3]
