"""``llamaboard_config.yaml`` and ``training_args.yaml``: what LLaMA-Factory's web page wrote down of a run.

Format: LLaMA-Factory ``webui/common.py:save_args`` (plain YAML); `llamaboard_config.yaml` holds the page's fields as
``tab.field`` (``top.model_name``, ``train.cutoff_len``), `training_args.yaml` the arguments of the command it started,
without those that are None, False or empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_inspect.artifacts.yaml_mapping import read_yaml_mapping as read_yaml_mapping

if TYPE_CHECKING:
    from ckpt_inspect.formats.fault import Fault
    from ckpt_inspect.storage import ByteSource


@dataclass(frozen=True, slots=True)
class LlamaBoardConfig:
    """The page's fields by tab ("top", "train", "eval", "infer", ...); fields without a tab stand under ""."""

    tabs: dict[str, dict[str, Any]]
    faults: tuple[Fault, ...]

    def get(self, tab: str, field: str) -> Any:
        """One field's value, None where it is not set."""
        return self.tabs.get(tab, {}).get(field)


def read_llamaboard_config(source: ByteSource) -> LlamaBoardConfig:
    """Read the page's configuration. Never raises for content."""
    values, faults = read_yaml_mapping(source)
    tabs: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        tab, dot, field = key.partition(".")
        tabs.setdefault(tab if dot else "", {})[field if dot else tab] = value
    return LlamaBoardConfig(tabs, faults)
