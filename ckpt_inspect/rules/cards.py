"""CKP94x: model cards and YAML side files."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


@rule("CKP940", "card-names-another-base", "warning", scope="run")
def card_names_another_base(subject: Subject) -> Iterator[Hit]:
    """README.md and adapter_config.json name different base models.

    Why it matters: the card was copied from another model; people load the adapter on the wrong base.

    How to fix: correct base_model in the card.

    Example: base_model Qwen2.5-7B in the card, Qwen2.5-7B-Instruct in the configuration.

    Source: peft 0.21.2 peft_model.py create_or_update_model_card.
    """
    card, config = subject.run.model_card, subject.run.adapter_config
    artifact = subject.run.find("model_card")
    if card is None or config is None or artifact is None or not config.base_model or not card.base_models:
        return
    if not any(_same(name, config.base_model) for name in card.base_models):
        yield Hit(
            artifact.path,
            f"The card says {printable(card.base_models[0], 80)}, adapter_config.json {printable(config.base_model, 80)}.",
        )


@rule("CKP945", "yaml-broken", "warning")
def yaml_broken(subject: Subject) -> Iterator[Hit]:
    """The head of the model card, or a YAML file of LLaMA-Factory, cannot be read.

    Why it matters: the Hub refuses such a card; the settings of the run cannot be shown.

    How to fix: correct the line named.

    Example: a tab in front of a key.

    Source: YAML 1.2; huggingface_hub repocard.
    """
    yield from hits(subject, "CKP945")


def _same(first: str, second: str) -> bool:
    """Whether two names may mean the same base: the same repository, or a path that ends in its name."""
    left, right = first.rstrip("/").lower(), second.rstrip("/").lower()
    return left == right or left.rpartition("/")[2] == right.rpartition("/")[2]
