"""From a request's JSON to the arguments of an analysis, and to the Python that makes the same call.

Texts become ids or texts of a prompt here, so that no function that takes paths too ever sees a string from outside.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from nanogpt_lens.catalogue import Analysis
from nanogpt_lens.results.base import Result
from nanogpt_lens.running.metrics import Metric, answer_logprob, logit_diff, logit_diff_of, loss
from nanogpt_lens.server.kinds import REASONS, SOURCES, ResultOf, adapter, kind_in_words, option_kinds, why_not
from nanogpt_lens.server.refusals import Refusal
from nanogpt_lens.server.schemas import AnalysisBody, AskedBody, MetricBody, PromptsBody, TaskBody
from nanogpt_lens.server.served import ServedModel

_MEMORY = 2**28
_LARGEST = 10**9
_DEEPEST = 24
_MOST_VALUES = 200_000
_TOLD = 20_000  # letters of a text that the Python line repeats


@dataclass
class Call:
    """One call of an analysis.

    Attributes:
        analysis: which.
        arguments: by name, without the model.
        words: each of them as Python.
        lines: Python that comes before the call.
        earlier: Python that makes the earlier results that it takes; it leaves each under its option's name.
    """

    analysis: Analysis
    arguments: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    earlier: list[str] = field(default_factory=list)

    def give(self, name: str, value: Any, words: str) -> None:
        """Set one argument, and how it is written."""
        self.arguments[name], self.words[name] = value, words

    def python(self, served: ServedModel) -> str:
        """Python that makes the same call."""
        name, public = self.analysis.name, sys.modules["nanogpt_lens"].__all__
        function = f"ngl.{name}" if name in public else f'ngl.catalogue.find("{name}").function'
        by_name = signature(self.analysis.function).parameters
        parts = ["model"]
        for parameter in list(by_name.values())[1:]:
            if parameter.name in self.words:
                word = self.words[parameter.name]
                only = parameter.kind is Parameter.KEYWORD_ONLY or len(parts) <= self._skipped(parameter.name)
                parts.append(f"{parameter.name}={word}" if only else word)
        imported, loaded = "import nanogpt_lens as ngl", f"model = {served.python}"
        earlier = [line for line in self.earlier if line not in (imported, loaded)]
        another = [loaded] if any(line.startswith("model = ") for line in earlier) else []
        start = [imported, loaded, *earlier, *another]
        return "\n".join([*start, *self.lines, f"result = {function}({', '.join(parts)})"])

    def _skipped(self, name: str) -> int:
        """The number of parameters before one, if some of them are not given; else 0."""
        before = list(signature(self.analysis.function).parameters)[1:]
        before = before[: before.index(name)]
        return 0 if all(other in self.words for other in before) else len(before) + 1


def check_request(analysis: Analysis, body: AnalysisBody) -> None:
    """Raise Refusal where a request cannot be right, whatever the model: fields and options that there are not."""
    if reason := why_not(analysis):
        raise Refusal("not_available", f"{analysis.name} cannot be asked for here: {reason}; call it in Python")
    kinds, names = option_kinds(analysis.function), list(signature(analysis.function).parameters)
    fields = {
        "corpus": "corpus" in names,
        "text": "text" in names or "data" in names,
        "prompts": "clean" in names or "data" in names,
        "task": "task" in names,
        "metric": "metric" in names,
    }
    for name, taken in fields.items():
        if getattr(body, name) is not None and not taken:
            raise Refusal("wrong_option", f"{analysis.name} takes no {name}, for it looks at {analysis.looks_at}")
    for name in body.options:
        if name in REASONS:
            raise Refusal("wrong_option", f"{name} cannot be given here: {REASONS[name]}; leave it out")
        if name in names and name in SOURCES:
            raise Refusal("wrong_option", f"{name} was given as an option; give it as a field beside `options`")
    known = {name: kind for name, kind in kinds.items() if kind is not None}
    _check_names(analysis, body.options, known)
    for name, value in body.options.items():
        option_value(name, value, known[name])
    _check_given(analysis, body, known)


def _check_names(analysis: Analysis, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    from nanogpt_lens.core.choices import did_you_mean

    if unknown := sorted(set(options) - set(known)):
        expected = ", ".join(known) or "none"
        near = did_you_mean(unknown[0], known)
        raise Refusal("wrong_option", f"{analysis.name} has no option {unknown[0]!r:.60}; expected {expected}{near}")


def _check_given(analysis: Analysis, body: AnalysisBody, known: Mapping[str, Any]) -> None:
    """Raise Refusal where something is missing that has no default."""
    needs = analysis.needs()
    for name in ("corpus", "text", "task", "metric"):
        given = getattr(body, name) is not None
        made = name == "metric" and body.prompts is not None and body.prompts.task is not None
        if name in needs and not given and not made:
            raise Refusal("wrong_option", f"{analysis.name} needs {name}, which is not there; give the field {name!r}")
    if "clean" in needs and body.prompts is None:
        raise Refusal("wrong_option", f"{analysis.name} needs prompts; give the field 'prompts' with clean, or a task")
    if "data" in needs and (body.prompts is None) == (body.text is None):
        raise Refusal("wrong_option", f"{analysis.name} needs prompts or a text; give one of these fields")
    for name in needs:
        if name in known and name not in body.options:
            raise Refusal(
                "wrong_option", f"{analysis.name} needs {name}; give it in `options`, {kind_in_words(known[name])}"
            )


def option_value(name: str, value: Any, kind: Any) -> Any:
    """An option's value, checked.

    Raises:
        Refusal: it is of another kind, too large, or nested too deeply.
    """
    _check_size(name, value)
    try:
        return adapter(kind).validate_json(json.dumps(value), strict=True)
    except (ValidationError, ValueError):
        shown = json.dumps(value)
        shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
        raise Refusal("wrong_option", f"{name} is {shown}; expected {kind_in_words(kind)}") from None


def _check_size(name: str, value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, int | float) and not abs(one) <= _LARGEST:
                raise Refusal("wrong_option", f"{name} has a number beyond a thousand million; expected a smaller one")
            deeper += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if len(deeper) > _MOST_VALUES:
            raise Refusal("wrong_option", f"{name} has too many values; expected at most {_MOST_VALUES}")
        if not deeper:
            break
        level = deeper
    else:
        raise Refusal("wrong_option", f"{name} is nested too deeply; expected at most {_DEEPEST} levels")
    if name == "memory" and isinstance(value, int) and value > _MEMORY:
        raise Refusal("wrong_option", f"memory is {value}; expected at most {_MEMORY} bytes here")


def call_of(
    analysis: Analysis,
    body: AnalysisBody,
    served: ServedModel,
    model: Any,
    result_of: Callable[[str], tuple[Result, str]],
) -> Call:
    """The call that a request stands for.

    Args:
        analysis: which.
        body: the request.
        served, model: the model it is of.
        result_of: a function from the id of an earlier result to it, and to the Python that made it.

    Raises:
        Refusal: see `check_request`; an earlier result of another kind than the option takes.
        NanoGPTLensError: what does not fit the model.
    """
    check_request(analysis, body)
    call = Call(analysis)
    names, kinds = set(signature(analysis.function).parameters), option_kinds(analysis.function)
    if body.corpus is not None:
        if "TextData" in str(signature(analysis.function).parameters["corpus"].annotation):  # its two parts
            _give_data(call, body.corpus)
        else:
            call.give("corpus", *corpus_of(model, body.corpus))
    if body.text is not None:
        call.give("data" if "data" in names else "text", *text_of(body.text))
    if body.prompts is not None:
        _give_prompts(call, model, body.prompts, names)
    if body.metric is not None:
        metric, words = metric_of(body.metric)
        call.give("metric", metric, words)
    if body.task is not None:
        call.give("task", *_task(call, body.task, served))
    for name, value in body.options.items():
        call.give(name, *_option(call, name, option_value(name, value, kinds[name]), result_of))
    return call


def _option(call: Call, name: str, value: Any, result_of: Callable[[str], tuple[Result, str]]) -> tuple[Any, str]:
    if isinstance(value, ResultOf):
        result, python = result_of(value.result)
        call.earlier += [*python.splitlines(), f"{name} = result"]
        return result, name
    if isinstance(value, AskedBody):
        return _asked(value)
    if isinstance(value, dict) and any(isinstance(one, AskedBody) for one in value.values()):
        parts = {key: _asked(one) for key, one in value.items()}
        words = ", ".join(f"{key!r}: {word}" for key, (_, word) in parts.items())
        return {key: part for key, (part, _) in parts.items()}, f"{{{words}}}"
    if name == "predicate" and isinstance(value, list):
        call.lines.append("import torch")
        return torch.tensor(value, dtype=torch.bool), f"torch.tensor({value!r})"
    return value, repr(value)


def _asked(asked: AskedBody) -> tuple[tuple[Any, Any, Metric], str]:
    clean, corrupted = text_of(asked.clean), (None, "None") if asked.corrupted is None else text_of(asked.corrupted)
    metric = metric_of(asked.metric)
    return (clean[0], corrupted[0], metric[0]), f"({clean[1]}, {corrupted[1]}, {metric[1]})"


def text_of(text: Any) -> tuple[Any, str]:
    """A prompt for `as_tokens`, to which a string is a text and never a path."""
    return text, _shown(text)


def corpus_of(model: Any, corpus: Any) -> tuple[Any, str]:
    """A corpus as ids: a string never gets to where it could be a path."""
    from nanogpt_lens.model.encoding import encode_text

    if isinstance(corpus, str):
        return encode_text(model, corpus), f"ngl.encode_text(model, {_shown(corpus)})"
    lengths = {len(row) for row in corpus} if isinstance(corpus[0], list) else {0}
    if len(lengths) > 1:
        raise Refusal("wrong_option", "the corpus has rows of several lengths; expected one length, or one list of ids")
    return np.array(corpus), f"__import__('numpy').array({_shown(corpus)})"


def _give_data(call: Call, corpus: Any) -> None:
    from nanogpt_lens.text.datasets import data_of_text

    if not isinstance(corpus, str):
        raise Refusal("wrong_option", f"{call.analysis.name} counts words; expected the corpus as text, not as ids")
    call.lines.append("from nanogpt_lens.text.datasets import data_of_text")
    call.give("corpus", data_of_text(corpus), f"data_of_text({_shown(corpus)})")


def _give_prompts(call: Call, model: Any, prompts: PromptsBody, names: set[str]) -> None:
    """The prompts, and for those of a task their metric."""
    if (prompts.task is None) == (prompts.clean is None):
        raise Refusal("wrong_option", "prompts need clean, or a task, and not both")
    if prompts.clean is not None:
        if "data" in names:
            raise Refusal("wrong_option", "scrub takes the prompts of a task, or texts in the field 'text'")
        call.give("clean", *text_of(prompts.clean))
        call.give("corrupted", *((None, "None") if prompts.corrupted is None else text_of(prompts.corrupted)))
        return
    from nanogpt_lens.text.task_pairs import pairs_by_name

    options: dict[str, Any] = {"n": prompts.n, "seed": prompts.seed}
    options |= {} if prompts.seq_len is None else {"seq_len": prompts.seq_len}
    words = "".join(f", {name}={value}" for name, value in options.items())
    pairs = pairs_by_name(model, str(prompts.task), **options, **({"solved_by": model} if prompts.solved else {}))
    words += ", solved_by=model" if prompts.solved else ""
    call.lines.append("from nanogpt_lens.text.task_pairs import pairs_by_name")
    call.lines.append(f"pairs = pairs_by_name(model, {prompts.task!r}{words})")
    if "data" in names:
        call.give("data", pairs, "pairs")
        return
    for name in ("clean", "corrupted"):
        call.give(name, getattr(pairs, name), f"pairs.{name}")
    call.give("metric", logit_diff_of(pairs), "ngl.metrics.logit_diff_of(pairs)")


def metric_of(body: MetricBody) -> tuple[Metric, str]:
    """A metric, and how it is written.

    Raises:
        Refusal: a token is missing, or there is one too many.
    """
    needs = {"logit_diff": ("answer", "wrong"), "answer_logprob": ("answer",), "loss": ()}[body.name]
    for name in ("answer", "wrong"):
        if (getattr(body, name) is not None) != (name in needs):
            expected = " and ".join(needs) or "no token"
            raise Refusal("wrong_option", f"the metric {body.name} takes {expected}; {name} is missing or too many")
    options: dict[str, Any] = {name: getattr(body, name) for name in needs}
    if "pos" in body.model_fields_set:
        options["pos"] = body.pos
    maker = {"logit_diff": logit_diff, "answer_logprob": answer_logprob, "loss": loss}[body.name]
    written = ", ".join(repr(options[name]) if name in needs else f"{name}={options[name]!r}" for name in options)
    return maker(**options), f"ngl.metrics.{body.name}({written})"


def _task(call: Call, body: TaskBody, served: ServedModel) -> tuple[Any, str]:
    from nanogpt_lens.text.datasets import data_of_text
    from nanogpt_lens.text.tasks import read_task, repeated_random, trigger_bigrams

    if body.name == "own":
        if body.text is not None or body.n_triggers is not None or body.shortest is not None:
            raise Refusal("wrong_option", "the model's own task takes no text, n_triggers or shortest; leave them out")
        call.lines.append("from nanogpt_lens.text.tasks import read_task")
        return read_task(served.path), f"read_task({served.path!r})"
    option = "n_triggers" if body.name == "trigger_bigrams" else "shortest"
    other = "shortest" if option == "n_triggers" else "n_triggers"
    if getattr(body, other) is not None:
        raise Refusal("wrong_option", f"the task {body.name} has no {other}; leave it out")
    if body.text is None and body.name == "trigger_bigrams":
        raise Refusal("wrong_option", "the task trigger_bigrams needs a text whose bigrams are counted; give `text`")
    options = {} if getattr(body, option) is None else {option: getattr(body, option)}
    words = [f"{name}={value}" for name, value in options.items()]
    maker: Any = trigger_bigrams if body.name == "trigger_bigrams" else repeated_random
    if body.text is None:
        return maker(**options), f"ngl.tasks.{body.name}({', '.join(words)})"
    call.lines.append("from nanogpt_lens.text.datasets import data_of_text")
    words.insert(0, f"data_of_text({_shown(body.text)})")
    return maker(data_of_text(body.text), **options), f"ngl.tasks.{body.name}({', '.join(words)})"


def _shown(value: Any) -> str:
    """A text or ids as Python; what is long is a name that says what to put there."""
    written = repr(value)
    return written if len(written) <= _TOLD else f"THE_{len(written)}_LETTERS_THAT_WERE_SENT"
