"""The topic `adapter`."""

from __future__ import annotations

import json
from pathlib import Path

from ckpt_inspect.explain.adapter_size import explain_adapter
from ckpt_inspect.run import open_run


def test_a_prompt_without_modules_lists_none(tmp_path: Path) -> None:
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 8, "token_dim": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    header = json.dumps({"prompt_embeddings": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    found = explain_adapter(open_run(tmp_path))
    assert found is not None
    assert not [line for line in found.arithmetic if line.startswith("modules:")]
    assert any("32 values in 1 tensor" in line for line in found.arithmetic)
