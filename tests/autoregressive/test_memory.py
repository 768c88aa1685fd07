"""Memory of a training: told before it begins where it can be told, and in the user's words where it runs out."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenize_kit.errors import is_out_of_memory
from trainers import memory
from trainers.autoregressive.memory import burden_of, kept_by_activations, least_memory, parameters_of
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.config import preset
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import TrainSequenceOptions, TrainTransformerOptions
from trainers.config import OptimizerConfig
from trainers.memory import available_memory, refuse_what_cannot_fit, says_when_full


@pytest.mark.parametrize("style", ["llama", "gpt2", "sinusoidal"])
@pytest.mark.parametrize(("rows", "context"), [(4, 64), (1, 512)])
def test_the_estimate_is_below_what_a_step_keeps(style, rows, context):
    config = preset("tiny", style, vocab_size=300, context=context).to_dict()
    options = TrainTransformerOptions(shards=("s",), template="text", out="o", batch_size=rows)
    parameters = parameters_of("transformer", config)
    model = build_model("transformer", config)
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(rows, context, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(Inputs(ids), ids)
    least = least_memory(options, parameters, context, config)
    held = 4 * 4 * parameters
    assert held < least <= held + sum(kept.values())
    # And not so far below that it says nothing.
    assert least - held > sum(kept.values()) / 8


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("recurrent", {"layers": 2, "width": 32}),
        ("recurrent", {"layers": 1, "width": 48, "cell": "gru", "coordinates": True}),
        ("wavenet", {"layers": 6, "cycle": 3, "width": 32}),
    ],
)
def test_what_other_families_keep_is_measured_on_a_short_row(name, sizes):
    rows, context = 4, 96
    model = build_model(name, {"vocab_size": 300, "context": context, **sizes})
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.zeros(rows, context, dtype=torch.int64)
    inputs = Inputs(ids, axial=ids[..., None].expand(-1, -1, 3))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(inputs, ids)
    options = TrainSequenceOptions(family=name, shards=("s",), template="text", out="o", batch_size=rows)
    before = torch.get_rng_state()
    least = kept_by_activations(model, options, context)
    # In bfloat16 half of it.
    assert sum(kept.values()) / 4 < least <= sum(kept.values()) / 2
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_optimiser_and_the_averages_count():
    def options(**changes):
        return TrainTransformerOptions(shards=("s",), template="text", out="o", **changes)

    assert least_memory(options(), 1000, 1, {}) == 16_000
    assert least_memory(options(ema=0.9), 1000, 1, {}) == 20_000
    assert least_memory(options(optimizer=OptimizerConfig(optimizer="muon")), 1000, 1, {}) == 12_000


def test_what_cannot_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 3_000_000_000)
    options = TrainTransformerOptions(shards=("s",), template="text", out="o", batch_size=512)
    burden = burden_of(options, 2048)
    with pytest.raises(
        MemoryError, match=r"needs 5\.0 GB at the least, and 3\.0 GB are free; a batch is 512 rows x 2,048 tokens"
    ) as told:
        refuse_what_cannot_fit(5_000_000_000, "cpu", burden)
    assert "--batch-size" in str(told.value)
    assert "--context" in str(told.value)
    refuse_what_cannot_fit(2_900_000_000, "cpu", burden)
    monkeypatch.setattr(memory, "available_memory", lambda device: None)
    refuse_what_cannot_fit(10**15, "cpu", burden)


def huge():
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "fail",
    [
        huge,
        lambda: np.empty(1 << 60, np.uint8),
        lambda: bytearray(1 << 62),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")),
    ],
)
def test_out_of_memory_is_said_in_the_users_words(fail):
    with pytest.raises(MemoryError, match=r"^out of memory: a batch is 8 rows x 16 tokens; lower --batch-size"):  # noqa: SIM117
        with says_when_full("a batch is 8 rows x 16 tokens; lower --batch-size"):
            fail()


def test_other_errors_pass():
    with pytest.raises(ValueError, match="bad"), says_when_full("x"):
        raise ValueError("bad")
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("not enough memory of the model"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))


def test_limits_of_control_groups_and_of_the_shell_count(tmp_path, monkeypatch):
    real = available_memory()
    assert real is not None
    assert 100e6 < real < 1e14
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 1000000\n")
    own = Path.read_text

    def read_text(self, *arguments, **more):
        return "0::/a/b\n" if str(self) == "/proc/self/cgroup" else own(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_memory() == 3_000_000
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max")
    (tmp_path / "a" / "b" / "memory.current").write_text("1")
    (tmp_path / "a" / "memory.max").write_text("2000000")
    (tmp_path / "a" / "memory.current").write_text("1999000")
    assert available_memory() == 1000
    (tmp_path / "memory.max").unlink()
    (tmp_path / "a" / "memory.max").unlink()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 62, 1 << 62))
    assert available_memory() == pytest.approx(real, rel=0.5)
