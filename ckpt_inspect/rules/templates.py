"""CKP81x and 82x: chat templates."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_inspect.explain.numbers import listed
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import hits
from ckpt_inspect.rules.finding import Hit
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject


def _file(subject: Subject, place: str) -> str:
    full = f"{subject.place.path}/{place}".lstrip("/")
    return (
        full
        if subject.place.tree.get(full) is not None
        else place
        if subject.place.tree.get(place)
        else subject.place.path
    )


@rule("CKP813", "template-broken", "error", scope="run", thorough=True)
def template_broken(subject: Subject) -> Iterator[Hit]:
    """A chat template does not parse.

    Why it matters: apply_chat_template stops, in training and in every server.

    How to fix: correct the line named; compare with the base model's template.

    Example: an `{% endif %}` too few after a hand edit.

    Source: jinja2 3.1 with the extensions of transformers 5.23.0 utils/chat_template_utils.py.
    """
    yield from hits(subject, "CKP813")
    templates = subject.place.chat_templates
    for template in templates.templates if templates is not None else ():
        if template.facts.error is not None:
            line = f" (line {template.facts.line})" if template.facts.line else ""
            yield Hit(
                _file(subject, template.place), f"It does not parse: {printable(template.facts.error, 120)}{line}."
            )


@rule("CKP814", "template-unknown-names", "warning", scope="run", thorough=True)
def template_unknown_names(subject: Subject) -> Iterator[Hit]:
    """A chat template uses filters or tests jinja2 does not have.

    Why it matters: rendering stops at them.

    How to fix: replace them; servers may offer filters of their own that transformers does not.

    Example: `{{ x | from_json }}`.

    Source: transformers 5.23.0 utils/chat_template_utils.py: the names a template is rendered with.
    """
    templates = subject.place.chat_templates
    for template in templates.templates if templates is not None else ():
        unknown = [*sorted(template.facts.unknown_filters), *sorted(template.facts.unknown_tests)]
        if unknown:
            yield Hit(
                _file(subject, template.place), f"Unknown to jinja2: {listed([printable(n, 30) for n in unknown[:4]])}."
            )


@rule("CKP815", "template-without-generation-prompt", "note", scope="run", thorough=True)
def template_without_generation_prompt(subject: Subject) -> Iterator[Hit]:
    """The chat template does not look at add_generation_prompt.

    Why it matters: the prompt either always or never ends with the assistant's header. LLaMA-Factory's templates do so on
    purpose: the header is part of the user's turn.

    How to fix: add the branch, unless the template comes from LLaMA-Factory.

    Example: a template without `{% if add_generation_prompt %}`.

    Source: LLaMA-Factory data/template.py Template._get_jinja_template.
    """
    templates = subject.place.chat_templates
    template = templates.default if templates is not None else None
    if template is None or template.facts.error is not None or template.facts.generation_prompt:
        return
    if any(producer.name == "LLaMA-Factory" for producer in subject.run.producers):
        return
    yield Hit(_file(subject, template.place), "The template does not use add_generation_prompt.")


@rule("CKP816", "template-token-missing", "warning", scope="run", thorough=True)
def template_token_missing(subject: Subject) -> Iterator[Hit]:
    """The chat template writes control tokens that the tokenizer does not have.

    Why it matters: they are split into ordinary pieces, so the model never sees the marks it was trained on.

    How to fix: add the tokens, or use the template that belongs to this tokenizer.

    Example: a Llama 3 template on a Qwen tokenizer.

    Source: LLaMA-Factory issue 6736.
    """
    tokenizer, templates = subject.place.tokenizer, subject.place.chat_templates
    template = templates.default if templates is not None else None
    if tokenizer is None or template is None or not tokenizer.exact or template.facts.error is not None:
        return
    missing = [text for text in template.facts.control_strings if tokenizer.id_of(text) is None]
    if missing:
        yield Hit(
            _file(subject, template.place),
            f"The tokenizer has no token {listed([printable(text, 30) for text in missing[:5]], 'or')}.",
            evidence={"missing": [printable(text, 60) for text in missing[:20]]},
        )


@rule("CKP817", "templates-differ", "warning", scope="run", thorough=True)
def templates_differ(subject: Subject) -> Iterator[Hit]:
    """chat_template.jinja and the template inside tokenizer_config.json differ.

    Why it matters: transformers takes the .jinja file, tools that know only tokenizer_config.json the other.

    How to fix: delete the one that is not meant.

    Example: an edit in one of the two.

    Source: transformers 5.23.0 tokenization_utils_base.py _from_pretrained: chat_template.jinja wins (tried).
    """
    templates = subject.place.chat_templates
    for first, second in templates.conflicts if templates is not None else ():
        yield Hit(
            _file(subject, first.place),
            f"{printable(first.place, 60)} and {printable(second.place, 60)} hold different templates; the .jinja file wins.",
        )


@rule("CKP818", "templates-without-default", "warning", scope="run", thorough=True)
def templates_without_default(subject: Subject) -> Iterator[Hit]:
    """There are additional chat templates and no default one.

    Why it matters: apply_chat_template without a name fails; part of the files was not copied.

    How to fix: copy chat_template.jinja too.

    Example: `additional_chat_templates/tool_use.jinja` alone.

    Source: transformers 5.23.0 tokenization_utils_base.py save_chat_templates.
    """
    templates = subject.place.chat_templates
    if templates is not None and templates.templates and templates.default is None:
        names = listed([printable(template.name, 30) for template in templates.templates[:4]])
        yield Hit(_file(subject, templates.templates[0].place), f"Only {names}, no default template.")
