"""``probe``: how much of a label the hidden states of a trained model tell, layer by layer (iGPT, Chen et al. 2020).

The states after each layer are averaged over the places of a sample; a logistic regression on them is fitted to the training part
and is right about so many of the held-out samples. Beside it stand the same regression on raw ids and values, always saying the
most frequent class, and the model itself fine-tuned on the same labels. The module loads no torch until it is called.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.autoregressive.probing.options import (
    CURVE_FILE,
    PROBE_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    ProbeOptions,
    ProbeResult,
    ProbeRow,
)

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.sequences.packing import Ints
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.probing.finetuning import LinearHead
    from trainers.autoregressive.probing.hidden_states import SampleReader
    from trainers.autoregressive.probing.samples import Probed


def probe(options: ProbeOptions, progress: Progress | None = None) -> ProbeResult:
    """Probe a model folder and write what is found.

    Raises:
        FileNotFoundError: there is no model or shard set.
        ValueError: the model's family tells no layers, the template has the label, there is none, or the folder holds something
            else.
    """
    from tokenize_kit.claims import begun
    from tokenize_kit.files import write_json
    from trainers.autoregressive.model_folder import load_model
    from trainers.autoregressive.models import LayeredModel
    from trainers.autoregressive.probing.report import write_curve, write_page
    from trainers.runtime import resolve_device

    loaded = load_model(options.model, resolve_device(options.device)).using(options.template)
    if not isinstance(loaded.model, LayeredModel):
        raise ValueError(
            f"a model of {type(loaded.model).__name__} tells no layers (it has no layer_states), so there is nothing to probe"
        )
    if progress is not None and loaded.note:
        progress.note(loaded.note)
    out = Path(options.out)
    own = (RESULTS_FILE, CURVE_FILE, REPORT_FILE)
    foreign = "give an empty or new one, or --overwrite to replace a probe there"
    with begun(out, PROBE_FILE, _identity(options), own=own, overwrite=options.overwrite, foreign=foreign):
        result = _probe(options, loaded, progress)
        write_json(out / RESULTS_FILE, asdict(result))
        write_curve(result, out / CURVE_FILE)
        write_page(result, options, loaded.note, out / REPORT_FILE)
    return result


def _identity(options: ProbeOptions) -> dict[str, Any]:
    left_out = ("out", "overwrite", "device", "trust_shards")
    return {name: value for name, value in asdict(options).items() if name not in left_out}


def _probe(options: ProbeOptions, loaded: LoadedModel, progress: Progress | None) -> ProbeResult:
    import numpy as np

    from tokenize_kit.sources.heldout import read_keys
    from trainers.autoregressive.probing.hidden_states import SampleReader, states_of
    from trainers.autoregressive.probing.linear import fit_probe
    from trainers.autoregressive.probing.raw_features import raw_features
    from trainers.autoregressive.probing.samples import open_probed

    probed = open_probed(
        loaded,
        options.shards,
        options.label,
        options.stream,
        options.validation_fraction,
        None if options.validation_keys is None else read_keys(options.validation_keys),
        options.limit,
        options.seed,
        trust=options.trust_shards,
        note=None if progress is None else progress.note,
    )
    every = np.sort(np.concatenate([probed.training, probed.held_out]))
    reader = SampleReader(loaded.model, probed)
    if progress is not None:
        progress.task("hidden states", len(every))
    features: dict[tuple[Any, str], Any] = {
        ("layer", name): states
        for name, states in states_of(loaded.model, reader, every, options.batch_size, progress).items()
    }
    last = list(features)[-1]
    features |= {("raw", name): raw for name, raw in raw_features(probed, every).items()}
    labels, held_out = probed.labels[every], np.searchsorted(every, probed.held_out)
    sets: dict[int | None, Ints] = {count: probed.few(count, options.seed) for count in sorted(set(options.labels))}
    sets[None] = probed.training
    rows: list[ProbeRow] = []
    heads: dict[int | None, LinearHead] = {}
    if progress is not None:
        progress.task("probes", len(sets) * len(features))
    for a_class, some in sets.items():
        for (kind, name), table in features.items():
            fitted = fit_probe(table, labels, np.searchsorted(every, some), held_out, options.penalty)
            rows.append(ProbeRow(name, kind, table.shape[1], a_class, len(some), fitted.accuracy, fitted.converged))
            if (kind, name) == last and fitted.head is not None:
                heads[a_class] = fitted.head
            if progress is not None:
                progress.update(len(rows))
    if options.finetune_steps:
        for a_class, some in sets.items():
            rows.append(_finetuned(options, loaded, probed, reader, a_class, some, heads[a_class], progress))
    return ProbeResult(
        options.out,
        str(loaded.template),
        probed.name,
        options.label,
        probed.classes,
        len(probed.training),
        len(probed.held_out),
        probed.unlabelled,
        probed.chance,
        tuple(rows),
    )


def _finetuned(
    options: ProbeOptions,
    loaded: LoadedModel,
    probed: Probed,
    reader: SampleReader,
    a_class: int | None,
    samples: Ints,
    head: LinearHead,
    progress: Progress | None,
) -> ProbeRow:
    from trainers.autoregressive.probing.finetuning import finetune, predicted

    if progress is not None:
        progress.task(f"fine-tuning on {len(samples):,} labels", options.finetune_steps)
    classifier = finetune(
        loaded.model,
        head,
        reader,
        samples,
        probed.labels[samples],
        steps=options.finetune_steps,
        batch_size=options.batch_size,
        learning_rate=options.finetune_learning_rate,
        seed=options.seed,
        progress=progress,
    )
    found = predicted(classifier, reader, probed.held_out, options.batch_size)
    accuracy = float((found == probed.labels[probed.held_out]).mean())
    return ProbeRow("fine-tuned", "fine-tuned", head.weight.shape[1], a_class, len(samples), accuracy)
