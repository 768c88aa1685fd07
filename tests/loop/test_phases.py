"""The loop with two phases: an autoencoder and a discriminator that sets in late, with all that belongs to them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from tokenize_kit.media.image import read_image
from trainers.autoencoder.losses import (
    LogitAverages,
    adaptive_weight,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    l2,
    lecam,
    ramp,
)
from trainers.autoencoder.patches import DiscriminatorConfig, PatchDiscriminator
from trainers.averages import WeightAverages
from trainers.checkpoints import last_checkpoint, load_checkpoint
from trainers.config import LoopConfig
from trainers.exhibits import Exhibit
from trainers.logs import TIMING, read_log
from trainers.loop import run
from trainers.runtime import start
from trainers.task import PhaseLoss, Task

HERE = Path(__file__).parent


@dataclass
class Pictures:
    values: torch.Tensor

    def to(self, device):
        return Pictures(self.values.to(device))


class Repainter(Task):
    """Makes pictures from pictures; the discriminator joins in from step 3 on.

    Neither loss detaches anything: what a phase must not train is the loop's to freeze.
    """

    unit = "samples"
    advice = "start the discriminator later"
    averaged = ("maker",)

    def __init__(self, rank=0, world=1):
        torch.manual_seed(5)
        self.rank, self.world = rank, world
        self.data = torch.randn(40, 1, 8, 8).tanh()
        self.maker = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
        # What a process saw itself; after a step all have that of the first one.
        self.maker.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.judge = PatchDiscriminator(DiscriminatorConfig(channels=1, width=4, layers=1))
        self.logits = LogitAverages(decay=0.8)
        self.networks = {"maker": self.maker, "judge": self.judge, "logits": self.logits}
        self.optimizers = {
            "autoencoder": [torch.optim.AdamW(self.maker.parameters(), lr=0.01)],
            "discriminator": [torch.optim.AdamW(self.judge.parameters(), lr=0.003)],
        }
        self.best, self.phases, self.drawn = [], [], []

    def batch(self, index):
        # A joint batch of 3 to 6 pictures; the first process has one of them, the second the others.
        joint = [(5 * index + i) % 40 for i in range(3 + index % 4)]
        own = joint if self.world == 1 else joint[:1] if self.rank == 0 else joint[1:]
        return Pictures(self.data[own])

    def weight(self, batch):
        return len(batch.values)

    def active(self, phase, step):
        return phase == "autoencoder" or step >= 3

    def loss(self, phase, batch, step):
        self.phases.append((phase, step))
        made = self.networks["maker"](batch.values)
        if phase == "autoencoder":
            self.maker.seen += len(made)
            total = error = l2(made, batch.values)
            logs = {"error": error.detach()}
            if factor := ramp(step, 3, 4):
                fake = self.networks["judge"](made)
                with torch.no_grad():
                    real = self.networks["judge"](batch.values)
                fooled = hinge_generator(fake.logits)
                weight = adaptive_weight(error, fooled, self.maker[2].weight, len(made))
                total = error + factor * weight * fooled + 0.1 * feature_matching(fake.features, real.features)
                logs["fooled"] = fooled.detach()
        else:
            real, fake = self.networks["judge"](batch.values).logits, self.networks["judge"](made).logits
            self.logits.observe(real, fake)
            total = hinge_discriminator(real, fake) + 0.1 * lecam(real, fake, self.logits.real, self.logits.fake)
            logs = {"judged": total.detach(), "real": real.detach().mean((1, 2, 3)).sum()}
        return PhaseLoss(total, logs)

    def stepped(self, phase, step):
        if phase == "discriminator":
            self.logits.update()

    def set_learning_rates(self, step):
        return 0.01

    def validate(self, runtime):
        # The first process has all of the work: nobody may wait for the other one.
        total = torch.zeros(())
        for part in self.data.split(8) if runtime.rank == 0 else ():
            total += l2(self.networks["maker"](part), part)
        error, seen = runtime.sums([float(total), float(self.maker.seen)])
        return {"error": error / 40, "seen": seen / runtime.world}

    def save_best(self, step, metrics):
        self.best.append((step, metrics["error"], {k: v.clone() for k, v in self.maker.state_dict().items()}))

    def describe(self, sums, weight):
        return {name: value / weight for name, value in sums.items()}

    def warnings(self, line):
        return ["the discriminator rests"] * ("judged" not in line) + ["measured"] * ("validation/error" in line)

    def exhibits(self):
        made = self.networks["maker"](self.data[:1])
        self.drawn.append(made)
        return {"held-out": Exhibit("image", ((made[0].clamp(-1, 1) + 1) * 127.5).round().byte())}


def config(**changes):
    defaults = {"steps": 10, "clip": 1.0, "log_every": 2, "validate_every": 5, "checkpoint_every": 4, "ema": 0.6}
    return LoopConfig(**defaults | {"device": "cpu", "precision": "32-true"} | changes)


def trained(out, notes=None, **changes):
    options = config(**changes)
    runtime = start(options)
    task = Repainter(runtime.rank, runtime.world)
    return task, run(task, options, runtime, out, notes)


class Notes:
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)

    def task(self, *arguments): ...

    def update(self, *arguments, **fields): ...


def log(folder):
    return [{k: v for k, v in line.items() if not k.endswith(TIMING)} for line in read_log(folder / "train_log.jsonl")]


def checkpoint(folder):
    return load_checkpoint(last_checkpoint(folder / "checkpoints"))


def test_a_resting_phase_is_left_out_and_its_means_are_over_the_steps_it_was_in(tmp_path):
    task, _ = trained(tmp_path / "two")
    assert [step for phase, step in task.phases if phase == "discriminator"] == list(range(3, 10))
    trained(tmp_path / "one", log_every=1)
    each = {line["step"]: line for line in log(tmp_path / "one")}
    lines = {line["step"]: line for line in log(tmp_path / "two")}
    assert "judged" not in lines[2]
    assert "gradient_norm_discriminator" not in lines[2]
    # Steps 3 and 4 share a line, and the discriminator was in the second of them only.
    assert lines[4]["judged"] == pytest.approx(each[4]["judged"])
    assert lines[4]["gradient_norm_discriminator"] == pytest.approx(each[4]["gradient_norm_discriminator"])
    sizes = [task.weight(task.batch(index)) for index in (4, 5)]
    mean = (each[5]["judged"] * sizes[0] + each[6]["judged"] * sizes[1]) / sum(sizes)
    assert lines[6]["judged"] == pytest.approx(mean)


def test_each_phase_leaves_the_networks_of_the_other_alone(tmp_path):
    # The losses above detach nothing; without the loop's freezing both networks would have gradients of both phases.
    reached = {}

    class Watched(Repainter):
        def loss(self, phase, batch, step):
            for network in (self.maker, self.judge):
                network.zero_grad()
            return super().loss(phase, batch, step)

        def stepped(self, phase, step):
            super().stepped(phase, step)
            for name, network in (("maker", self.maker), ("judge", self.judge)):
                reached[phase, name] = any(p.grad is not None for p in network.parameters())

    options = config()
    task = Watched()
    run(task, options, start(options), tmp_path)
    assert reached == {
        ("autoencoder", "maker"): True,
        ("autoencoder", "judge"): False,
        ("discriminator", "maker"): False,
        ("discriminator", "judge"): True,
    }
    assert all(p.requires_grad for network in (task.maker, task.judge) for p in network.parameters())


@pytest.mark.parametrize("stop", [2, 6, 9])
def test_a_run_in_two_parts_gives_the_bits_of_one(tmp_path, stop, monkeypatch):
    trained(tmp_path / "whole")

    class Killed(BaseException):
        pass

    original = Repainter.loss

    def loss(self, phase, batch, step):
        # Between the two phases of a step, if there are two.
        if step == stop and (phase == "discriminator" or step < 3):
            raise Killed
        return original(self, phase, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(Repainter, "loss", loss)
        with pytest.raises(Killed):
            trained(tmp_path / "parts")
    _, result = trained(tmp_path / "parts")
    assert result.resumed_from == stop // 4 * 4
    (one, state), (other, other_state) = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert state == other_state
    assert set(one) == {
        "maker",
        "judge",
        "logits",
        "average_maker",
        "optimizer_autoencoder_0",
        "optimizer_discriminator_0",
    }
    for name, tensors in one.items():
        assert all(torch.equal(value, other[name][key]) for key, value in tensors.items())
    assert float(one["logits"]["real"]) != 0
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


def test_averages_follow_the_slow_reference_and_are_what_is_validated_and_kept(tmp_path):
    weights = []

    class Recorded(Repainter):
        def batch(self, index):
            weights.append({name: value.detach().clone() for name, value in self.maker.named_parameters()})
            return super().batch(index)

    options = config(validate_every=10)
    task = Recorded()
    run(task, options, start(options), tmp_path)
    weights.append(dict(task.maker.named_parameters()))
    average = {name: value.double() for name, value in weights[0].items()}
    for step, now in enumerate(weights[1:]):
        decay = min(0.6, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * now[name].double() for name, value in average.items()}
    kept = checkpoint(tmp_path)[0]["average_maker"]
    assert set(kept) == set(average)
    assert all(torch.allclose(kept[name].double(), average[name], atol=1e-6) for name in average)
    ((step, error, best),) = task.best
    assert step == 10
    assert all(torch.equal(best[name], kept[name]) for name in kept)
    assert not torch.equal(best["0.weight"], task.maker[0].weight)
    with torch.no_grad():
        now = float(l2(task.maker(task.data), task.data)) / 40
        task.maker.load_state_dict(kept | {"seen": task.maker.seen})
        assert float(l2(task.maker(task.data), task.data)) / 40 == pytest.approx(error)
    assert now != pytest.approx(error)


def test_averages_are_swapped_in_and_out_exactly_even_after_an_error():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    averages = WeightAverages({"n": network}, 0.5)
    begin = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.add_(1.0)
        network[1].running_mean.fill_(7.0)
    averages.update(100)
    now = {name: value.clone() for name, value in network.state_dict().items()}

    def use():
        with averages.in_place():
            assert torch.allclose(network[0].weight, begin + 0.5)
            assert torch.equal(network[1].running_mean, now["1.running_mean"])
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert all(torch.equal(value, now[name]) for name, value in network.state_dict().items())


def test_averages_of_another_network_are_refused(tmp_path):
    tensors = WeightAverages({"n": nn.Linear(3, 2)}, 0.5).tensors()
    assert set(tensors) == {"average_n"}
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        WeightAverages({"n": nn.Linear(4, 2)}, 0.5).load(tensors, tmp_path)
    with pytest.raises(ValueError, match="lacks the tensor"):
        WeightAverages({"other": nn.Linear(3, 2)}, 0.5).load(tensors, tmp_path)
    with pytest.raises(ValueError, match=r"--ema 1\.0"):
        LoopConfig(ema=1.0)


def test_no_averages_without_the_option(tmp_path):
    task, _ = trained(tmp_path, ema=None)
    assert "average_maker" not in checkpoint(tmp_path)[0]
    assert all(torch.equal(task.best[-1][2][name], value) for name, value in task.maker.state_dict().items())


def test_pictures_warnings_and_units_are_in_the_log(tmp_path):
    notes = Notes()
    task, _ = trained(tmp_path, notes, log_every=1)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "00000005-held-out.png",
        "00000010-held-out.png",
    ]
    seen = read_image((tmp_path / "pictures" / "00000010-held-out.png").read_bytes())
    assert torch.equal(seen, ((task.drawn[-1][0].clamp(-1, 1) + 1) * 127.5).round().byte())
    lines = read_log(tmp_path / "train_log.jsonl")
    assert {line["step"]: line["warnings"] for line in lines if "warnings" in line} == {
        **{step: ["the discriminator rests"] for step in (1, 2, 3)},
        **{step: ["measured"] for step in (5, 10)},
    }
    # Shown when it begins, not with every line.
    assert [text for text in notes.texts if "rests" in text] == ["step 1: the discriminator rests"]
    assert all("samples_per_second" in line and "tokens_per_second" not in line for line in lines)


def test_a_task_adds_its_advice_when_training_breaks_down(tmp_path, monkeypatch):
    original = Repainter.loss

    def loss(self, phase, batch, step):
        found = original(self, phase, batch, step)
        return found if phase == "autoencoder" else PhaseLoss(found.total * float("inf"), found.logs)

    monkeypatch.setattr(Repainter, "loss", loss)
    with pytest.raises(ValueError, match=r"step 4: the gradient.*or start the discriminator later \(last good"):
        trained(tmp_path)


def test_gradients_may_be_taken_inside_a_loss_in_bfloat16(tmp_path):
    trained(tmp_path / "rough", precision="bf16-mixed")
    trained(tmp_path / "exact")
    rough, exact = log(tmp_path / "rough")[-1], log(tmp_path / "exact")[-1]
    assert rough != exact
    assert rough["validation/error"] == pytest.approx(exact["validation/error"], rel=0.05)


def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    trained(tmp_path / "one")
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import test_phases, torch\nfrom pathlib import Path\n"
        "torch.set_num_threads(1)\n"
        f"test_phases.trained(Path({str(tmp_path / 'two')!r}), devices=2)\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    one, two = checkpoint(tmp_path / "one")[0], checkpoint(tmp_path / "two")[0]
    for name, tensors in one.items():
        if not name.startswith("optimizer"):
            for key in set(tensors) - {"seen"}:
                assert torch.allclose(tensors[key], two[name][key], atol=1e-5), (name, key)
    # The first process has one picture of each batch.
    assert int(two["maker"]["seen"]) == 10
    assert [line["validation/seen"] for line in log(tmp_path / "two") if "validation/seen" in line] == [5, 10]
    assert float(two["logits"]["real"]) != 0
    for line, other in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        numbers = {name for name in line if name not in ("warnings", "validation/seen")}
        assert {name: line[name] for name in numbers} == pytest.approx(
            {name: other[name] for name in numbers}, rel=1e-3, abs=1e-6
        )
