"""A sequence model's training as a `trainers.task.Task`: packed batches in, summed cross entropy out, validation by stream.

Validation gives bits a token, and for each predicted stream the bits of what its tokens stand for: a byte of text, a
dimension (one channel of one pixel) of a picture. For a lossless tokenizer that is the model's likelihood of the samples
themselves; for the others it is that of their decoded form, and the metric's name ends in ``_quantised``. Of several templates
each has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from tokenize_kit.protocol import Tokenizer
from tokenize_kit.sequences.documents import Documents
from tokenize_kit.sequences.packing import IGNORED, Ints
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary, unknown_stream
from trainers.autoregressive.batches import Batch, RowBatches, every_row_once
from trainers.autoregressive.likelihood import bits_per
from trainers.autoregressive.model_folder import write_weights
from trainers.autoregressive.models import SequenceModel
from trainers.autoregressive.objectives import Objective
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN
from trainers.autoregressive.units import Units
from trainers.config import OptimizerConfig
from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate
from trainers.runtime import Runtime
from trainers.task import PhaseLoss, Task


class LossOf(nn.Module):
    """A sequence model whose forward pass is its loss, so that wrappers for several processes see every forward pass.

    Args:
        model: freshly built.
        z_loss: factor of the squared log-partition.
        token_weights: float (ids,), how much each label counts in training; 1 for all if None.
    """

    token_weights: Tensor | None

    def __init__(self, model: SequenceModel, z_loss: float, token_weights: Tensor | None = None) -> None:
        super().__init__()
        self.model = cast("nn.Module", model)
        self.z_loss = z_loss
        self.register_buffer("token_weights", token_weights, persistent=False)

    def forward(self, batch: Batch, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the summed negative log-likelihood in nats.

        Args:
            batch: packed rows.
            counted: bool (B, T), which labels to count, as the objective weights them; if None all but -100, as the streams are
                weighted besides.
        """
        weights = batch.weights(counted)
        if counted is None and self.token_weights is not None:
            weights = weights * self.token_weights[batch.labels.clamp(min=0)]
        model = cast("SequenceModel", self.model)
        loss = model.loss(batch.inputs, batch.labels, weights, z_loss=self.z_loss)
        return loss.total, loss.nll


class SequenceTask(Task):
    """Trains a sequence model on packed documents.

    Args:
        model: freshly built.
        data: training batches of this process.
        validation: what to measure after training steps.
        optimizer: its options.
        steps: of the whole run, for the learning rate.
        z_loss: factor of the squared log-partition.
        out: the model folder, where the best weights go.
        token_weights: float (ids,), see `LossOf`; from `token_weights_of`.
    """

    def __init__(
        self,
        model: SequenceModel,
        data: RowBatches,
        validation: Validation | TemplateValidations,
        optimizer: OptimizerConfig,
        steps: int,
        z_loss: float,
        out: Path,
        token_weights: Tensor | None = None,
    ) -> None:
        self.model, self.data, self.validation, self.out = cast("nn.Module", model), data, validation, out
        self.networks: dict[str, nn.Module] = {"model": LossOf(model, z_loss, token_weights)}
        self._token_weights = None if token_weights is None else token_weights.clone()  # stays where batches are made
        tables = model.tables() if hasattr(model, "tables") else ()
        self.optimizers = {"model": build_optimizers(self.model, optimizer, tables)}
        if not self.optimizers["model"]:
            # What counts has seen most at the end.
            self.keep = "last"
        self._config, self._steps = optimizer, steps

    def batch(self, index: int) -> Batch:
        """Return this process's micro-batch ``index``."""
        return self.data.batch(index)

    def weight(self, batch: Batch) -> float:
        """Return the number of predicted tokens, or the sum of their weights."""
        if self._token_weights is None:
            return batch.weight if batch.label_weights is None else float(batch.weights().double().sum())
        weights = self._token_weights[batch.labels.clamp(min=0)].double() * batch.weights()
        return float(weights.sum())

    def size(self, batch: Batch) -> int:
        """Return the number of predicted tokens."""
        return batch.weight

    def loss(self, phase: str, batch: Batch, step: int) -> PhaseLoss:  # noqa: ARG002
        """Return the summed loss of a batch."""
        total, nll = self.networks["model"](batch)
        return PhaseLoss(total, {"loss": total.detach(), "nll": nll})

    def set_learning_rates(self, step: int) -> float:
        """Set the learning rates of step ``step``; return that of AdamW."""
        set_learning_rate(self.optimizers["model"], learning_rate_factor(step, self._steps, self._config))
        # A model that counts has nothing to optimise.
        return float(self.optimizers["model"][-1].param_groups[0]["lr"]) if self.optimizers["model"] else 0.0

    def describe(self, sums: Mapping[str, float], weight: float) -> dict[str, float]:
        """Return the mean loss (nats, with z-loss) and the bits a token, both weighted as the loss is."""
        weight = weight if weight > 0 else 1
        return {"loss": sums["loss"] / weight, "bits_per_token": bits_per(sums["nll"], weight)}

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics of the present weights on the held-out documents; see `Validation`."""
        return self.validation.measure(self.networks["model"], runtime)

    def told(self, metrics: Mapping[str, float]) -> str:
        """Return the bits a token of each of several templates."""
        return self.validation.told(metrics) if isinstance(self.validation, TemplateValidations) else ""

    def save_best(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the weights into the model folder."""
        write_weights(self.out, self.model, step, metrics)


class Validation:
    """Measures a model on held-out documents.

    Args:
        documents: all documents.
        chosen: those that are held out; may be empty, and then there are no metrics.
        context: tokens of a row.
        batch_size: rows of a batch.
        tokenizers: the tokenizer of each stream, to count what the tokens stand for.
        objective: what is predicted where. Only where every token is do bits a byte or a dimension mean something.
        needs: what the model asks for.
    """

    def __init__(
        self,
        documents: Documents,
        chosen: Ints,
        context: int,
        batch_size: int,
        tokenizers: Mapping[str, Tokenizer],
        objective: Objective = NEXT_TOKEN,
        needs: Collection[str] = (),
    ) -> None:
        self.documents, self.chosen, self.context, self.batch_size = documents, chosen, context, batch_size
        self.objective, self.needs = objective, needs
        template = documents.template
        self.streams = tuple(dict.fromkeys(template.stream_of(name) for name in template.target))
        """The streams that are predicted, each once."""
        self.units = {stream: Units(tokenizers[stream]) for stream in self.streams}
        """For each predicted stream what its tokens stand for."""
        self.counts = {stream: _count(documents, chosen, stream, units) for stream, units in self.units.items()}
        """For each predicted stream how many bytes or dimensions the documents have."""
        self._stream_of = stream_of_ids(documents.vocabulary)

    def measure(self, network: nn.Module, runtime: Runtime) -> dict[str, float]:
        """Return ``bits_per_token``, ``loss`` (nats a token) and a rate for each predicted stream, over all processes."""
        if not len(self.chosen):
            return {}
        by_stream, _, total = self.sums(network, runtime)
        metrics = {"bits_per_token": bits_per(sum(by_stream.values()), total), "loss": sum(by_stream.values()) / total}
        return metrics | self.rates(by_stream)

    def sums(self, network: nn.Module, runtime: Runtime) -> tuple[dict[str, float], dict[str, float], float]:
        """Return for each predicted stream the nats and the tokens, and the number of all tokens, over all processes."""
        names = self.streams
        nats = dict.fromkeys(names, 0.0)
        tokens = dict.fromkeys(names, 0.0)
        count = 0.0
        for batch in self._batches(runtime):
            moved = batch.to(runtime.device)
            count += float(moved.weights().double().sum())
            for name, counted in self._counted(moved.labels):
                nats[name] += float(network(moved, counted)[1])
                tokens[name] += float(moved.weights(counted).double().sum())
        *both, total = runtime.sums([*nats.values(), *tokens.values(), count])
        return (
            dict(zip(names, both[: len(names)], strict=True)),
            dict(zip(names, both[len(names) :], strict=True)),
            total,
        )

    def rates(self, nats: Mapping[str, float]) -> dict[str, float]:
        """Return the bits a byte or a dimension of each predicted stream, and of sounds the kbit a second, from its nats."""
        metrics: dict[str, float] = {}
        for name, value in nats.items():
            if self.objective.whole:
                metrics |= self.units[name].rates(name, value, self.counts[name])
        return metrics

    def _batches(self, runtime: Runtime) -> Iterator[Batch]:
        return every_row_once(
            self.documents,
            self.chosen,
            self.context,
            self.batch_size,
            runtime.rank,
            runtime.world,
            self.objective,
            self.needs,
        )

    def _counted(self, labels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield for each predicted stream which labels are its own."""
        if len(self.streams) == 1:
            yield self.streams[0], labels != IGNORED
            return
        owner = self._stream_of.to(labels.device)[labels.clamp(min=0)]
        order = list(self.documents.vocabulary.streams)
        for name in self.streams:
            yield name, (owner == order.index(name)) & (labels != IGNORED)


class TemplateValidations:
    """Measures a model on the held-out documents of several templates.

    Args:
        validations: of each template, by what its metrics are called.
    """

    def __init__(self, validations: Mapping[str, Validation]) -> None:
        self.validations = {name: one for name, one in validations.items() if len(one.chosen)}

    def measure(self, network: nn.Module, runtime: Runtime) -> dict[str, float]:
        """Return ``bits_per_token`` and ``loss`` over all tokens, and for each template ``TEMPLATE/..`` what it has by itself.

        A template that predicts several streams has ``TEMPLATE/STREAM/bits_per_token`` besides.
        """
        nats = tokens = 0.0
        found = {}
        for template, validation in self.validations.items():
            by_stream, tokens_of, total = validation.sums(network, runtime)
            nats, tokens = nats + sum(by_stream.values()), tokens + total
            found[f"{template}/bits_per_token"] = bits_per(sum(by_stream.values()), total)
            if len(by_stream) > 1:
                found |= {
                    f"{template}/{name}/bits_per_token": bits_per(value, tokens_of[name])
                    for name, value in by_stream.items()
                    if tokens_of[name]
                }
            found |= {f"{template}/{name}": rate for name, rate in validation.rates(by_stream).items()}
        if not self.validations:
            return {}
        return {"bits_per_token": bits_per(nats, tokens), "loss": nats / tokens, **found}

    def told(self, metrics: Mapping[str, float]) -> str:
        """Return in one line what `measure` found of each template."""
        rates = [f"'{template}' {metrics[f'{template}/bits_per_token']:.3f}" for template in self.validations]
        return f"held out, bits a token: {', '.join(rates)}" if rates else ""


def loss_weights_of(words: Sequence[str]) -> dict[str, float]:
    """Read words such as ``image=0.5``.

    Raises:
        ValueError: a word is not STREAM=W with a weight of at least 0, or a stream is there twice.
    """
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        if not name or not equals or not 0 <= weight < float("inf"):
            raise ValueError(f"--loss-weights {word!r} is not STREAM=W with a number of at least 0, such as image=0.5")
        if name in found:
            raise ValueError(f"--loss-weights gives the stream {name!r} twice; give it once")
        found[name] = weight
    return found


def token_weights_of(
    words: Sequence[str], templates: Sequence[SequenceTemplate], vocabulary: Vocabulary
) -> Tensor | None:
    """Return how much each id counts as a label, float (ids,); None if all count alike.

    Args:
        words: see `loss_weights_of`.
        templates: of the run.
        vocabulary: the id space.

    Raises:
        ValueError: a word is none, a stream is predicted by no template, or a template is left without any loss.
    """
    given = loss_weights_of(words)
    if not given:
        return None
    predicted = [{template.stream_of(name) for name in template.target} for template in templates]
    every = set().union(*predicted)
    for name in given:
        if name not in every:
            said = (
                f"the stream {name!r} is a condition in all templates and has no loss"
                if name in vocabulary.streams
                else unknown_stream(name, every)
            )
            raise ValueError(f"--loss-weights {name}={given[name]:g}: {said}; leave it out")
    for template, streams in zip(templates, predicted, strict=True):
        if not any(given.get(name, 1.0) for name in streams):
            raise ValueError(
                f"--loss-weights {' '.join(words)} leaves the template {str(template)!r} without any loss; leave the template "
                "out, or give one of its streams a weight above 0"
            )
    # The last one is for ids of no stream, which have -1.
    of_streams = torch.tensor([*(given.get(name, 1.0) for name in vocabulary.streams), 1.0])
    return of_streams[stream_of_ids(vocabulary)]


def stream_of_ids(vocabulary: Vocabulary) -> Tensor:
    """Return for each id the index of the stream that it is of, special tokens included; -1 for those of no stream."""
    owner = torch.full((vocabulary.size,), -1)
    for index, ids in enumerate(vocabulary.streams.values()):
        owner[ids.begin] = index
        if ids.end is not None:
            owner[ids.end] = index
        if ids.null is not None:
            owner[ids.null] = index
        if ids.first_shape is not None:
            owner[ids.first_shape : ids.first_shape + len(ids.shapes)] = index
        for codebook, offset in enumerate(ids.offsets):
            sizes = ids.spec.codebook_sizes
            owner[offset : offset + sizes[min(codebook, len(sizes) - 1)]] = index
    return owner


def _count(documents: Documents, chosen: Ints, stream: str, units: Units) -> int:
    template = documents.template
    names = [name for name in template.target if template.stream_of(name) == stream]
    every = (documents.grids(document) for document in chosen.tolist())
    return sum(units.count(grids[name]) for grids in every for name in names if name in grids)
