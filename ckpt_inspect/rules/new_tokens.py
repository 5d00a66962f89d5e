"""CKP34x: new tokens, whether the model has rows for them and whether those were trained."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.artifacts.embedding_names import embedding_side
from ckpt_inspect.explain.new_tokens import NewTokensAnswer
from ckpt_inspect.explain.numbers import counted
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


def _where(subject: Subject) -> str:
    artifact = subject.place.find("adapter_weights", "model_weights", "model_weights_index", "tokenizer_json")
    return artifact.path if artifact is not None else subject.place.path


def _of_verdict(subject: Subject, verdict: str) -> Iterator[Hit]:
    answer = subject.answers.tokens(subject.run)
    if answer is not None and answer.verdict == verdict:
        yield Hit(_where(subject), answer.explanation, answer.remedy, evidence=_evidence(answer))


def _evidence(answer: NewTokensAnswer) -> dict[str, object]:
    return {
        "tokens": [token.id for token in answer.tokens[:50]],
        "base_rows": answer.base_rows,
        "saved_rows": answer.saved_rows,
        "tokenizer_length": answer.tokenizer_length,
    }


@rule("CKP341", "token-out-of-range", "error", scope="run")
def token_out_of_range(subject: Subject) -> Iterator[Hit]:
    """The tokenizer has ids beyond the saved embedding's last row.

    Why it matters: any text with such a token fails with an index error, or a device-side assert on a GPU.

    How to fix: resize the model to len(tokenizer), or use the tokenizer the weights were trained with.

    Example: largest id 32003, 32000 rows.

    Source: torch 2.13 nn.functional.embedding: an index past the last row is an error.
    """
    yield from _of_verdict(subject, "out_of_range")


@rule("CKP342", "tokens-in-padding-rows", "warning", scope="run")
def tokens_in_padding_rows(subject: Subject) -> Iterator[Hit]:
    """New tokens sit in padding rows of the base, and nothing trained those rows.

    Why it matters: no resize was needed, so PEFT saved nothing and nothing failed, but the rows hold whatever the base's
    initialisation left there.

    How to fix: train them with trainable_token_indices, or save the embeddings through modules_to_save.

    Example: three tokens added to Qwen2.5, which has 271 spare rows.

    Source: transformers 5.23.0 modeling_utils.py resize_token_embeddings is only needed past the last row; peft
    0.21.2 saves embeddings when the size changed.
    """
    yield from _of_verdict(subject, "in_padding_rows_untrained")


@rule("CKP343", "embeddings-saved-but-frozen", "warning", scope="run")
def embeddings_saved_but_frozen(subject: Subject) -> Iterator[Hit]:
    """The embeddings are in the adapter, but only as a frozen copy: the new tokens were not trained.

    Why it matters: "the embeddings are in my adapter" is not "they were learned". PEFT saves them when the vocabulary size
    changed, whatever trained them.

    How to fix: name them in modules_to_save, or use trainable_token_indices, and train again.

    Example: resize_token_embeddings and a plain LoRA on q_proj and v_proj.

    Source: peft 0.21.2 utils/save_and_load.py get_peft_model_state_dict(save_embedding_layers="auto"); tried with
    plain LoRA.
    """
    yield from _of_verdict(subject, "saved_but_frozen")


@rule("CKP344", "new-rows-lost", "error", scope="run")
def new_rows_lost(subject: Subject) -> Iterator[Hit]:
    """New tokens need rows the base does not have, and no embedding was saved.

    Why it matters: the rows that training used are gone; the adapter loads without an error on a base that has no rows for
    these ids.

    How to fix: save with save_embedding_layers=True; PEFT cannot tell for vision-language models, or when the base is
    offline.

    Example: Gemma 3 resized by three tokens: its configuration has no top-level vocab_size, so PEFT saves nothing.

    Source: peft 0.21.2 utils/save_and_load.py get_peft_model_state_dict: the base's vocabulary size is looked up,
    and nothing is saved where it cannot be.
    """
    yield from _of_verdict(subject, "lost")


@rule("CKP345", "tokens-trained-on-one-side", "warning", scope="run")
def tokens_trained_on_one_side(subject: Subject) -> Iterator[Hit]:
    """The new tokens were trained in the input embedding or in the output embedding, not in both.

    Why it matters: the model learned to read them but can hardly write them, or the reverse.

    How to fix: with untied embeddings use the dictionary form of trainable_token_indices, with lm_head in it.

    Example: `trainable_token_indices=[151665]` on a model with a head of its own.

    Source: peft 0.21.2 tuners/trainable_tokens; a list of indices covers the input embedding only (tried on an
    untied model).
    """
    yield from _of_verdict(subject, "partly_trained")


@rule("CKP346", "embedding-rows-differ", "error")
def embedding_rows_differ(subject: Subject) -> Iterator[Hit]:
    """The saved input and output embeddings have different numbers of rows.

    Why it matters: only one of the two was resized; loading or generating fails.

    How to fix: resize both with resize_token_embeddings, which does so.

    Example: 32003 rows in embed_tokens, 32000 in lm_head.

    Source: transformers issue 45276.
    """
    weights = subject.place.adapter_weights if subject.place.adapter_config is not None else subject.place.weights
    if weights is None:
        return
    rows: dict[str, set[int]] = {"input": set(), "output": set()}
    for tensor in weights.tensors:
        module = tensor.name.removesuffix(".weight")
        side = embedding_side(module) if tensor.name.endswith(".weight") and len(tensor.shape) == 2 else None
        if side is not None and not module.endswith((".predictions", "position_embeddings")):
            rows[side].add(tensor.shape[0])
    if len(rows["input"]) == 1 and len(rows["output"]) == 1 and rows["input"] != rows["output"]:
        first, second = rows["input"].pop(), rows["output"].pop()
        config = subject.place.model_config
        if config is not None and config.values.get("is_encoder_decoder"):
            return
        yield Hit(_where(subject), f"The input embedding has {first} rows, the output embedding {second}.")


@rule("CKP347", "token-indices-count", "error")
def token_indices_count(subject: Subject) -> Iterator[Hit]:
    """trainable_token_indices and the rows saved for them differ in number.

    Why it matters: loading stops with a size mismatch, or rows go to the wrong tokens.

    How to fix: take configuration and weights from the same save.

    Example: three ids, two rows.

    Source: peft 0.21.2 tuners/trainable_tokens/layer.py TrainableTokensLayer.
    """
    config, weights = subject.place.adapter_config, subject.place.adapter_weights
    if config is None or weights is None or not config.trainable_token_indices:
        return
    from ckpt_inspect.artifacts.adapter import named_ids

    counts = {len(ids) for ids in named_ids(config.trainable_token_indices).values()}
    for tensor in weights.tensors:
        if tensor.role == "token_delta" and tensor.shape and counts and tensor.shape[0] not in counts:
            yield Hit(
                _where(subject),
                f"{counted(tensor.shape[0], 'row')} saved for {' or '.join(str(count) for count in sorted(counts))} token ids.",
                tensor=tensor.name,
            )


@rule("CKP348", "three-copies", "note", scope="run")
def three_copies(subject: Subject) -> Iterator[Hit]:
    """Each saved embedding is in the adapter file three times.

    Why it matters: modules_to_save together with a resize makes PEFT store the trained matrix twice and the old one once: the
    file is three times as large as it has to be.

    How to fix: keep the plain `.weight` of each module; the copies under modules_to_save and original_module are not loaded.

    Example: 717 kB instead of 250 kB on a tiny model; gigabytes on a real one.

    Source: peft 0.21.2 utils/other.py ModulesToSaveWrapper; what utils/save_and_load.py writes for it (tried).
    """
    weights = subject.run.adapter_weights
    if weights is None:
        return
    extra = [tensor for tensor in weights.tensors if tensor.role in ("modules_to_save", "original_module")]
    plain = {tensor.module for tensor in weights.tensors if tensor.role == "saved_module"}
    spare = sum(tensor.nbytes for tensor in extra if tensor.module in plain)
    if spare:
        yield Hit(
            _where(subject), f"{spare:,} bytes are second and third copies of {counted(len(plain), 'saved module')}."
        )


@rule("CKP349", "tied-embeddings-apart", "warning", scope="run")
def tied_embeddings_apart(subject: Subject) -> Iterator[Hit]:
    """The base ties input and output embeddings, and the adapter trained them as two.

    Why it matters: they diverge in training; a merge that keeps the tie loses one of them.

    How to fix: set ensure_weight_tying, or save only embed_tokens; before merging, set tie_word_embeddings to false.

    Example: modules_to_save embed_tokens and lm_head on Qwen2.5-1.5B.

    Source: transformers issue 45127, peft issue 2777.
    """
    answer = subject.answers.tokens(subject.run)
    config = subject.run.adapter_config
    if answer is None or config is None or config.ensure_weight_tying or not answer.tied:
        return
    if answer.input_embedding == answer.output_embedding == "trained":
        yield Hit(
            _where(subject), "The base ties its embeddings; the adapter holds two matrices that were trained apart."
        )
