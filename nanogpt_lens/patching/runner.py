"""Many patches of one base run, in chunks: the metric of each.

Sites of a layer ride on the batch axis, those with the same first changed position together. A
chunk holds so many that its tokens fit a CPU's cache and its tensors the memory that is allowed;
what is kept of a site is the metric alone, so the memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import Kind, Sites, site_index
from nanogpt_lens.model.access import Edit, Hooked, has_hooks
from nanogpt_lens.patching.continuation import Continuation
from nanogpt_lens.patching.first_block import Activations, FirstBlock
from nanogpt_lens.patching.runs import SweepSetup, run_copies

Engine: TypeAlias = Literal["auto", "hooks"]
"""How patched runs are made: by shortcuts where they are exact, or always through hook points."""

MEMORY = 2**28
"""Bytes that the patched runs of a chunk may take, beside the activations of the two plain runs."""
CHUNK_TOKENS = 1024
CHUNK_COST = 128
"""What starting a chunk costs, in tokens."""


class PatchRunner:
    """Runs patched copies of a base run.

    Args:
        model: the model.
        setup: the base run, what is patched in, and what is measured.
        engine: "auto" takes shortcuts where they are proven exact; "hooks" never does.
        memory: the bytes that a chunk may take, see `MEMORY`.

    Raises:
        AnalysisError: there is no such engine.
    """

    def __init__(self, model: Hooked, setup: SweepSetup, *, engine: str = "auto", memory: int = MEMORY) -> None:
        if engine not in ("auto", "hooks"):
            raise AnalysisError(f"engine is {engine!r}; expected 'auto' or 'hooks'")
        runs = setup.runs
        self.model, self.kind, self.source, self.memory = model, setup.kind, setup.patched_in, memory
        self.tokens, self.base, self.metric = runs.tokens, runs.base, runs.metric
        self.run = Continuation(model, runs.base, runs.metric.reads)
        self.first = FirstBlock(self.run, setup.kind, runs.activations, setup.patched_in)
        # FirstBlock knows no activation function, which it would need for "mlp_pre"
        self.fast = engine == "auto" and setup.kind.name != "mlp_pre" and self.run.is_exact
        self.base_value = self.metric.of_run(self.base["logits"])
        self.observed = has_hooks(model)

    @property
    def engine(self) -> str:
        """How the runs are made, in words."""
        if self.fast:
            return "continuation of the base run"
        return "hook points, one site per run" if self.observed else "hook points, sites on the batch axis"

    def patching(self, kind: Kind, base: Activations, source: Activations) -> PatchRunner:
        """The same base run, another activation of which is patched: what it is there, and what takes its place."""
        again = copy(self)
        again.kind, again.source, again.first = kind, dict(source), FirstBlock(self.run, kind, base, source)
        return again

    def values(self, sites: Sites, *, progress: bool = False) -> Float[Tensor, "site example"]:
        """The metric of every patched run; for a bare callable one value for all examples."""
        out = self.base_value.expand(sites.n, -1).clone()
        with tqdm(total=sites.n, desc=f"patching {self.kind.name}", unit="site", delay=1, disable=not progress) as bar:
            for layer, index in self._chunks(sites):
                some = sites.take(index)
                if self.fast and layer is not None:
                    logits = self.first.logits(layer, some.coords, some.n)
                else:
                    logits = self._logits_through_hooks(layer, some)
                out[index.to(out.device)] = self.metric(logits).to(out.dtype)
                bar.update(len(index))
        return out

    def _chunks(self, sites: Sites) -> Iterator[tuple[int | None, Int[Tensor, " site"]]]:
        """Yield sites of one layer, those that change early positions first; without those that nothing read sees."""
        places = sites.coords.get(self.kind.dest)
        for layer, index in sites.by_layer(self.model.cfg.n_layers):
            dest = torch.zeros_like(index) if places is None else places[index]
            index, dest = index[dest < self.run.end], dest[dest < self.run.end]
            order = dest.argsort(stable=True)
            index, dest = index[order], dest[order]
            while len(index):
                n = self._chunk_size(int(dest[0]), shortcut=self.fast and layer is not None)
                saved = (dest[:n] - dest[0]) * (len(dest[:n]) - torch.arange(len(dest[:n])))
                if self.fast and int(saved.max()) > CHUNK_COST:  # tokens, if a new chunk begins there
                    n = int(saved.argmax())
                yield layer, index[:n]
                index, dest = index[n:], dest[n:]

    def _chunk_size(self, start: int, *, shortcut: bool) -> int:
        """The number of sites that fit into one chunk, if the first position they change is `start` or later."""
        if self.observed:
            return 1
        cfg = self.model.cfg
        n_examples, n_pos = self.tokens.shape
        length = self.run.end - start if shortcut else n_pos
        keys = self.run.end if shortcut else n_pos
        reads = len(self.metric.reads) if shortcut else n_pos
        n_floats = length * (12 * cfg.d_model + 3 * cfg.d_mlp + 3 * cfg.n_heads * keys) + keys * 2 * cfg.d_model
        n_bytes = n_examples * (n_floats + 4 * reads * cfg.d_vocab) * self.base["logits"].element_size()
        return max(1, min(CHUNK_TOKENS // (n_examples * length), self.memory // n_bytes))

    def _logits_through_hooks(self, layer: int | None, sites: Sites) -> Float[Tensor, "site example read d_vocab"]:
        """The logits at the positions that are read, from runs that begin at the patched layer if there is one."""
        layers = list(self.source) if layer is None else [layer]
        edits = {self.kind.hook_name(i): self._edit(i, sites) for i in layers}
        begin = None if self.observed else layer
        logits = run_copies(self.model, self.tokens, self.base, sites.n, edits, layer=begin)
        return logits[:, :, list(self.metric.reads)]

    def _edit(self, layer: int, sites: Sites) -> Edit:
        """An edit that patches each site's copy of the base run at that site."""
        index = site_index(self.kind, sites.coords, sites.n)
        source = self.source[layer].expand(sites.n, *self.source[layer].shape)

        def edit(value: Tensor) -> Tensor:
            patched = value.unflatten(0, (sites.n, -1)).clone()
            patched[index] = source[index].to(patched.dtype)
            return patched.flatten(0, 1)

        return edit
