"""The `show` document as one screen of text."""

from __future__ import annotations

from typing import Any

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import counted, listed, loss, number, short_count, size
from ckpt_inspect.report.screen import Piece, Screen, Span, Style
from ckpt_inspect.report.text_checkpoints import checkpoint_table, stage_words
from ckpt_inspect.report.text_files import file_groups, file_list
from ckpt_inspect.report.words import first_sentence, method_name

Json = dict[str, Any]

# What people look for first among the metrics.
_TELLING = ("eval_loss", "accurac", "f1", "reward", "rouge", "bleu", "perplexity", "predict_loss", "exact")


def show_text(document: Json, *, width: int = 80, color: bool = False, files: bool = False) -> str:
    """The document in at most a screen of lines; with `files`, every file and its purpose instead of groups."""
    screen = Screen(width, color=color)
    _headline(screen, document)
    _fields(screen, document)
    if document["checkpoints"] and not (len(document["checkpoints"]) == 1 and document["kind"] == "file"):
        checkpoint_table(screen, document)
    if document["nested"]:
        _nested(screen, document)
    if files:
        file_list(screen, document)
    else:
        file_groups(screen, document)
    _problems(screen, document)
    _closing(screen, document)
    return str(screen)


def _headline(screen: Screen, document: Json) -> None:
    screen.line(Span(printable(document["name"], 200), "bold"), f": {what_it_is(document)}")
    artifacts = document["artifacts"]
    total = sum(row["bytes"] for row in artifacts)
    pieces = [] if artifacts and document["kind"] != "file" else [size(total)] if artifacts else []
    if document["producers"]:
        names = [
            printable(" ".join(filter(None, (row["name"], row["version"] or row["releases"]))), 80)
            for row in document["producers"]
        ]
        pieces.insert(0, "Written by " + ", ".join(names))
    if document["hub"]:
        hub = document["hub"]
        pieces.append(printable(f"Hugging Face cache of {hub['repo_id']} at {(hub['revision'] or '?')[:12]}"))
    if pieces:
        screen.line(Span(". ".join(pieces) + ".", "dim"))
    screen.blank()


def what_it_is(document: Json) -> str:
    """What the path holds, in a few words."""
    kind, adapter, model = document["kind"], document["adapter"], document["model"]
    zero = next((row["zero"] for row in reversed(document["checkpoints"]) if row["zero"]), None)
    method = method_name(adapter["peft_type"]) if adapter and adapter["peft_type"] else None
    architecture = printable(model["architectures"][0], 60) if model and model["architectures"] else None
    if kind == "file":
        row = document["artifacts"][0]
        return f"{row['kind'].replace('_', ' ')}. {row['purpose']}"
    if kind == "zero":
        stage = stage_words(zero) if zero else "DeepSpeed"
        return f"{'DeepSpeed ' if stage.startswith('ZeRO') else ''}{stage} checkpoint{_ranks(zero)}"
    if kind == "adapter":
        return f"{method or 'PEFT'} adapter" + _base(adapter)
    if kind == "model":
        return f"{architecture or 'model'} weights" if _has_weights(document) else f"{architecture or 'model'} files"
    if kind == "run" and document["nested"] and not document["checkpoints"] and not document["progress"]:
        return f"a directory of {counted(len(document['nested']), 'training output')}"
    if not document["artifacts"]:
        return "an empty directory"
    if kind == "run" and not document["producers"] and not document["progress"]:
        return "no training output recognised"
    what = "checkpoint" if kind == "checkpoint" else "training run"
    subject = f"{method} " if method else f"{architecture} " if architecture else ""
    shards = f", {stage_words(zero)}{_ranks(zero)}" if zero else _fsdp(document)
    return f"{subject}{what}{shards}" + (_base(adapter) if method else "")


def _ranks(zero: Json | None) -> str:
    ranks = (zero["world_size"] or 0) * (zero["model_parallel"] or 1) if zero else 0
    return f" of {counted(ranks, 'rank')}" if ranks else ""


def _fsdp(document: Json) -> str:
    found = next((row["fsdp"] for row in reversed(document["checkpoints"]) if row["fsdp"]), None)
    if found is None:
        return ""
    ranks = f" of {counted(found['world_size'], 'rank')}" if found["world_size"] else ""
    return f", {'distributed' if found['kind'].startswith('dcp') else 'FSDP'}{ranks}"


def _base(adapter: Json | None) -> str:
    return f" on {printable(adapter['base_model'], 80)}" if adapter and adapter["base_model"] else ""


def _has_weights(document: Json) -> bool:
    return any(row["group"] == "weights" for row in document["artifacts"])


def _fields(screen: Screen, document: Json) -> None:
    for label, pieces in (
        ("Model", _model(document)),
        ("Training", _training(document)),
        ("Loss", _loss(document)),
        ("Reward", _rewards(document)),
        ("Evaluation", _evaluation(document)),
        ("Best", _best(document)),
        ("Learning rate", _rate(document)),
        ("Batches", _batches(document)),
        ("Adapter", _adapter(document)),
        ("More adapters", _named_adapters(document)),
        ("New tokens", _new_tokens(document)),
    ):
        if pieces:
            screen.field(label, *pieces)


def _model(document: Json) -> list[Piece]:
    model = document["model"]
    if not model or document["adapter"] or not (model["architectures"] or model["parameters"]):
        return []
    parts = []
    if model["architectures"]:
        parts.append(printable(", ".join(model["architectures"]), 120))
    if model["parameters"]:
        dtypes = f" {printable('/'.join(model['dtypes']), 60)}" if model["dtypes"] else ""
        parts.append(f"{short_count(model['parameters'])} parameters{dtypes}")
    if model["vocab_size"]:
        parts.append(f"vocabulary {model['vocab_size']:,}")
    return [", ".join(parts)]


def _training(document: Json) -> list[Piece]:
    progress = document["progress"]
    if not progress or progress["global_step"] is None:
        return []
    step, most = progress["global_step"], progress["max_steps"]
    done = f"step {step:,}" + (f" of {most:,}" if most else "")
    unit = "epoch" if progress["epoch"] == 1 else "epochs"
    epochs = f", {number(progress['epoch'], 3)} {unit}" if progress["epoch"] else ""
    if progress["finished"] is None:
        return [f"{done}{epochs}"]
    if progress["finished"] and most and step < most:
        return [Span("ended early", "warn"), f" at {done}{epochs}"]
    state = Span("finished", "good") if progress["finished"] else Span("not finished", "warn")
    furthest = max((row for row in document["checkpoints"] if row["step"]), key=lambda row: row["step"], default=None)
    further = f"; {printable(furthest['path'], 80)} was begun later" if furthest and furthest["step"] > step else ""
    return [state, f" at {done}{epochs}{further}."]


def _loss(document: Json) -> list[Piece]:
    answer = document["loss"]
    if not answer:
        return []
    first, final, minimum, average = (answer[key] for key in ("first", "final", "minimum", "average"))
    pieces: list[Piece] = []
    if first and final:
        pieces.append(f"{loss(first['value'])} at step {first['step']} to ")
        pieces += [Span(loss(final["value"]), "bold"), f" at step {final['step']}"]
        if minimum and minimum["step"] not in (first["step"], final["step"]):
            pieces.append(f", lowest {loss(minimum['value'])} at step {minimum['step']}")
        pieces.append(". ")
    if average and average["reported"] is not None:
        explained = first_sentence(average["explanation"] or "")
        pieces.append(explained or f"train_loss {loss(average['reported'])}.")
    return pieces


def _rewards(document: Json) -> list[Piece]:
    found = document["rewards"]
    said = [
        f"{name} {loss(row['first']['value'])} at step {row['first']['step']} to {loss(row['final']['value'])}"
        for name, row in found.items()
    ]
    return [", ".join(said) + "."] if said else []


def _evaluation(document: Json) -> list[Piece]:
    answer = document["evaluation"]
    if not answer or not answer["metrics"]:
        return []
    skipped = ("runtime", "per_second", "samples", "preparation_time", "epoch", "step", "flos")
    names = [name for name in answer["metrics"] if not any(part in name for part in skipped)]
    names.sort(key=lambda name: next((rank for rank, part in enumerate(_TELLING) if part in name), len(_TELLING)))
    values = [f"{printable(name, 60)} {loss(answer['metrics'][name])}" for name in names]
    return [listed(values, 5) + "."] if values else []


def _best(document: Json) -> list[Piece]:
    best = document["best"]
    if not best:
        return []
    where = printable(best["checkpoint"] or "no checkpoint", 120)
    step = f" at step {best['step']:,}" if best["step"] is not None else ""
    gone: list[Piece] = [] if best["exists"] else [", ", Span("not here", "warn")]
    weights = document["root_weights"]
    if weights and weights["of"] in ("best", "last"):
        gone.append(f"; the weights here are the {weights['of']} ones.")
    metric = printable(best["metric"] or "metric", 60)
    return [f"{metric} {loss(best['value'])}{step}: ", Span(where, "accent"), *gone]


def _rate(document: Json) -> list[Piece]:
    answer = document["learning_rate"]
    if not answer:
        return []
    parts = [printable(answer["scheduler"] or "unknown schedule", 60)]
    if answer["warmup_steps"]:
        parts.append(f"{number(answer['warmup_steps'])} warm-up {'step' if answer['warmup_steps'] == 1 else 'steps'}")
    if answer["peak"] is not None:
        parts.append(f"peak {number(answer['peak'], 3)}")
    if answer["final"] is not None:
        parts.append(f"last {number(answer['final'], 3)}")
    text = ", ".join(parts)
    if answer["verdict"] == "matches":
        return [f"{text}; the log follows it."]
    if answer["verdict"] == "differs":
        return [f"{text}; ", Span("the log does not follow it", "warn"), "."]
    return [f"{text}."]


def _batches(document: Json) -> list[Piece]:
    answer = document["batches"]
    if not answer:
        return []
    factors = [f"{answer['per_device']} per device"] if answer["per_device"] is not None else []
    if (answer["gradient_accumulation"] or 0) > 1:
        factors.append(f"{answer['gradient_accumulation']} accumulated")
    if (answer["devices_per_process"] or 1) > 1:
        factors.append(f"{answer['devices_per_process']} devices")
    world, parallel = answer["world_size"], answer["data_parallel"]
    if world is not None and parallel is not None and parallel != world:
        factors.append(f"{parallel} of {world} processes in parallel")
    elif world is not None:
        factors.append(counted(world, "process", "processes"))
    product = " x ".join(factors)
    parts = [product] if product else []
    if answer["global_batch"]:
        parts = [f"{answer['global_batch']} rows per step" + (f" ({product})" if product else "")]
    if answer["steps_per_epoch"]:
        parts.append(f"{number(answer['steps_per_epoch'])} steps per epoch")
    rows = answer["dataset_rows"]
    if rows:
        low, high = rows[0], rows[-1]
        parts.append(f"{low:,} rows in all" if low == high else f"{low:,} to {high:,} rows in all")
    return [f"{', '.join(parts)}."] if parts else []


def _adapter(document: Json) -> list[Piece]:
    adapter = document["adapter"]
    if not adapter:
        return []
    parts = [method_name(adapter["peft_type"]) if adapter["peft_type"] else "unknown method"]
    if adapter["rank"] is not None:
        parts[0] += f" rank {adapter['rank']}"
    if adapter["alpha"] is not None:
        scaling = f" (scaling {number(adapter['scaling'], 3)})" if adapter["scaling"] is not None else ""
        parts[0] += f", alpha {number(adapter['alpha'])}{scaling}"
    targets = adapter["target_modules"]
    if targets:
        shown = (
            listed([printable(name, 60) for name in targets], 8) if isinstance(targets, list) else printable(targets)
        )
        parts[0] += f" on {shown}"
    if adapter["trainable_parameters"]:
        parts.append(f"{short_count(adapter['trainable_parameters'])} trained parameters")
    if adapter["dtypes"]:
        names = adapter["dtypes"] if isinstance(adapter["dtypes"], list) else list(adapter["dtypes"])
        parts.append("/".join(printable(name, 20) for name in names))
    if adapter["bytes"]:
        parts.append(size(adapter["bytes"]))
    return ["; ".join(parts) + "."]


def _named_adapters(document: Json) -> list[Piece]:
    said = []
    for row in document["named_adapters"]:
        purpose = f" ({row['purpose'][:1].lower()}{row['purpose'][1:].rstrip('.')})" if row["purpose"] else ""
        said.append(f"{printable(row['name'], 80)}{purpose}")
    return [f"{listed(said, 8)}."] if said else []


def _new_tokens(document: Json) -> list[Piece]:
    answer = document["new_tokens"]
    if not answer or answer["verdict"] == "none":
        return []
    if answer["verdict"] == "unknown" and not answer["count"] and not document["adapter"]:
        return []  # a model trained whole: nothing says that it had a base with fewer tokens
    explained = first_sentence(answer["explanation"])
    if answer["verdict"] == "unknown":
        return [explained if answer["count"] else "Not known: the base model's tokenizer is not here (--base DIR)."]
    good = answer["verdict"] == "trained"
    return [Span(answer["verdict"].replace("_", " "), "good" if good else "warn"), f". {explained}"]


def _nested(screen: Screen, document: Json) -> None:
    screen.heading("Below this directory")
    most = 40
    screen.table([[printable(row["path"], 200), row["kind"]] for row in document["nested"][:most]], head=False)
    if len(document["nested"]) > most:
        screen.line(f"and {len(document['nested']) - most} more (--json lists all)", indent=2)
    screen.line("Name one of them to see it.", indent=2)


def _problems(screen: Screen, document: Json) -> None:
    rows = document["unreadable"]
    if rows:
        screen.heading("Could not be read")
        for row in rows[:8]:
            screen.line(
                Span(printable(row["path"], 200), "bad"), f": {printable(row['message'], 200)}", indent=2, hang=4
            )
        if len(rows) > 8:
            screen.line(f"and {len(rows) - 8} more", indent=2)
    if document["hub"] and document["hub"]["incomplete"]:
        count = counted(len(document["hub"]["incomplete"]), "download")
        screen.blank()
        screen.line(Span(f"{count} of this repository did not finish (blobs/*.incomplete).", "warn"))
    if document["truncated"]:
        screen.blank()
        screen.line(Span("There are more files than were listed.", "warn"))


def _closing(screen: Screen, document: Json) -> None:
    """The findings of a first look, the worst in words, and where the rest is."""
    counts, worst = document["findings"], document["worst_findings"]
    target = printable(document["path"], 200)
    screen.blank()
    words: list[Piece] = []
    styles: tuple[tuple[str, str, Style], ...] = (
        ("errors", "error", "bad"),
        ("warnings", "warning", "warn"),
        ("notes", "note", ""),
    )
    for key, noun, style in styles:
        if counts[key]:
            words += [", " if words else "", Span(counted(counts[key], noun), style)]
    more = f"ckpt-inspect check {target} also opens every pickle and shard."
    if not words:
        screen.field("Findings", f"none at first look; {more}")
        return
    screen.field("Findings", *words, ".")
    for row in worst:
        place = "" if row["path"] == "." else f"{printable(row['path'], 120)}: "
        code = Span(row["rule"], "bad" if row["severity"] == "error" else "warn")
        screen.line(code, f" {place}{row['message']}", indent=2, hang=9)
    screen.line(Span(f"More: {more}", "dim"), indent=2)
