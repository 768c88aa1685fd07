"""A YAML file as a prefix of the command line."""

import pytest

from tokenize_kit.cli.config import merge_tokens, read_config_tokens
from tokenize_kit.errors import UsageError


def test_yaml_becomes_the_options_it_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "shards: [a, b]\nbatch_size: 8\ndry_run: true\nresume: false\nmodel:\n  layers: 4\n  qk_norm: false\nlimit: null\n"
    )
    assert read_config_tokens(str(path)) == (
        "--shards a b --batch-size 8 --dry-run --no-resume --model.layers 4 --model.no-qk-norm --limit None".split()
    )


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n- b\n", "option: value"), ("a: [1, 2\n", "not valid YAML"), ("", "option: value")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config_tokens(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        read_config_tokens("nowhere.yaml")


def test_what_is_typed_replaces_what_the_file_says():
    config = ["--shards", "a", "b", "--steps", "10", "--dry-run", "--model.no-qk-norm"]
    typed = ["--shards=c", "--no-dry-run", "--model.qk-norm"]
    assert merge_tokens(config, typed) == ["--shards", "c", "--steps", "10", "--no-dry-run", "--model.qk-norm"]


def test_repeated_options_join_and_keep_their_order():
    typed = ["PATH", "--tokenizer", "a", "--data", "x", "--tokenizer", "b", "c"]
    assert merge_tokens([], typed) == ["PATH", "--tokenizer", "a", "b", "c", "--data", "x"]


def test_underscores_are_hyphens_and_negative_numbers_are_values():
    assert merge_tokens([], ["--max_failures", "-1"]) == ["--max-failures", "-1"]
