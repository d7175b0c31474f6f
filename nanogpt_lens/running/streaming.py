"""One pass over a corpus: each token is read once, keepers keep what they need, memory stays constant.

A keeper sees every activation once and holds a state whose size does not depend on the corpus. States
can be put together, so that a corpus can be read by several processes (`nanogpt_lens.core.distributed`), each its
consecutive share of the batches, and a run that was interrupted can go on from the last state saved.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.distributed import gathered, is_first, share, world
from nanogpt_lens.core.unfinished import Unfinished
from nanogpt_lens.model.access import Hooked, device_of, evaluating
from nanogpt_lens.model.fingerprints import weights_hash
from nanogpt_lens.running.reading import Engine, Reader
from nanogpt_lens.text.sequences import Batch, Sequences

_log = logging.getLogger(__name__)

State = Mapping[str, Shaped[Tensor, " ..."]]
"""What a keeper holds, tensors by name."""


class Keeper(ABC):
    """Sees a stream of activations and keeps what it needs of them."""

    @abstractmethod
    def add(self, i: int, values: Float[Tensor, "example pos unit"], batch: Batch) -> None:
        """Take in the activation of the i-th hook point on a batch; it must not be kept."""

    @abstractmethod
    def state(self) -> State:
        """What is held now, by name."""

    @abstractmethod
    def hold(self, states: Sequence[State]) -> None:
        """Hold what these states hold together, in the order of the corpus, instead of what is held now."""


def stream(
    model: Hooked,
    sequences: Sequences,
    names: Sequence[str],
    keepers: Sequence[Keeper],
    *,
    values: Callable[[int, Float[Tensor, "example pos ..."]], Float[Tensor, "example pos unit"]] = lambda i, value: (
        value.flatten(2)
    ),
    engine: Engine = "auto",
    resume: str | Path | None = None,
    describes: Mapping[str, Any] | None = None,
    progress: bool = True,
    label: str = "reading",
) -> str:
    """Read all of a corpus once, over all processes; every process' keepers then hold the whole.

    Args:
        model: the model.
        sequences: the corpus.
        names: the hook points, in the order of the computation.
        keepers: empty ones.
        values: a function from the number of a hook point and its activation to the values of its units.
        engine: how activations are computed, see `Engine`.
        resume: a folder for the state of an unfinished run, saved every ten seconds and deleted at the end.
        describes: the options that the keepers were made with; a state of other options is refused.
        progress: show a bar.
        label: the word that stands at the bar.

    Returns:
        The engine that was used.

    Raises:
        AnalysisError: the model has no such hook point; ids outside the vocabulary, a state of another run.
    """
    mine = share(sequences.n_batches)
    saved = None if resume is None else _saved_state(resume, model, sequences, names, describes or {})
    start = _restore(saved, keepers, mine.start, device_of(model))
    with evaluating(model):
        reader = Reader(model, names, engine=engine, length=sequences.seq_len)
        # the first process shows the bar; it and the others have equally much to do
        bar = tqdm(range(start, mine.stop), desc=label, delay=1, disable=not progress or not is_first(), unit="batch")
        for i in bar:
            batch = sequences.batch(i)

            def see(site: int, value: Tensor, batch: Batch = batch) -> None:
                activations = values(site, value)
                for keeper in keepers:
                    keeper.add(site, activations, batch)

            reader(batch.tokens, see)
            if saved is not None:
                saved.keep(lambda: _state(keepers), str(i + 1))
    if world()[1] > 1:
        for keeper in keepers:
            keeper.hold(gathered(keeper.state()))
    if saved is not None:
        saved.delete()
    return reader.engine


def _saved_state(
    folder: str | Path, model: Hooked, sequences: Sequences, names: Sequence[str], options: Mapping[str, Any]
) -> Unfinished:
    """The files that this process' part of an unfinished run is kept in."""
    rank, size = world()
    description = {
        "weights": weights_hash(model),
        "corpus": sequences.fingerprint,
        "seq_len": sequences.seq_len,
        "batch_size": sequences.batch_size,
        "names": list(names),
        "options": {name: repr(value) for name, value in sorted(options.items())},
    }
    return Unfinished(folder, f"unfinished-{rank}-of-{size}", description)


def _state(keepers: Sequence[Keeper]) -> dict[str, Shaped[Tensor, " ..."]]:
    """What all keepers hold, each under its number."""
    return {f"{i}/{name}": tensor for i, keeper in enumerate(keepers) for name, tensor in keeper.state().items()}


def _restore(saved: Unfinished | None, keepers: Sequence[Keeper], start: int, device: torch.device) -> int:
    """Fill the keepers with what was saved, if anything was; return the number of the batch to go on with."""
    state = None if saved is None else saved.read()
    if saved is None or state is None:
        return start
    tensors, following = state
    for i, keeper in enumerate(keepers):
        prefix = f"{i}/"
        part = {k.removeprefix(prefix): t.to(device) for k, t in tensors.items() if k.startswith(prefix)}
        keeper.hold([part])
    _log.info("going on from batch %s, saved in %s", following, saved.file)
    return int(following)
