"""Folders of small sequence models that were never trained, but have opinions: what coding needs of a model."""

from __future__ import annotations

import torch

from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.model_folder import ModelConfigFile, load_model, write_model_folder, write_weights
from trainers.autoregressive.models import build_model

TRANSFORMER = {"layers": 1, "width": 16, "heads": 2}


def write_model(folder, tokenizers, templates, shapes=None, family="transformer", context=48, seed=0, **config):
    """Write a model folder of tokenizers by the names of their streams, and return its path as text."""
    first, *others = (SequenceTemplate.parse(text) for text in templates)
    every = (first, *others)
    nulls = {name for template in every for name in template.nulls()}
    vocabulary = Vocabulary({name: one.spec for name, one in tokenizers.items()}, shapes, nulls)
    values = TRANSFORMER if family == "transformer" else {}
    values = {**values, **config, "vocab_size": vocabulary.size, "context": context}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(family, values)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    sources = {}
    for name, tokenizer in tokenizers.items():
        sources[name] = folder / "made" / name
        tokenizer.save(sources[name])
    prints = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
    says = ModelConfigFile(family, model.config.to_dict(), first, vocabulary, prints, others=tuple(others))
    write_model_folder(folder / "model", says, sources)
    write_weights(folder / "model", model, 0, {})
    return str(folder / "model")


def loaded_model(*args, **kwargs):
    """Do the same and load it."""
    return load_model(write_model(*args, **kwargs))
