"""What a model's configuration is: what the options say, and what follows from the data, the templates and the objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from trainers.autoregressive.options import DEFAULT_PRESET, DEFAULT_STYLE, TRANSFORMER, TrainSequenceOptions
from trainers.config import OptimizerConfig

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoregressive.data import TokenData
    from trainers.autoregressive.mixture import MixedData
    from trainers.autoregressive.objectives import Objective

DEFAULT_CONTEXT = {"tiny": 256, "small": 512, "base": 1024}
"""Context of a text model by preset; of a sound with codebooks, so many time steps at most."""


def default_context(data: TokenData, preset: str | None) -> int:
    """Return the tokens of a row where nobody says how many: `DEFAULT_CONTEXT` of what may be cut, else the longest document."""
    usual = DEFAULT_CONTEXT[preset or DEFAULT_PRESET]
    documents = data.documents
    if documents.is_stream:
        return usual
    longest = int(documents.tokens.max())
    if documents.has_pieces:
        return min(longest, documents.tokens_of_steps(usual))
    return longest


def model_config(
    options: TrainSequenceOptions,
    data: MixedData,
    objective: Objective,
    context: int,
    tokenizers: Mapping[str, Tokenizer],
) -> dict[str, Any]:
    """Return the plain form of the model's configuration.

    Raises:
        ValueError: the form does not go with the objective or the template, or the head with the streams.
    """
    from trainers.autoregressive.models.forms import form_named
    from trainers.autoregressive.ordinal_streams import told_ordinal

    vocab_size = data.vocabulary.size + objective.extra_ids
    if options.form is not None and not objective.causal:
        raise ValueError(
            f"--form {options.form}: the objective {options.objective!r} sees all tokens; leave --form out"
        )
    # Beside others a template without a condition is an ordinary one: there is nothing to see as a whole.
    bare = [template for template in data.templates if not template.condition]
    of_conditions = options.form is not None and "given" in form_named(options.form).needs
    if of_conditions and len(bare) == len(data.templates):
        raise ValueError(
            f"--form {options.form} sees a condition as a whole, but the template {str(bare[0])!r} has none; write one with "
            "'->'"
        )
    changes = options.settings()
    if options.family != TRANSFORMER:
        values = _of_file(options.family, options.family_config) if options.family_config is not None else {}
        values |= changes | _settings_of_the_data(options.family, data)
        values |= told_ordinal(options.family, values, data.vocabulary, tokenizers)
        return {**values, "vocab_size": vocab_size, "context": context}
    from trainers.autoregressive.models.config import preset

    changes["form"] = (options.form or "causal") if objective.causal else "bidirectional"
    changes["told_next"] = data.has_drawn_orders
    if (kind := changes.get("codebooks", "flat")) != "flat":
        changes["codebook_slots"] = _codebook_slots(kind, data, options.objective if not objective.causal else None)
    changes |= told_ordinal(options.family, changes, data.vocabulary, tokenizers)
    size, style = options.preset or DEFAULT_PRESET, options.style or DEFAULT_STYLE
    return preset(size, style, vocab_size=vocab_size, context=context, **changes).to_dict()


def _of_file(family: str, file: str) -> dict[str, Any]:
    """Return the fields of ``--family-config``.

    Raises:
        ValueError: one is none of the family's.
    """
    from tokenize_kit.errors import did_you_mean
    from tokenize_kit.files import read_json_object
    from trainers.autoregressive.models import configuration_of

    values = read_json_object(file)
    if (kind := configuration_of(family)) is not None:
        known = [field.name for field in fields(kind)]
        for name in values:
            if name not in known:
                raise ValueError(
                    f"--family-config {file}: {family} has no field {name!r} (it has {', '.join(known)})"
                    f"{did_you_mean(name, known)}"
                )
    return values


def _settings_of_the_data(family: str, data: MixedData) -> dict[str, Any]:
    """Return those fields of a family's configuration that follow from the templates.

    Raises:
        ValueError: the family does not serve one of them.
    """
    from trainers.autoregressive.models import model_class
    from trainers.autoregressive.models.family import FitsTemplates, TemplatePart

    cls: Any = model_class(family)
    if not isinstance(cls, FitsTemplates):
        return {}
    templates = [
        [
            TemplatePart(
                segment.name,
                not segment.condition,
                segment.stream.place_axes,
                max(map(segment.stream.depth, segment.stream.shapes)),
                segment.stream.is_open,
                segment.arrangement.in_grid_order,
            )
            for segment in (table.segment for table in part.documents.segments)
        ]
        for part in data.parts
    ]
    try:
        return cls.settings_for(templates)
    except ValueError as error:
        raise ValueError(f"--family {family}: {error}") from None


def _codebook_slots(kind: str, data: MixedData, hiding: str | None) -> int:
    """Return the most codebooks that a layout of the templates puts together.

    Args:
        kind: the option.
        data: of the templates.
        hiding: the objective, if it is one of hidden tokens.

    Raises:
        ValueError: there are none, or the objective hides single tokens.
    """
    option = f"--model.codebooks {kind}"
    if hiding is not None:
        raise ValueError(f"{option}: the objective {hiding!r} hides single tokens of a step; leave one of them out")
    segments = [table.segment for part in data.parts for table in part.documents.segments]
    slots = max(segment.arrangement.slots for segment in segments)
    if slots > 1:
        return slots
    several = [segment for segment in segments if max(map(segment.stream.depth, segment.stream.shapes)) > 1]
    why = "no stream of the template has several codebooks; leave the option out"
    if several and several[0].stream.has_codebooks:
        why = f"coarse-first puts every id of {several[0].name!r} by itself; take the layout delay or flatten"
    elif several:
        why = f"the channels of {several[0].name!r} share one range of ids, so that they come one by one; leave the option out"
    raise ValueError(f"{option}: {why}")


def check_model(options: TrainSequenceOptions, data: MixedData, objective: Objective, model: Any) -> None:
    """Refuse a model that cannot do what the objective, the template and the options want.

    Raises:
        ValueError: it cannot.
    """
    from trainers.autoregressive.models.fast.fused import Fusable

    family = f"a model of the family {options.family!r}"
    if model.causal != objective.causal:
        sees = "sees no later tokens" if model.causal else "sees all tokens"
        raise ValueError(f"{family} {sees}, which the objective {options.objective!r} does not go with")
    if data.has_drawn_orders and "following" not in model.needs:
        drawn = next(part.documents.template for part in data.parts if part.documents.has_drawn_orders)
        raise ValueError(
            f"the template {str(drawn)!r} has an order that is drawn, but {family} does not ask which place "
            "comes next; take another order"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        without_gradient = {"--ema": options.ema, "--z-loss": options.z_loss or None, "--init-from": options.init_from}
        changed = OptimizerConfig()
        for field in fields(changed):
            value = getattr(options.optimizer, field.name)
            if value != getattr(changed, field.name):
                without_gradient[f"--optimizer.{field.name.replace('_', '-')}"] = value
        for option, value in without_gradient.items():
            if value is not None:
                raise ValueError(f"{option} {value}: {family} only counts and has no weights; leave {option} out")
    if options.compile and not isinstance(model, Fusable):
        raise ValueError(f"--compile: {family} has no parts that can be compiled; leave --compile out")
