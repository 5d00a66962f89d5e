"""CKP8xx and 94x: tokenizers, chat templates, model cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.frame import case, edit_json, set_json

BASE = "base-resized"


def tokenizer(run: Path, change: Any) -> None:
    edit_json(run / "tokenizer.json", change)


def settings(run: Path, **values: Any) -> None:
    set_json(run / "tokenizer_config.json", **values)


@case("CKP801", base=BASE)
def the_tokenizer_has_no_model(run: Path) -> None:
    tokenizer(run, lambda value: value.pop("model") and None)


@case("CKP802", base=BASE, also=("CKP803",))
def an_id_stands_for_two_tokens(run: Path) -> None:
    tokenizer(run, lambda value: value["model"]["vocab"].update(Z=value["model"]["vocab"]["Y"]))


@case("CKP803", base=BASE)
def a_token_was_removed_from_the_middle(run: Path) -> None:
    tokenizer(run, lambda value: value["model"]["vocab"].pop("Z") and None)


@case("CKP804", base=BASE)
def two_files_disagree_on_an_id(run: Path) -> None:
    (run / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 77}))


@case("CKP805", base=BASE)
def there_is_no_pad_token(run: Path) -> None:
    edit_json(run / "tokenizer_config.json", lambda value: value.pop("pad_token") and None)


@case("CKP806", base=BASE)
def padding_is_the_end(run: Path) -> None:
    settings(run, pad_token="<|im_end|>")


@case("CKP807", base=BASE)
def generation_does_not_stop_at_the_end_token(run: Path) -> None:
    set_json(run / "generation_config.json", eos_token_id=0)


@case("CKP808", base=BASE)
def turns_end_with_a_token_that_does_not_stop(run: Path) -> None:
    settings(run, eos_token="<|endoftext|>", pad_token="<|im_start|>")
    set_json(run / "generation_config.json", eos_token_id=0)


@case("CKP809", base=BASE)
def the_tokenizer_is_of_a_newer_release(run: Path) -> None:
    settings(run, extra_special_tokens=["<|im_start|>"])
    for name in ("config.json", "generation_config.json"):
        set_json(run / name, transformers_version="4.57.1")


@case("CKP811", base=BASE, also=("CKP507",))
def the_tokenizers_code_was_not_copied(run: Path) -> None:
    settings(run, auto_map={"AutoTokenizer": ["tokenization_mine.MyTokenizer", None]})


@case("CKP812", base=BASE)
def the_length_is_unset(run: Path) -> None:
    settings(run, model_max_length=1000000000000000019884624838656)


@case("CKP813", base=BASE)
def the_template_does_not_parse(run: Path) -> None:
    (run / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}")


@case("CKP814", base=BASE)
def the_template_uses_an_unknown_filter(run: Path) -> None:
    text = "{% for m in messages %}<|im_start|>{{ m['content'] | from_json }}<|im_end|>{% endfor %}"
    text += "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    (run / "chat_template.jinja").write_text(text)


@case("CKP815", base=BASE)
def the_template_has_no_generation_prompt(run: Path) -> None:
    (run / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )


@case("CKP816", base=BASE)
def the_template_is_of_another_tokenizer(run: Path) -> None:
    text = (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
    )
    (run / "chat_template.jinja").write_text(text)


@case("CKP817", base=BASE)
def the_inline_template_is_older(run: Path) -> None:
    text = (run / "chat_template.jinja").read_text()
    settings(run, chat_template=text.replace("<|im_end|>", "<|endoftext|>"))


@case("CKP818", base=BASE)
def the_default_template_was_not_copied(run: Path) -> None:
    (run / "additional_chat_templates").mkdir()
    (run / "chat_template.jinja").rename(run / "additional_chat_templates" / "tool_use.jinja")


@case("CKP940", base="lora-indices")
def the_card_was_copied_from_another_adapter(run: Path) -> None:
    path = run / "README.md"
    path.write_text(path.read_text().replace("base-indices", "another-base"))


@case("CKP945", base="lora-indices")
def the_head_of_the_card_is_not_yaml(run: Path) -> None:
    path = run / "README.md"
    path.write_text("---\nbase_model: [unclosed\n\t- x: :\n---\n" + path.read_text().split("---", 2)[2])


@case("CKP819", base=BASE)
def a_vocabulary_of_the_base_was_left(run: Path) -> None:
    vocabulary = json.loads((run / "tokenizer.json").read_text())["model"]["vocab"]
    first, second = [name for name, number in vocabulary.items() if number in (10, 11)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (run / "vocab.json").write_text(json.dumps(vocabulary))


@case("CKP820", base=BASE)
def a_merge_names_a_removed_token(run: Path) -> None:
    tokenizer(run, lambda value: value["model"]["merges"].append(["zzzz", "yyyy"]))
