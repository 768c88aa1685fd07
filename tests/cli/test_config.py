"""A YAML file as a prefix of the command line."""

import time
from itertools import pairwise

import pytest

from tokenize_kit.cli.config import merge_tokens, read_config_tokens
from tokenize_kit.cli.tokens import NULL
from tokenize_kit.errors import UsageError


def test_yaml_becomes_the_options_it_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "shards: [a, b]\nbatch_size: 8\ndry_run: true\nresume: false\nmodel:\n  layers: 4\n  qk_norm: false\nlimit: null\n"
    )
    expected = "--shards a b --batch-size 8 --dry-run --no-resume --model.layers 4 --model.no-qk-norm --limit".split()
    assert read_config_tokens(str(path)) == [*expected, NULL]


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n- b\n", "option: value"), ("a: [1, 2\n", "not valid YAML"), ("", "option: value")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config_tokens(str(path))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a\n  b: *a\n", "what begins in line 1 refers to itself"),
        ("&a {b: 1, c: *a}\n", "what begins in line 1 refers to itself"),
        ("a: &a [1, *a]\n", "line 1 refers to itself"),
        ("a: &a {<<: *a}\n", "line 1 refers to itself"),
        (LAUGHS, "more than 10,000 values when its aliases are followed"),
        (
            LAUGHS.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [x, x, x, x, x, x, x, x, x]}", "{x: 1}"),
            "more than 10,000",
        ),
        ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("a: " + "x" * (1 << 20), "has 1,048,579 bytes"),
        ("a: 2024-13-45\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_more_than_options_ends_in_a_line(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(UsageError, match=message) as caught:
        read_config_tokens(str(path))
    assert "run.yaml" in str(caught.value)
    assert time.process_time() - began < 5


def test_aliases_are_what_they_stand_for(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("shards: &s [a, b]\nmodel: &m {layers: 4}\nother: {<<: *m, width: 8}\ntokenizer: *s\n")
    assert read_config_tokens(str(path)) == (
        "--shards a b --model.layers 4 --other.layers 4 --other.width 8 --tokenizer a b".split()
    )


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
    assert merge_tokens([], ["--max_failures", "-1"]) == ["--max-failures=-1"]
