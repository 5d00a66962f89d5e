"""What a file is, by name, place and first bytes; and that the table is sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_inspect import knowledge
from ckpt_inspect.run import groups, kinds, open_run
from ckpt_inspect.run.classify import Classifier, lfs_pointer_size

# Every file the tool promises to know, by the kind it has to be.
PROMISED = {
    "adapter_config.json": "adapter_config",
    "adapter_model.safetensors": "adapter_weights",
    "adapter_model.bin": "adapter_weights",
    "added_tokens.json": "added_tokens",
    "all_results.json": "all_results",
    "train_results.json": "train_results",
    "eval_results.json": "eval_results",
    "predict_results.json": "predict_results",
    "test_results.json": "predict_results",
    "eval_mnli-mm_results.json": "split_results",
    "generated_predictions.jsonl": "generated_predictions",
    "chat_template.jinja": "chat_template",
    "additional_chat_templates/tool_use.jinja": "additional_chat_template",
    "merges.txt": "merges",
    "vocab.json": "vocab",
    "tokenizer.json": "tokenizer_json",
    "tokenizer.model": "tokenizer_model",
    "spiece.model": "tokenizer_model",
    "tokenizer_config.json": "tokenizer_config",
    "special_tokens_map.json": "special_tokens_map",
    "README.md": "model_card",
    "trainer_log.jsonl": "trainer_log",
    "trainer_state.json": "trainer_state",
    "training_args.bin": "training_args",
    "training_args.yaml": "training_args_yaml",
    "llamaboard_config.yaml": "llamaboard_config",
    "training_loss.png": "loss_plot",
    "training_eval_loss.png": "loss_plot",
    "training_rewards_accuracies.png": "loss_plot",
    "training_eval_my-data.v2_loss.png": "loss_plot",
    "config.json": "model_config",
    "generation_config.json": "generation_config",
    "preprocessor_config.json": "preprocessor_config",
    "processor_config.json": "processor_config",
    "video_preprocessor_config.json": "video_preprocessor_config",
    "model.safetensors": "model_weights",
    "model-00002-of-00037.safetensors": "model_weights",
    "model.fp16.safetensors": "model_weights",
    "model.safetensors.index.json": "model_weights_index",
    "pytorch_model.bin": "pytorch_weights",
    "pytorch_model-00001-of-00002.bin": "pytorch_weights",
    "pytorch_model.bin.index.json": "pytorch_weights_index",
    "value_head.safetensors": "value_head",
    "value_head.bin": "value_head",
    "optimizer.pt": "optimizer",
    "optimizer.bin": "optimizer_bin",
    "scheduler.pt": "scheduler",
    "scaler.pt": "scaler",
    "rng_state.pth": "rng_state",
    "rng_state_0.pth": "rng_state_rank",
    "rng_state_127.pth": "rng_state_rank",
    "latest": "latest",
    "latest_universal": "latest_universal",
    "zero_to_fp32.py": "zero_to_fp32_script",
    "zero_to_torch.py": "zero_to_torch_script",
    "global_step8/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": "zero_optimizer_shard",
    "global_step8/zero_pp_rank_255_mp_rank_03_optim_states.pt": "zero_optimizer_shard",
    "global_step8/zero_pp_rank_1_mp_rank_00optim_states.pt": "zero_optimizer_shard",
    "global_step8/zero_pp_rank_12_mp_rank_00_model_states.pt": "zero3_model_shard",
    "global_step8/mp_rank_00_model_states.pt": "zero_model_states",
    "global_step8/layer_3_expert_11_mp_rank_00_model_states.pt": "zero_expert",
    "global_step8/expert_1_mp_rank_00_model_states.pt": "zero_expert",
    "global_step8/expp_rank_1_mp_rank_00_optim_states.pt": "zero_expert_optimizer",
    "global_step8/layer_07-model_00-model_states.pt": "pipeline_layer",
    "global_step8/layer_07-model_states.pt": "pipeline_layer",
    "global_step8_universal/zero/model.layers.0.mlp.weight/fp32.pt": "universal_parameter",
    "global_step8_universal/zero/model.layers.0.mlp.weight/exp_avg.pt": "universal_optimizer",
    "global_step8_universal/zero/optimizer_state.pt": "universal_optimizer_state",
    "pytorch_model_fsdp_0/.metadata": "dcp_model_metadata",
    "pytorch_model_fsdp_0/__1_0.distcp": "dcp_model_shard",
    "optimizer_0/.metadata": "dcp_optimizer_metadata",
    "optimizer_0/__1_0.distcp": "dcp_optimizer_shard",
    ".metadata": "dcp_metadata",
    "__0_0.distcp": "dcp_shard",
    "pytorch_model_fsdp.bin": "fsdp_full_weights",
    "runs/Nov23_19-15-19_vm/events.out.tfevents.1795461319.vm.27583.0": "tensorboard_events",
    "completions/completions_00010.parquet": "completions",
    "checkpoint-is-incomplete.txt": "incomplete_marker",
    "blob.incomplete": "incomplete_download",
    "random_states_0.pkl": "accelerate_random_states",
    "1_Pooling/config.json": "sentence_transformers_module_config",
    "offloaded_tensors/rank00/12_40.tensor.swp": "deepspeed_swap",
    "pissa_init/adapter_config.json": "adapter_config",
    "wandb/run-20240101/files/output.log": "tracker_directory",
}


@pytest.mark.parametrize(("path", "kind"), PROMISED.items(), ids=list(PROMISED))
def test_every_promised_file_is_known(path: str, kind: str) -> None:
    assert Classifier().kind_by_name(path) == (kind, True)


def test_the_place_of_a_tree_opened_inside_a_checkpoint_still_counts() -> None:
    assert (
        Classifier(context="/data/run/checkpoint-2/optimizer_0").kind_by_name("__0_0.distcp")[0]
        == "dcp_optimizer_shard"
    )
    inside = Classifier(context="/data/global_step4_universal/zero")
    assert inside.kind_by_name("l1.weight/fp32.pt")[0] == "universal_parameter"


def test_a_similar_name_is_not_mistaken() -> None:
    classifier = Classifier()
    for name in ("model.safetensors.bak", "xmodel.safetensors", "rng_state_x.pth", "fp32.pt", "loss.png", "notes.txt"):
        assert classifier.kind_by_name(name)[0] == "unknown", name


def test_a_browsers_second_download_is_the_same_kind_but_not_exact() -> None:
    assert Classifier().kind_by_name("tokenizer_config (11).json") == ("tokenizer_config", False)
    assert Classifier().kind_by_name("holiday (1).jpg") == ("unknown", True)


@given(st.text(alphabet="abcdefghij0123456789_-. ()/", max_size=40))
def test_a_kind_does_not_depend_on_what_was_asked_before(name: str) -> None:
    used = Classifier()
    for path in PROMISED:
        used.kind_by_name(path)
    assert used.kind_by_name(name) == Classifier().kind_by_name(name)


@given(st.sampled_from(sorted(PROMISED)), st.integers(0, 9))
def test_patterns_do_not_depend_on_the_value_of_a_digit(path: str, digit: int) -> None:
    """The classifier remembers kinds by the shape of a name, which is right only under this law."""
    parent, _, name = path.rpartition("/")
    rows = knowledge.load("artifacts")["kind"]
    if any(name in row.get("names", ()) for row in rows.values()):
        return
    stem, dot, suffix = name.rpartition(".")
    other = re.sub(r"\d", str(digit), stem) + dot + suffix
    assert Classifier().kind_by_name(f"{parent}/{other}".lstrip("/"))[0] == PROMISED[path]


def test_every_row_has_a_purpose_a_group_and_a_source() -> None:
    names = {id_ for id_, _ in groups()}
    for kind in kinds().values():
        assert kind.purpose.endswith("."), kind.id
        assert len(kind.source) > 5, kind.id
        assert kind.group in names, kind.id
        assert set(kind.needed_for) <= {"inference", "resume", "consolidate", "record"}, kind.id


def test_no_name_is_claimed_twice_in_one_place() -> None:
    seen: set[tuple[str, str]] = set()
    for id_, row in knowledge.load("artifacts")["kind"].items():
        for name in row.get("names", ()):
            key = (name, row.get("within", ""))
            assert key not in seen, (id_, name)
            seen.add(key)


def test_a_git_lfs_pointer_is_told_by_its_content(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 988097824\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    (tmp_path / "config.json").write_text("{}")
    run = open_run(tmp_path)
    kinds_by_path = {artifact.path: artifact for artifact in run.artifacts}
    assert kinds_by_path["model.safetensors"].kind == "lfs_pointer"
    assert "988097824" in (kinds_by_path["model.safetensors"].detail or "")
    assert kinds_by_path["config.json"].kind == "model_config"
    assert not run.has("model_weights")


def test_a_pointer_without_a_size_is_still_one() -> None:
    assert lfs_pointer_size(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n") == 0
    assert lfs_pointer_size(b"version 1\nsize 5\n") is None


def test_an_error_page_in_place_of_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert open_run(tmp_path).artifacts[0].kind == "error_page"


def test_files_of_unknown_name_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "mine.pkl").write_bytes(b"\x80\x04}.")
    (tmp_path / "mine.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "mine.bin").write_bytes(b"\x01\x02\x03\x04nothing known")
    (tmp_path / "mine.xyz").write_bytes(b"PK\x03\x04" + bytes(40))
    found = {artifact.path: artifact.kind for artifact in open_run(tmp_path).artifacts}
    assert found == {
        "mine.pt": "torch_file",
        "mine.pkl": "pickle_file",
        "mine.safetensors": "safetensors_file",
        "mine.bin": "unknown",
        "mine.xyz": "unknown",
    }
