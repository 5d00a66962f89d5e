"""CKP80x: tokenizer files, among themselves and against the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_inspect.artifacts.tokenizer_types import SENTINEL_LENGTH
from ckpt_inspect.explain.numbers import counted, listed
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

if TYPE_CHECKING:
    from ckpt_inspect.artifacts.tokenizer_copies import Copies

_FILES = ("tokenizer_json", "tokenizer_config", "added_tokens", "special_tokens_map", "vocab", "tokenizer_model")


def _where(subject: Subject, *kinds: str) -> str:
    artifact = subject.place.find(*(kinds or _FILES))
    return artifact.path if artifact is not None else subject.place.path


@rule("CKP801", "tokenizer-broken", "error")
def tokenizer_broken(subject: Subject) -> Iterator[Hit]:
    """A tokenizer file cannot be used: no model in it, a broken vocabulary, tokens that are not tokens.

    Why it matters: the tokenizer does not load, or gives ids the model was not trained on.

    How to fix: copy the tokenizer files of the base model or of another checkpoint.

    Example: a tokenizer.json without "model".

    Source: tokenizers 0.23; transformers 5.23.
    """
    yield from hits(subject, "CKP801")


@rule("CKP802", "token-id-twice", "error", scope="run")
def token_id_twice(subject: Subject) -> Iterator[Hit]:
    """One id stands for two tokens, or one token has two ids.

    Why it matters: encoding and decoding disagree; the model sees a token it was not trained with.

    How to fix: rebuild the files with save_pretrained from one tokenizer.

    Example: hand-merged added tokens, both with id 32000.

    Source: transformers tokenizer files: added_tokens_decoder, added_tokens.json, tokenizer.json; tokenizers
    refuses or overwrites such ids.
    """
    tokenizer = subject.place.tokenizer
    for duplicate in tokenizer.duplicates if tokenizer is not None else ():
        names = listed([printable(content, 30) for content in duplicate.contents[:3]])
        ids = ", ".join(str(number) for number in duplicate.ids[:4])
        text = f"Id {ids} stands for {names}." if duplicate.kind == "id" else f"{names} has the ids {ids}."
        yield Hit(_where(subject), text, evidence={"ids": list(duplicate.ids)})


@rule("CKP803", "token-id-holes", "note", scope="run")
def token_id_holes(subject: Subject) -> Iterator[Hit]:
    """Ids between 0 and the largest are not used.

    Why it matters: the next free id is not len(tokenizer); code that assumes so overwrites or misses rows.

    How to fix: nothing; never compute a new id from the length.

    Example: a token removed from the middle.

    Source: transformers: len(tokenizer) counts tokens, an embedding needs the largest id + 1 rows.
    """
    tokenizer = subject.place.tokenizer
    if tokenizer is not None and tokenizer.hole_count and tokenizer.exact:
        shown = ", ".join(str(number) for number in tokenizer.holes[:6])
        yield Hit(_where(subject), f"{counted(tokenizer.hole_count, 'id')} below the largest are not used ({shown}).")


@rule("CKP804", "tokenizer-files-disagree", "error", scope="run")
def tokenizer_files_disagree(subject: Subject) -> Iterator[Hit]:
    """Two tokenizer files state different things about the same token.

    Why it matters: which one wins depends on the class and the release that load them; files of two saves are mixed.

    How to fix: save the tokenizer again with one version; tokenizer.json is the one to trust.

    Example: added_tokens.json gives `<tool>` id 151665, tokenizer.json 151667.

    Source: transformers 5.23.0 tokenization_utils_base.py: tokenizer.json is read first, the side files of 4.x are
    not kept up.
    """
    tokenizer = subject.place.tokenizer
    for item in (tokenizer.disagreements if tokenizer is not None else ())[:5]:
        if item.what == "flags":
            continue
        yield Hit(
            _where(subject),
            f"{printable(item.subject, 60)}: {printable(item.first, 40)} in {printable(item.first_file, 40)}, "
            f"{printable(item.second, 40)} in {printable(item.second_file, 40)}.",
            evidence={"what": item.what},
        )


@rule("CKP805", "no-pad-token", "note", scope="run")
def no_pad_token(subject: Subject) -> Iterator[Hit]:
    """The tokenizer has no pad token.

    Why it matters: batches cannot be padded; many scripts then take the end token, which hides every end from the loss.

    How to fix: set one that has a row of its own.

    Example: a Llama base tokenizer.

    Source: transformers 5.23.0 tokenization_utils_base.py _get_padding_truncation_strategies: padding without a pad
    token is an error.
    """
    tokenizer = subject.place.tokenizer
    if tokenizer is not None and "pad_token" not in tokenizer.special and subject.place.has("tokenizer_config"):
        yield Hit(_where(subject, "tokenizer_config"), "No pad_token is set.")


@rule("CKP806", "pad-is-eos", "note", scope="run")
def pad_is_eos(subject: Subject) -> Iterator[Hit]:
    """The pad token is the end token.

    Why it matters: a collator that masks padding by its id masks every end of text too, so the model does not learn to stop.
    Collators that mask by length (LLaMA-Factory's, TRL's) are not affected.

    How to fix: use a pad token of its own.

    Example: `tokenizer.pad_token = tokenizer.eos_token`.

    Source: unsloth issue 416, huggingface/course issue 33.
    """
    tokenizer = subject.place.tokenizer
    if tokenizer is None:
        return
    pad, eos = tokenizer.special.get("pad_token"), tokenizer.special.get("eos_token")
    if pad is not None and pad == eos:
        yield Hit(_where(subject, "tokenizer_config"), f"Both are {printable(pad, 40)}.")


@rule("CKP807", "eos-not-in-generation-config", "warning", scope="run")
def eos_not_in_generation_config(subject: Subject) -> Iterator[Hit]:
    """The tokenizer's end token is not among the ids at which generation stops.

    Why it matters: generate() runs on after the model said it is done.

    How to fix: add the id to eos_token_id in generation_config.json.

    Example: a chat model trained with `<|im_end|>`, generation_config.json still names `<|endoftext|>`.

    Source: transformers 5.23.0 generation/configuration_utils.py GenerationConfig.eos_token_id decides where
    generation stops.
    """
    tokenizer, generation = subject.place.tokenizer, subject.place.generation_config
    if tokenizer is None or generation is None:
        return
    eos = tokenizer.special.get("eos_token")
    number = tokenizer.id_of(eos) if eos is not None else None
    stops = generation.eos_token_ids
    if number is not None and stops and number not in stops:
        yield Hit(
            _where(subject, "generation_config"),
            f"The tokenizer ends with {printable(eos, 40)} ({number}), generation stops at {', '.join(map(str, stops[:4]))}.",
            evidence={"eos": number, "stops": list(stops)},
        )


@rule("CKP808", "turn-end-not-a-stop", "warning", scope="run", thorough=True)
def turn_end_not_a_stop(subject: Subject) -> Iterator[Hit]:
    """The chat template ends turns with a token that does not stop generation.

    Why it matters: the model writes the end of its turn and goes on with the user's.

    How to fix: add that token's id to eos_token_id in generation_config.json.

    Example: a ChatML template on a base model whose end token is `<|endoftext|>`.

    Source: the generation configurations Qwen publishes list both ids.
    """
    tokenizer, generation = subject.place.tokenizer, subject.place.generation_config
    templates = subject.place.chat_templates
    template = templates.default if templates is not None else None
    if tokenizer is None or generation is None or template is None or template.facts.error is not None:
        return
    ends = [text for text in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>") if text in template.text]
    stops = set(generation.eos_token_ids)
    eos = tokenizer.special.get("eos_token")
    for end in ends:
        number = tokenizer.id_of(end)
        if number is not None and stops and number not in stops and end != eos:
            yield Hit(
                _where(subject, "generation_config"),
                f"Turns end with {end} ({number}), which does not stop generation.",
            )


@rule("CKP809", "tokenizer-of-newer-release", "error", scope="run")
def tokenizer_of_newer_release(subject: Subject) -> Iterator[Hit]:
    """The tokenizer was saved by transformers 5 in a form the transformers 4 of this run cannot load.

    Why it matters: 4.x stops with "'list' object has no attribute 'keys'", or does not know the class TokenizersBackend.

    How to fix: load it with transformers 5, or rewrite extra_special_tokens to additional_special_tokens.

    Example: an adapter trained with 5.x served by a stack on 4.57.

    Source: mlx-lm issue 661, transformers issue 45566, ms-swift issue 8186.
    """
    tokenizer = subject.place.tokenizer
    if tokenizer is None:
        return
    extra = tokenizer.config.get("extra_special_tokens")
    if (isinstance(extra, list) and extra) or tokenizer.tokenizer_class == "TokenizersBackend":
        what = (
            "extra_special_tokens is a list" if isinstance(extra, list) and extra else "its class is TokenizersBackend"
        )
        version = subject.run.transformers_version
        if version is not None and version.startswith("4."):
            text = f"{what[0].upper()}{what[1:]}; the run was written by transformers {printable(version, 30)}."
            yield Hit(_where(subject, "tokenizer_config"), text)


@rule("CKP811", "tokenizer-code-missing", "error", scope="run")
def tokenizer_code_missing(subject: Subject) -> Iterator[Hit]:
    """The tokenizer or model names a class of its own, and the code is not here.

    Why it matters: auto_map points to a Python file that was not copied; loading with trust_remote_code fails.

    How to fix: copy the file from the base model.

    Example: `"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", null]}` without tokenization_chatglm.py.

    Source: transformers 5.23.0 dynamic_module_utils.py.
    """
    tokenizer = subject.place.tokenizer
    for value in (tokenizer.auto_map if tokenizer is not None else {}).values():
        names = (
            [value]
            if isinstance(value, str)
            else [item for item in value if isinstance(item, str)]
            if isinstance(value, list)
            else []
        )
        for name in names:
            if "--" in name or "." not in name:
                continue  # "org/repo--module.Class" is fetched from its own repository
            file = f"{name.partition('.')[0]}.py"
            if subject.place.tree.get(f"{subject.place.path}/{file}".lstrip("/")) is None:
                yield Hit(
                    _where(subject, "tokenizer_config"),
                    f"auto_map names {printable(name, 60)}, and {printable(file, 60)} is not here.",
                )
                return


@rule("CKP812", "length-unset", "note", scope="run")
def length_unset(subject: Subject) -> Iterator[Hit]:
    """model_max_length is the placeholder for "unset".

    Why it matters: truncation=True then truncates nothing.

    How to fix: set it to the model's max_position_embeddings.

    Example: 1000000000000000019884624838656.

    Source: transformers tokenization_utils_base.py VERY_LARGE_INTEGER.
    """
    tokenizer = subject.place.tokenizer
    value = tokenizer.config.get("model_max_length") if tokenizer is not None else None
    if isinstance(value, int | float) and value >= SENTINEL_LENGTH:
        yield Hit(_where(subject, "tokenizer_config"), "model_max_length is unset.")


@rule("CKP819", "vocabulary-copies-differ", "warning", scope="run", thorough=True)
def vocabulary_copies_differ(subject: Subject) -> Iterator[Hit]:
    """vocab.json, merges.txt, vocab.txt or a SentencePiece model holds another vocabulary than tokenizer.json.

    Why it matters: fast and slow loading, and programs that read the other file (llama.cpp, converters), give other ids.

    How to fix: delete the slow files, or save all of them from one tokenizer with transformers 4.

    Example: a tokenizer.json with a trimmed vocabulary beside the vocab.json of the base model.

    Source: transformers 4.57 tokenization_utils_fast.py:_save_pretrained writes both from one tokenizer.
    """
    copies = _copies(subject)
    for item in copies.disagreements[:5] if copies is not None else ():
        first, second = printable(item.first, 40), printable(item.second, 40)
        yield Hit(
            _where(subject, "tokenizer_json"),
            f"{printable(item.subject, 60)}: {first} in {item.first_file}, {second} in {printable(item.second_file, 40)}.",
            evidence={"what": item.what},
        )


@rule("CKP820", "merge-of-unknown-token", "error", scope="run", thorough=True)
def merge_of_unknown_token(subject: Subject) -> Iterator[Hit]:
    """A merge of tokenizer.json joins tokens the vocabulary does not have.

    Why it matters: the tokenizers library refuses to load such a file.

    How to fix: remove the merges of removed tokens too, or take the tokenizer of the base model.

    Example: a vocabulary trimmed by hand whose merges were left as they were.

    Source: tokenizers 0.23 models/bpe/model.rs (MergeTokenOutOfVocabulary).
    """
    copies = _copies(subject)
    if copies is not None and copies.unknown_merges:
        shown = printable(copies.first_unknown, 60)
        yield Hit(
            _where(subject, "tokenizer_json"),
            f"{counted(copies.unknown_merges, 'merge')} name a token that is not in the vocabulary ({shown}).",
            evidence={"merges": copies.unknown_merges},
        )


def _copies(subject: Subject) -> Copies | None:
    """The copies of the vocabulary in a place, compared once for both rules."""
    memo = subject.place.memo
    if "tokenizer_copies" not in memo:
        from ckpt_inspect.artifacts.tokenizer_copies import compare_copies

        has = subject.place.has("tokenizer_json")
        memo["tokenizer_copies"] = compare_copies(subject.place.tree, subject.place.path) if has else None
    found: Copies | None = memo["tokenizer_copies"]
    return found
