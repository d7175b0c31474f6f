"""The `generate` of TransformerLens 3.9, which no token stops.

A nanoGPT model has no token that ends a text. TransformerLens' `generate` stops at the tokenizer's `eos_token_id`
unless it is told otherwise, and that is an ordinary token here, because `tokenize_and_concatenate` writes it between
texts. So the models of this package have a `generate` whose `eos_token_id` is beyond the vocabulary by default.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any


class Unstopped:
    """A method of a model that generates; a model that is copied or pickled takes it along.

    It does not keep the model alive, which would leave the weights in memory until Python collects its garbage.
    """

    def __init__(self, model: Any, name: str) -> None:
        method = getattr(type(model), name)
        functools.update_wrapper(self, method)
        self._model, self._name = weakref.ref(model), name
        self._place = list(inspect.signature(method).parameters).index("eos_token_id") - 1

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Generate as TransformerLens does, and stop only at an `eos_token_id` that is given."""
        model: Any = self._model()
        if options.get("eos_token_id") is None and len(args) <= self._place:
            options["eos_token_id"] = model.cfg.d_vocab
        return getattr(type(model), self._name)(model, *args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unstopped:
        return Unstopped(memo.get(id(self._model()), self._model()), self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Unstopped, (self._model(), self._name)


def never_stop(model: Any) -> None:
    """Make a HookedTransformer's `generate` and `generate_stream` go on until they are told to stop."""
    for name in ("generate", "generate_stream"):
        if hasattr(type(model), name):
            setattr(model, name, Unstopped(model, name))
