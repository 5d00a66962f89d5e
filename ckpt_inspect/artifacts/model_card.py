"""``README.md`` of a run: the model card's front matter, and what the generators wrote below it.

Generators: transformers ``modelcard.py:TrainingSummary.to_model_card`` (hyperparameters, results, framework versions),
TRL ``trainer/base_trainer.py:create_model_card``, PEFT ``peft_model.py:create_or_update_model_card``, LLaMA-Factory (tag
llama-factory), axolotl (badge, configuration and version), Unsloth (tags). Front matter: YAML between two lines ``---``
(huggingface_hub ``repocard.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.front_matter import simple_mapping
from ckpt_inspect.formats.fault_log import FaultLog

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource

MAX_BYTES = 1 << 20
MAX_FRONT_MATTER = 256 << 10

_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_VERSION_LINE = re.compile(
    r"^[-*] (?P<name>[A-Za-z][\w .+-]{0,40}?):? v?(?P<version>\d[\w.+!-]{0,40})[ \t]*\r?$", re.MULTILINE
)
_HYPERPARAMETER = re.compile(r"^- (?P<name>[a-z][a-z0-9_]{1,60}): (?P<value>.{0,400}?)[ \t]*\r?$", re.MULTILINE)
_METRIC = re.compile(
    r"^- (?P<name>[A-Z][^:\n]{0,60}): (?P<value>-?[\d.]+(?:e[+-]?\d+)?|nan|inf)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE
)
_HEADING = re.compile(r"^#{1,6} .*$", re.MULTILINE)
_AXOLOTL = re.compile(r"axolotl version: `(?P<version>[^`\n]{1,60})`")
_TRL_METHOD = re.compile(r"This model was trained with ([A-Za-z][\w-]{1,20})")
_FINE_TUNED = re.compile(r"This model is a fine-tuned version of \[([^\]\n]{1,300})\]")

# Hints in the text, and what wrote it.
_TEXT_HINTS = (
    (
        "This model card has been generated automatically according to the information the Trainer had access to",
        "transformers",
    ),
    ("It has been trained using [TRL](https://github.com/huggingface/trl)", "trl"),
    ("<summary>See axolotl config</summary>", "axolotl"),
    ("Built with Axolotl", "axolotl"),
    ("github.com/unslothai/unsloth", "unsloth"),
    ("hiyouga/LLaMA-Factory", "llama-factory"),
    ("Provide a quick summary of what the model is/does", "peft"),
    ("Trained Using AutoTrain", "autotrain"),
    ("modelscope/ms-swift", "ms-swift"),
)
_TAG_HINTS = {
    "generated_from_trainer": "transformers",
    "trl": "trl",
    "axolotl": "axolotl",
    "unsloth": "unsloth",
    "llama-factory": "llama-factory",
    "autotrain": "autotrain",
    "ms-swift": "ms-swift",
    "peft": "peft",
}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model card states.

    Attributes:
        base_models: of the front matter, else the one the first sentence names.
        generators: names of the programs that left their marks, in the order of `_TEXT_HINTS`, then tags.
        versions: framework versions by lower-case name ("transformers", "peft", "pytorch", "trl", "axolotl", ...).
        hyperparameters: of the section "Training hyperparameters", as text.
        metrics: what the card says the model achieves on the evaluation set.
        method: the training method TRL names ("SFT", "DPO", ...).
    """

    base_models: tuple[str, ...]
    tags: tuple[str, ...]
    library_name: str | None
    license: str | None
    model_name: str | None
    pipeline_tag: str | None
    datasets: tuple[str, ...]
    generators: tuple[str, ...]
    versions: dict[str, str]
    hyperparameters: dict[str, str]
    metrics: dict[str, float]
    method: str | None
    front_matter: dict[str, Any] = field(repr=False)
    characters: int
    faults: tuple[Fault, ...]

    @property
    def base_model(self) -> str | None:
        """The first base model."""
        return self.base_models[0] if self.base_models else None


def read_model_card(source: ByteSource) -> ModelCard:
    """Read a card. Never raises for content."""
    faults = FaultLog()
    text = source.read_at(0, min(source.size, MAX_BYTES)).decode("utf-8", "replace")
    if source.size > MAX_BYTES:
        faults.add("card-too-large", f"{source.size:,} bytes; the first {MAX_BYTES:,} were read")
    match = _FRONT.match(text)
    front = _front_matter(match["yaml"], faults) if match else {}
    body = text[match.end() :] if match else text
    tags = _texts(front.get("tags"))
    sections = _sections(body)
    versions = _versions(sections)
    axolotl = _AXOLOTL.search(body)
    if axolotl:
        versions.setdefault("axolotl", axolotl["version"])
    return ModelCard(
        base_models=_texts(front.get("base_model")) or _first_sentence(body),
        tags=tags,
        library_name=_text(front.get("library_name")),
        license=_text(front.get("license")),
        model_name=_text(front.get("model_name")),
        pipeline_tag=_text(front.get("pipeline_tag")),
        datasets=_texts(front.get("datasets")),
        generators=_generators(body, tags),
        versions=versions,
        hyperparameters=_hyperparameters(sections),
        metrics=_metrics(body),
        method=found[1] if (found := _TRL_METHOD.search(body)) else None,
        front_matter=front,
        characters=len(text),
        faults=faults.sealed(),
    )


def _front_matter(text: str, faults: FaultLog) -> dict[str, Any]:
    """The YAML at the top. Cards of training libraries need no YAML parser, whose import costs more than the reading."""
    if len(text) > MAX_FRONT_MATTER:
        faults.add("card-too-large", f"{len(text):,} characters of front matter")
        return {}
    simple = simple_mapping(text)
    if simple is not None:
        return simple
    from ckpt_inspect.artifacts.yaml_mapping import parse_mapping

    return parse_mapping(text, faults)


def _sections(body: str) -> Mapping[str, str]:
    """Text below each heading, by the heading's words in lower case."""
    headings = list(_HEADING.finditer(body))
    ends = [*(heading.start() for heading in headings[1:]), len(body)][: len(headings)]
    return {
        heading[0].lstrip("#").strip().lower(): body[heading.end() : end]
        for heading, end in zip(headings, ends, strict=True)
    }


def _versions(sections: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in sections.items():
        if "framework version" in name:
            for match in _VERSION_LINE.finditer(text):
                found[match["name"].strip().lower()] = match["version"]
    return found


def _hyperparameters(sections: Mapping[str, str]) -> dict[str, str]:
    text = next((text for name, text in sections.items() if "training hyperparameters" in name), "")
    return {match["name"]: match["value"] for match in _HYPERPARAMETER.finditer(text)}


def _metrics(body: str) -> dict[str, float]:
    marker = "It achieves the following results on the evaluation set:"
    start = body.find(marker)
    if start < 0:
        return {}
    end = body.find("\n#", start)
    return {
        match["name"]: float(match["value"])
        for match in _METRIC.finditer(body[start : end if end > 0 else None])
        if _is_number(match["value"])
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _generators(body: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    found = [name for hint, name in _TEXT_HINTS if hint in body]
    found.extend(_TAG_HINTS[tag] for tag in tags if tag in _TAG_HINTS)
    return tuple(dict.fromkeys(found))


def _first_sentence(body: str) -> tuple[str, ...]:
    match = _FINE_TUNED.search(body)
    return (match[1],) if match and match[1] not in ("None", "") else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(item for item in items if isinstance(item, str) and item)
