"""From a patch to the residual stream behind it, computing only what the patch touches.

A patch at one position of a head's output, say, changes the stream of that layer at that position
alone: one row goes through the MLP, not a whole run through the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.interventions.sites import Kind
from nanogpt_lens.patching.continuation import Continuation, score_scale

Activations: TypeAlias = Mapping[int, Float[Tensor, "example ..."]]
"""An activation of one run, by layer."""

Coords: TypeAlias = Mapping[str, Int[Tensor, " site"]]
"""The index of each site along each swept axis."""


class FirstBlock:
    """The streams of patched runs.

    Args:
        run: the base run and what follows.
        kind: the activation that is patched.
        base: that activation in the base run, by layer.
        source: what takes its place, by layer.
    """

    def __init__(self, run: Continuation, kind: Kind, base: Activations, source: Activations) -> None:
        self.run, self.kind, self.base, self.source = run, kind, base, source

    def patched_with(self, source: Activations) -> FirstBlock:
        """The same runs with something else patched in."""
        return FirstBlock(self.run, self.kind, self.base, source)

    def logits(self, layer: int, coords: Coords, n: int) -> Float[Tensor, "site example read d_vocab"]:
        """The logits of `n` runs at the positions that are read, each patched at its own place in `layer`."""
        places = coords.get(self.kind.dest)
        start = 0 if places is None else int(places.min())
        rows = Rows(places if self.kind.name not in ("k", "v") else None, start, self.run.end, n)
        name = self.kind.name
        if name == "resid_pre":
            return self._continue(layer, self.run.at(layer, "hook_resid_pre"), rows.of(self.source[layer]), rows)
        if name == "resid_post":
            changed = rows.of(self.source[layer])
        elif name == "mlp_out":
            changed = rows.of(self.run.at(layer, "hook_resid_mid")) + rows.of(self.source[layer])
        elif name == "mlp_post":
            changed = rows.of(self.run.at(layer, "hook_resid_post")) + self._neurons(layer, coords, rows)
        else:
            mid = self._mid(layer, coords, rows)
            changed = mid + self.run.mlp_out(layer, mid.flatten(0, 1)).view_as(mid)
        return self._continue(layer + 1, self.run.at(layer, "hook_resid_post"), changed, rows)

    def _continue(
        self,
        layer: int,
        base: Float[Tensor, "example pos d_model"],
        changed: Float[Tensor, "site example row d_model"],
        rows: Rows,
    ) -> Float[Tensor, "site example read d_vocab"]:
        """The logits of runs whose stream before `layer` is the base run's but for the rows that are changed."""
        stream = changed
        if rows.places is not None:
            stream = base[:, rows.start : rows.end].expand(rows.n, -1, -1, -1).clone()
            stream[torch.arange(rows.n), :, rows.places - rows.start] = changed[:, :, 0]
        return self.run.finish(layer, stream, rows.start)

    def _neurons(self, layer: int, coords: Coords, rows: Rows) -> Float[Tensor, "site example row d_model"]:
        """What the patched neurons add to the stream."""
        w_out = self.run.model.blocks[layer].mlp.W_out
        change = self.source[layer] - self.base[layer]
        neurons = coords.get("neuron")
        if neurons is None:
            return rows.of(change) @ w_out
        return rows.each(change, neurons)[..., None] * w_out[neurons][:, None, None]

    def _mid(self, layer: int, coords: Coords, rows: Rows) -> Float[Tensor, "site example row d_model"]:
        """The stream between attention and MLP."""
        name = self.kind.name
        if name == "resid_mid":
            return rows.of(self.source[layer])
        if name == "attn_out":
            return rows.of(self.run.at(layer, "hook_resid_pre")) + rows.of(self.source[layer])
        mid = rows.of(self.run.at(layer, "hook_resid_mid")).clone()
        heads = coords.get("head")
        w_o = self.run.model.blocks[layer].attn.W_O
        for head in range(self.run.n_heads):
            sites = torch.arange(rows.n) if heads is None else (heads == head).nonzero().squeeze(1)
            if len(sites):
                some = {axis: places[sites] for axis, places in coords.items()}
                mid[sites] += self._head(layer, head, some, rows.take(sites)) @ w_o[head]
        return mid

    def _head(self, layer: int, head: int, coords: Coords, rows: Rows) -> Float[Tensor, "site example row d_head"]:
        """The change that the patch makes to the output z of one head."""
        name = self.kind.name
        if name == "pattern":
            return self._change_of_weighted(layer, head, coords, rows)
        base, source = self.base[layer][:, :, head], self.source[layer][:, :, head]
        if name == "z":
            return rows.of(source - base)
        q, k, v = (self.run.at(layer, f"attn.hook_{n}")[:, : rows.end, head] for n in "qkv")
        at = coords.get("pos")
        if name == "q":
            before, after = (self._scores(rows.of(x), k, rows, layer).softmax(-1) for x in (base, source))
            return (after - before) @ v
        one = Rows(None, rows.start, rows.end, 1)
        scores = self._scores(one.of(q), k, one, layer)
        pattern = scores.softmax(-1)
        if name == "v":
            change = (source - base)[:, : rows.end]
            if at is None:
                return (pattern @ change).expand(rows.n, -1, -1, -1)
            return pattern[0][:, :, at].permute(2, 0, 1)[..., None] * change[:, at].transpose(0, 1)[:, :, None]
        if at is None:
            after = self._scores(one.of(q), source[:, : rows.end], one, layer).softmax(-1)
            return ((after - pattern) @ v).expand(rows.n, -1, -1, -1)
        queries, keys = q[:, rows.start :], source[:, at]
        column = torch.einsum("bqd,bsd->sbq", queries, keys) / score_scale(self.run.model, layer)
        future = at[:, None] > torch.arange(rows.start, rows.end)
        scores = scores.expand(rows.n, -1, -1, -1).clone()
        scores[torch.arange(rows.n), :, :, at] = column.masked_fill(future.to(column.device)[:, None], -torch.inf)
        return (scores.softmax(-1) - pattern) @ v

    def _scores(
        self,
        q: Float[Tensor, "site example row d_head"],
        k: Float[Tensor, "... src_pos d_head"],
        rows: Rows,
        layer: int,
    ) -> Float[Tensor, "site example row src_pos"]:
        """One head's scores; rows are the queries' positions."""
        scores = q @ k.transpose(-2, -1) / score_scale(self.run.model, layer)
        future = torch.arange(k.shape[-2], device=q.device) > rows.positions().to(q.device)[..., None]
        return scores.masked_fill(future[:, None], -torch.inf)

    def _change_of_weighted(
        self, layer: int, head: int, coords: Coords, rows: Rows
    ) -> Float[Tensor, "site example row d_head"]:
        """The change of a patched pattern, times the values."""
        change = (self.source[layer] - self.base[layer])[:, head, :, : rows.end]
        v = self.run.at(layer, "attn.hook_v")[:, : rows.end, head]
        src = coords.get("src_pos")
        if src is None:
            return rows.of(change) @ v
        seen = src.clamp_max(rows.end - 1)  # beyond what is read nothing has weight
        weights = rows.each(change, seen) * (src < rows.end).to(v)[:, None, None]
        return weights[..., None] * v[:, seen].transpose(0, 1)[:, :, None]


class Rows:
    """The positions of each run that a patch changes first: one for each site, or all from `start` to `end`."""

    def __init__(self, places: Int[Tensor, " site"] | None, start: int, end: int, n: int) -> None:
        self.places, self.start, self.end, self.n = places, start, end, n

    def take(self, index: Int[Tensor, " index"]) -> Rows:
        """The rows of some sites."""
        return Rows(None if self.places is None else self.places[index], self.start, self.end, len(index))

    def of(self, values: Float[Tensor, "example pos ..."]) -> Float[Tensor, "site example row ..."]:
        """What an activation is at the rows of each site."""
        if self.places is None:
            return values[:, self.start : self.end].expand(self.n, *(-1 for _ in values.shape))
        return values[:, self.places].transpose(0, 1)[:, :, None]

    def each(
        self, values: Float[Tensor, "example pos feature"], last: Int[Tensor, " site"]
    ) -> Float[Tensor, "site example row"]:
        """What one feature of an activation is at the rows of each site, of each site another feature."""
        if self.places is None:
            return values[:, self.start : self.end, last].permute(2, 0, 1)
        return values[:, self.places, last].T[..., None]

    def positions(self) -> Int[Tensor, "site row"]:
        """The position of each row; one row of positions stands for all sites where they are the same."""
        if self.places is None:
            return torch.arange(self.start, self.end)[None]
        return self.places[:, None]
