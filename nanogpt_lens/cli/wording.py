"""Sentences of the package, which name Python's arguments, in the words of a command, which has options."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

_PYTHON = {"corpus": "text", "ignore_model_args": "ignore_model_arg", "layers": "layer"}
"""Arguments that are called otherwise on the command line."""

_VALUE = r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\([^)]*\)|[\w.-]*\w"
_BEFORE = r"(?<![\w./'\"=\[-])"


def in_options(sentence: str, command: Callable[..., Any]) -> str:
    """A sentence in which `name=value`, and names that are plainly arguments, have become options of the command.

    What the command does not have stays as it is. An analysis' own option, where the command takes those with
    `--option`, becomes one of these.

    Args:
        sentence: what an error says.
        command: a function whose signature says its options, as typer reads it.
    """
    options = _options(command)
    passed_on = "option" in options

    def with_value(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"] or ""
        if name in options:
            return _written(name, value, options)
        return f"--option {name}={_plain(value)}" if passed_on and value else match[0]

    def alone(match: re.Match[str]) -> str:
        name = match["name"]
        return options.get(name, match[0])

    said = re.sub(rf"{_BEFORE}(?P<name>[a-z]\w*)=(?![=>])(?P<value>{_VALUE})?", with_value, sentence)
    said = re.sub(r"^(?P<name>[a-z]\w*)(?= (?:is|has|asks) )", alone, said)
    said = re.sub(rf"{_BEFORE}(?P<name>[a-z]+_\w+)(?![\w=/('\"\[-]|\.\w)", alone, said)
    return re.sub(r"(--[\w-]+(?: [\w.]+)?) \(\1\)", r"\1", said)  # some sentences name both


def in_words(sentence: str) -> str:
    """A definition without what only a machine would say: ids of tokens, and where on this machine a file is."""
    said = re.sub(r"logit\(\[[^]]*\]\) - logit\(\[[^]]*\]\)", "the answer's logit minus the wrong one's", sentence)
    said = re.sub(r"logit\(\[[^]]*\]\)", "the answer's logit", said)
    said = re.sub(r"(?<![\d.])-0%", "0%", said)
    return re.sub(r"(?<![\w./])/(?:[^\s/;,:]+/)+([^\s/;,:]+/[^\s/;,:]+)", r"\1", said)


def _options(command: Callable[..., Any]) -> dict[str, str]:
    """The options of a command by the names of Python's arguments."""
    options = {}
    hints = get_type_hints(command, include_extras=True)
    for name in signature(command).parameters:
        hint = hints.get(name)
        info = next((x for x in get_args(hint)[1:] if isinstance(x, OptionInfo)), None)
        if get_origin(hint) is not Annotated or info is None:
            continue
        declared = [word.partition("/")[0] for word in info.param_decls or () if word.startswith("--")]
        options[name] = declared[0] if declared else f"--{name.replace('_', '-')}"
        if get_args(hint)[0] is bool and not declared:
            options[f"no_{name}"] = f"--no-{name.replace('_', '-')}"
    options |= {python: options[name] for python, name in _PYTHON.items() if name in options and python not in options}
    return options


def _written(name: str, value: str, options: Mapping[str, str]) -> str:
    """`name=value` as it is written on the command line."""
    option, negated = options[name], options.get(f"no_{name}")
    if value in ("True", "'auto'"):
        return option
    if value == "False" and negated is not None:
        return negated
    if value.startswith("["):
        return " ".join(f"{option} {word}" for word in _words(value))
    return f"{option} {_plain(value)}".rstrip()


def _words(value: str) -> list[str]:
    """The words of a list, or the word NAME where it says no more than that there are some."""
    try:
        words = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return ["NAME"]
    return ["NAME" if word is Ellipsis else str(word) for word in words]


def _plain(value: str) -> str:
    """A value without Python's quotes, which a shell needs only around spaces and what it would expand."""
    return value if re.search(r"[\s*?[$]", value) else value.strip("'\"")
