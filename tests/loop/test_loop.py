import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tokenize_kit.files import read_json_object
from trainers.checkpoints import (
    claim_folder,
    last_checkpoint,
    load_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from trainers.config import LoopConfig
from trainers.logs import read_log, rewind_log
from trainers.loop import run
from trainers.processor import has_bfloat16
from trainers.runtime import resolve_device, resolve_precision, start
from trainers.task import PhaseLoss, Task


@dataclass
class Points:
    values: torch.Tensor

    def to(self, device):
        return Points(self.values.to(device))


class Duel(Task):
    """Two networks with opposite aims, as an autoencoder and its discriminator have."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.data = torch.randn(50, 3, generator=generator)
        self.networks = {"maker": nn.Linear(3, 3), "judge": nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.2))}
        for network in self.networks.values():
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.5, generator=generator)
        self.optimizers = {
            "make": [torch.optim.Adam(self.networks["maker"].parameters(), lr=0.01)],
            "judge": [torch.optim.SGD(self.networks["judge"].parameters(), lr=0.05, momentum=0.9)],
        }
        self.best = []

    def batch(self, index):
        # Batches of 1 to 4 points: their weights differ.
        return Points(self.data[[(7 * index + i) % 50 for i in range(1 + index % 4)]])

    def weight(self, batch):
        return len(batch.values)

    def loss(self, phase, batch, step):
        made = self.networks["maker"](batch.values)
        if phase == "make":
            total = (made - batch.values).square().sum() - self.networks["judge"](made).sum()
        else:
            real, false = self.networks["judge"](batch.values), self.networks["judge"](made.detach())
            total = (1 - real).relu().sum() + (1 + false).relu().sum()
        return PhaseLoss(total, {phase: total.detach()})

    def set_learning_rates(self, step):
        rate = 0.01 * (1 - step / 20)
        self.optimizers["make"][0].param_groups[0]["lr"] = rate
        return rate

    def validate(self, runtime):
        return {"error": float((self.networks["maker"](self.data) - self.data).square().mean())}

    def save_best(self, step, metrics):
        self.best.append((step, metrics["error"]))

    def describe(self, sums, weight):
        return {name: value / weight for name, value in sums.items()}


def config(**changes):
    return LoopConfig(
        **{"steps": 20, "accumulate": 2, "clip": 0.5, "log_every": 5, "validate_every": 10, "device": "cpu"} | changes
    )


def trained(out, **changes):
    task = Duel()
    options = config(**changes)
    return task, run(task, options, start(options), out)


def test_two_phases_follow_the_slow_reference(tmp_path):
    no_dropout = LoopConfig(steps=7, accumulate=3, clip=0.5, device="cpu", validate_every=7, precision="32-true")
    task = Duel()
    task.networks["judge"][1].p = 0.0
    plain = dict(task.networks)
    run(task, no_dropout, start(no_dropout), tmp_path)

    slow = Duel()
    slow.networks["judge"][1].p = 0.0
    for step in range(7):
        joint = Points(torch.cat([slow.batch(3 * step + i).values for i in range(3)]))
        slow.set_learning_rates(step)
        for phase, owner in (("make", "maker"), ("judge", "judge")):
            for network in slow.networks.values():
                network.zero_grad()
            (slow.loss(phase, joint, step).total / len(joint.values)).backward()
            torch.nn.utils.clip_grad_norm_(slow.networks[owner].parameters(), 0.5)
            slow.optimizers[phase][0].step()
    for name, network in plain.items():
        for one, other in zip(network.parameters(), slow.networks[name].parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_the_loop_keeps_the_best_and_logs_means_over_its_lines(tmp_path):
    task, result = trained(tmp_path)
    log = read_log(tmp_path / "train_log.jsonl")
    assert [line["step"] for line in log] == [5, 10, 15, 20]
    assert [line["learning_rate"] for line in log] == pytest.approx([0.01 * (1 - step / 20) for step in (4, 9, 14, 19)])
    errors = {line["step"]: line["validation/error"] for line in log if "validation/error" in line}
    assert list(errors) == [10, 20]
    best = min(errors, key=errors.get)
    assert (result.best_step, result.best_metrics) == (best, {"error": errors[best]})
    assert task.best[-1] == (best, errors[best])
    every, _ = trained(tmp_path / "every", log_every=1)
    lines = read_log(tmp_path / "every" / "train_log.jsonl")
    weights = [every.weight(every.batch(2 * i)) + every.weight(every.batch(2 * i + 1)) for i in range(20)]
    mean = sum(line["make"] * weight for line, weight in zip(lines[:5], weights[:5], strict=True)) / sum(weights[:5])
    assert log[0]["make"] == pytest.approx(mean)


@pytest.mark.parametrize("stop", [3, 10, 14])
def test_a_run_in_two_parts_gives_the_bits_of_one(tmp_path, stop, monkeypatch):
    trained(tmp_path / "whole", checkpoint_every=3)

    class Killed(BaseException):
        pass

    original = Duel.batch

    def batch(self, index):
        if index >= 2 * stop:
            raise Killed
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Duel, "batch", batch)
        with pytest.raises(Killed):
            trained(tmp_path / "parts", checkpoint_every=3)
    _, result = trained(tmp_path / "parts", checkpoint_every=3)
    assert result.resumed_from == stop // 3 * 3
    (one, state), (other, other_state) = (
        load_checkpoint(last_checkpoint(tmp_path / n / "checkpoints")) for n in ("whole", "parts")
    )
    assert state == other_state
    assert set(one) == {"maker", "judge", "optimizer_make_0", "optimizer_judge_0"}
    for name, tensors in one.items():
        assert all(torch.equal(value, other[name][key]) for key, value in tensors.items())


def test_the_loop_leaves_the_process_as_it_found_it(tmp_path):
    task, options = Duel(), config()
    before = torch.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    run(task, options, start(options), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_float32_matmul_precision() == precision
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_changed_number_of_threads_is_reported(tmp_path, monkeypatch):
    notes = []

    class Notes:
        def note(self, text):
            notes.append(text)

        def task(self, *arguments): ...

        def update(self, *arguments, **fields): ...

    trained(tmp_path, steps=20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    options = config()
    run(Duel(), options, start(options), tmp_path, Notes())
    assert any("threads" in note and "this is 77" in note for note in notes)


def test_logs_are_rewound_and_cut_lines_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 0.1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]
    rewind_log(path, 2)
    assert path.read_text() == '{"step": 1, "a": 0.1}\n{"step": 2}\n'


def test_checkpoints_hold_all_of_a_module_and_an_optimizer(tmp_path):
    def build():
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        module[2].weight = module[0].weight
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    module, optimizer = build()
    module(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 3, {"m": module_tensors(module), "o": optimizer_tensors(optimizer)}, {"note": 1.5})
    save_checkpoint(tmp_path, 4, {"m": module_tensors(module), "o": optimizer_tensors(optimizer)}, {"note": 2.5})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]
    tensors, state = load_checkpoint(last_checkpoint(tmp_path))
    assert (state["step"], state["note"]) == (4, 2.5)
    other, other_optimizer = build()
    load_module(other, tensors["m"], "here")
    load_optimizer(other_optimizer, tensors["o"])
    assert other[2].weight is other[0].weight
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )
    for network, stepper in ((module, optimizer), (other, other_optimizer)):
        stepper.zero_grad()
        network(torch.ones(2, 4)).square().sum().backward()
        stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_an_optimizer_continues_with_weights_of_another_memory_layout():
    def stepped(parameter, optimizer, value):
        parameter.grad = torch.full_like(parameter, value) * torch.arange(18.0).view(2, 1, 3, 3)
        optimizer.step()

    start = torch.randn(2, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    whole, first, second = (torch.optim.AdamW([p], fused=True) for p in (one, other, other))
    stepped(one, whole, 1.0)
    stepped(other, first, 1.0)
    load_optimizer(second, optimizer_tensors(first))
    stepped(one, whole, -2.0)
    stepped(other, second, -2.0)
    assert torch.equal(one, other)


def test_only_weights_of_the_very_same_model_are_loaded():
    tensors = module_tensors(nn.Linear(3, 2))
    for other, message in [
        (nn.Linear(3, 2, bias=False), "unknown tensor 'bias'"),
        (nn.Sequential(nn.Linear(3, 2)), "lacks the tensor '0.bias'"),
        (nn.Linear(4, 2), r"\(2, 3\), the model has torch.float32 \(2, 4\)"),
        (nn.Linear(3, 2).double(), "torch.float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_module(other, tensors, "weights")


def test_a_folder_belongs_to_one_run(tmp_path):
    claim_folder(tmp_path / "run", {"steps": 3, "model": {"layers": 2, "width": 8}})
    claim_folder(tmp_path / "run", {"steps": 3, "model": {"layers": 2, "width": 8}})
    assert read_json_object(tmp_path / "run" / "run.json")["steps"] == 3
    with pytest.raises(ValueError, match=r"model\.width was 8, now 9\); choose another --out"):
        claim_folder(tmp_path / "run", {"steps": 3, "model": {"layers": 2, "width": 9}})
    with pytest.raises(ValueError, match="cannot be made longer"):
        claim_folder(tmp_path / "run", {"steps": 4, "model": {"layers": 2, "width": 8}})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        claim_folder(tmp_path / "file", {})
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format_version": 7}))
    with pytest.raises(ValueError, match="another version"):
        claim_folder(tmp_path / "run", {})


def test_bfloat16_is_chosen_only_where_it_is_native(monkeypatch):
    class Info:
        flags = ""

        def __init__(self, _):
            pass

        def is_file(self):
            return True

        def read_text(self):
            return f"processor: 0\nflags : fpu {self.flags}\n"

    monkeypatch.setattr("trainers.processor.Path", Info)
    for flags, precision in [
        ("avx2 avx512f", "32-true"),
        ("avx512_bf16", "bf16-mixed"),
        ("amx_bf16 amx_tile", "bf16-mixed"),
    ]:
        Info.flags = flags
        has_bfloat16.cache_clear()
        assert resolve_precision("auto", "cpu") == precision
        assert resolve_precision("32-true", "cpu") == "32-true"
    has_bfloat16.cache_clear()


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="--device cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"accumulate": 0}, {"clip": 0.0}, {"seed": -1}, {"checkpoint_every": 0}]
)
def test_impossible_options_are_refused(changes):
    with pytest.raises(ValueError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        LoopConfig(**changes)
