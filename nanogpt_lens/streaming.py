"""One pass over a corpus: each token is read once, keepers keep what they need, memory stays constant.

A keeper sees every activation once and holds a state whose size does not depend on the corpus. States
can be put together, so that a corpus can be read by several processes (`nanogpt_lens.distributed`), each its
consecutive share of the batches, and a run that was interrupted can go on from the last state saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from conversion.atomic import replacing
from nanogpt_lens.access import Hooked, evaluating
from nanogpt_lens.distributed import gathered, is_first, share, world
from nanogpt_lens.errors import AnalysisError
from nanogpt_lens.fingerprints import weights_hash
from nanogpt_lens.reading import Engine, Reader
from nanogpt_lens.sequences import Batch, Sequences

SAVE_EVERY = 30.0
"""Seconds between two savings of an unfinished run."""

_log = logging.getLogger(__name__)

State = Mapping[str, Tensor]
"""What a keeper holds, as tensors."""


class Keeper(ABC):
    """Sees a stream of activations and keeps what it needs of them."""

    @abstractmethod
    def add(self, i: int, values: Tensor, batch: Batch) -> None:
        """Take in the activation [example, pos, unit] of the i-th hook point on a batch; it must not be kept."""

    @abstractmethod
    def state(self) -> State:
        """What is held now."""

    @abstractmethod
    def hold(self, states: Sequence[State]) -> None:
        """Hold what these states hold together, in the order of the corpus, instead of what is held now."""


def stream(
    model: Hooked,
    sequences: Sequences,
    names: Sequence[str],
    keepers: Sequence[Keeper],
    *,
    values: Callable[[int, Tensor], Tensor] = lambda i, value: value.flatten(2),
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
        names: hook points, in the order of the computation.
        keepers: empty ones.
        values: from the i-th hook point's activation to [example, pos, unit].
        engine: how activations are computed, see `Engine`.
        resume: a folder for the state of an unfinished run, saved every half minute and deleted at the end.
        describes: the options that the keepers were made with; a state of other options is refused.
        progress: show a bar.
        label: of the bar.

    Returns:
        The engine that was used.

    Raises:
        AnalysisError: no such hook point, ids outside the vocabulary, a state of another run.
    """
    mine = share(sequences.n_batches)
    saved = None if resume is None else _Saved(Path(resume).expanduser(), model, sequences, names, describes or {})
    start = mine.start if saved is None else saved.restore(keepers, mine.start)
    with evaluating(model):
        reader = Reader(model, names, engine=engine)
        # the first process shows the bar; it and the others have equally much to do
        bar = tqdm(range(start, mine.stop), desc=label, delay=1, disable=not progress or not is_first(), unit="batch")
        for i in bar:
            batch = sequences.batch(i)

            def see(site: int, value: Tensor, batch: Batch = batch) -> None:
                found = values(site, value)
                for keeper in keepers:
                    keeper.add(site, found, batch)

            reader(batch.tokens, see)
            if saved is not None:
                saved.keep(keepers, i + 1)
    if world()[1] > 1:
        for keeper in keepers:
            keeper.hold(gathered(keeper.state()))
    if saved is not None:
        saved.delete()
    return reader.engine


class _Saved:
    """The state of an unfinished run on disk, one file for each process."""

    def __init__(
        self, folder: Path, model: Hooked, sequences: Sequences, names: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        rank, size = world()
        self.folder = folder
        self.file = folder / f"unfinished-{rank}-of-{size}.safetensors"
        if folder.exists() and not folder.is_dir():
            raise AnalysisError(f"resume={str(folder)!r} is a file; expected a folder for the unfinished run")
        described = {
            "weights": weights_hash(model),
            "corpus": sequences.fingerprint,
            "length": sequences.length,
            "batch_size": sequences.batch_size,
            "names": list(names),
            "options": {name: repr(value) for name, value in sorted(options.items())},
        }
        self.key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.last = time.monotonic()

    def restore(self, keepers: Sequence[Keeper], start: int) -> int:
        """Fill the keepers from the file, where there is one; return the batch to go on with.

        Raises:
            AnalysisError: it is damaged, or of another run.
        """
        if not self.file.is_file():
            return start
        try:
            with safe_open(self.file, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise AnalysisError(f"{self.file} cannot be read ({str(error)[:80]}); delete it to start again") from None
        if about.get("key") != self.key:
            raise AnalysisError(
                f"{self.file} is the unfinished run of another model, corpus or set of options; give another folder, "
                "or delete it to start again"
            )
        for i, keeper in enumerate(keepers):
            prefix = f"{i}/"
            keeper.hold([{k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}])
        _log.info("going on from batch %s, saved in %s", about["next"], self.file)
        return int(about["next"])

    def keep(self, keepers: Sequence[Keeper], following: int) -> None:
        """Save, where the last time is long enough ago; a killed run leaves the old file or the new one."""
        if time.monotonic() - self.last < SAVE_EVERY:
            return
        tensors = {
            f"{i}/{name}": tensor.detach().cpu().contiguous()
            for i, keeper in enumerate(keepers)
            for name, tensor in keeper.state().items()
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as temporary:
            save_file(tensors, temporary, metadata={"key": self.key, "next": str(following)})
        self.last = time.monotonic()

    def delete(self) -> None:
        """The run is done."""
        self.file.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
