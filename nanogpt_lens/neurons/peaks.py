"""The excerpts of a corpus on which each unit is highest, or lowest, kept while the corpus streams by.

An excerpt is `window` tokens of one sequence around a peak (moved inwards at the sequence's ends).
Excerpts of one unit never overlap: within a sequence peaks are taken from the strongest on, and each
takes away all whose excerpts would overlap its own. Of equal activations the earlier one counts.

A unit's k best are exact, and cheap to keep: after some batches hardly any sequence holds an
activation above the k-th best so far, and only those that do are looked at closely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.running.streaming import Keeper, State
from nanogpt_lens.text.sequences import Batch

Where: TypeAlias = Literal["max", "mean"]
"""What an excerpt is ranked by: its peak, or the mean over its tokens."""

_MOST = 0.2
"""The share of all units on all examples, from which on their values are laid out by unit before some are taken."""


class TopWindows(Keeper):
    """The k best excerpts of every unit.

    Args:
        sites: the number of hook points.
        k: the number of excerpts of each unit.
        window: the number of tokens of an excerpt.
        lowest: take the lowest activations instead of the highest.
        where: what excerpts are ranked by, see `Where`.

    Attributes:
        value: what each excerpt is ranked by, best first; nan where a unit has fewer excerpts.
        start: the corpus index of the excerpt's first token; -1 where there is none.
        position: the corpus index of the excerpt's extreme token.
        activations: those of each excerpt's tokens, nan behind the end of a shorter sequence.
    """

    def __init__(self, *, sites: int, k: int, window: int, lowest: bool = False, where: Where = "max") -> None:
        self.sites, self.k, self.window, self.lowest, self.where = sites, k, window, lowest, where
        self._score: list[Float[Tensor, "unit k"]] = []  # -inf where there is none; negated for `lowest`
        self._start: list[Int[Tensor, "unit k"]] = []
        self._activations: list[Float[Tensor, "unit k window"]] = []

    def add(self, i: int, values: Float[Tensor, "example pos unit"], batch: Batch) -> None:
        """Take in the activation of the i-th hook point."""
        if len(self._score) == i:
            self._append_empty(values)
        if values.shape[1] < self.window and self.where == "mean":
            return  # the shorter last sequence has no whole excerpt
        ranked = self._ranked(values)
        best = -ranked.amin(1) if self.lowest else ranked.amax(1)  # [example, unit]
        examples, units = (best > self._score[i][:, -1]).nonzero(as_tuple=True)
        if not len(units):
            return
        rows = _rows(ranked, examples, units)  # [candidate, place]
        activations = rows if self.where == "max" else _rows(values, examples, units)
        rows = -rows if self.lowest else rows.clone()
        first = batch.first + examples * values.shape[1]
        candidate, start, score = self._peaks(rows, units, self._score[i][:, -1])
        excerpts = self._excerpts(activations[candidate], start)
        self._insert(i, units[candidate], score, first[candidate] + start, excerpts)

    def _append_empty(self, values: Float[Tensor, "example pos unit"]) -> None:
        """Make room for the excerpts of one more hook point."""
        units = values.shape[-1]
        self._score.append(values.new_full((units, self.k), -torch.inf))
        self._start.append(torch.full((units, self.k), -1, dtype=torch.long, device=values.device))
        self._activations.append(values.new_full((units, self.k, self.window), torch.nan))

    def _ranked(self, values: Float[Tensor, "example pos unit"]) -> Float[Tensor, "example place unit"]:
        """What excerpts are ranked by: activations, or means of the excerpts from each place."""
        if self.where == "max":
            return values
        return values.unfold(1, self.window, 1).mean(-1)

    def _starts(self, places: int, device: torch.device) -> Int[Tensor, " place"]:
        """The start within the sequence of each place's excerpt."""
        here = torch.arange(places, device=device)
        if self.where == "mean":
            return here
        return (here - self.window // 2).clamp(0, max(0, places - self.window))

    def _peaks(
        self,
        rows: Float[Tensor, "candidate place"],
        units: Int[Tensor, " candidate"],
        least: Float[Tensor, " unit"],
    ) -> tuple[Int[Tensor, " peak"], Int[Tensor, " peak"], Float[Tensor, " peak"]]:
        """Peaks of the candidates' rows, from the highest on, whose excerpts do not overlap; at most k of a row.

        Returns:
            for each peak the candidate, the start of the excerpt in its sequence, and the score.
        """
        starts = self._starts(rows.shape[1], rows.device)
        first = torch.searchsorted(starts, starts - self.window, right=True)  # of those that a peak takes away
        last = torch.searchsorted(starts, starts + self.window) - 1
        near = torch.arange(int((last - first).max()) + 1, device=rows.device)
        taken = torch.minimum(first[:, None] + near, last[:, None])  # [place, place that goes with it]
        alive = torch.arange(len(rows), device=rows.device)
        peaks: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"], Float[Tensor, " _"]]] = []
        for _ in range(self.k):
            place = rows.argmax(1)  # the first of equal ones
            score = rows.gather(1, place[:, None])[:, 0]
            keep = score > least[units[alive]]
            if not bool(keep.all()):
                alive, rows, place, score = alive[keep], rows[keep], place[keep], score[keep]
            if not len(alive):
                break
            peaks.append((alive, starts[place], score))
            rows.scatter_(1, taken[place], -torch.inf)
        candidate, start, score = (torch.cat(parts) for parts in zip(*peaks, strict=True))
        return candidate, start, score

    def _excerpts(self, rows: Float[Tensor, "peak pos"], start: Int[Tensor, " peak"]) -> Float[Tensor, "peak window"]:
        """The excerpts of the rows, nan behind the end of a shorter one."""
        if rows.shape[1] < self.window:
            pad = rows.new_full((len(rows), self.window - rows.shape[1]), torch.nan)
            return torch.cat([rows, pad], 1)
        return rows.gather(1, start[:, None] + torch.arange(self.window, device=rows.device))

    def _insert(
        self,
        i: int,
        units: Int[Tensor, " peak"],
        score: Float[Tensor, " peak"],
        start: Int[Tensor, " peak"],
        activations: Float[Tensor, "peak window"],
    ) -> None:
        """Put new excerpts among the k best of their units; `start` lies behind all that are there."""
        order = start.argsort(stable=True)
        order = order[units[order].argsort(stable=True)]
        units, score, start, activations = units[order], score[order], start[order], activations[order]
        changed, row, count = units.unique_consecutive(return_inverse=True, return_counts=True)
        column = torch.arange(len(units), device=units.device) - (count.cumsum(0) - count)[row]
        width = self.k + int(count.max())

        def beside(
            old: Shaped[Tensor, "unit k ..."], new: Shaped[Tensor, "peak ..."], fill: float
        ) -> Shaped[Tensor, "changed width ..."]:
            """What the changed units hold, and behind it what is new."""
            both = old.new_full((len(changed), width, *old.shape[2:]), fill)
            both[:, : self.k] = old[changed]
            both[row, self.k + column] = new
            return both

        scores = beside(self._score[i], score, -torch.inf)
        best = scores.sort(stable=True, dim=1, descending=True).indices[:, : self.k]
        self._score[i][changed] = scores.gather(1, best)
        self._start[i][changed] = beside(self._start[i], start, -1).gather(1, best)
        wide = best[..., None].expand(-1, -1, self.window)
        self._activations[i][changed] = beside(self._activations[i], activations, torch.nan).gather(1, wide)

    def state(self) -> State:
        """What is held now, by name."""
        return {
            "score": torch.stack(self._score),
            "start": torch.stack(self._start),
            "activations": torch.stack(self._activations),
        }

    def hold(self, states: Sequence[State]) -> None:
        """Hold the k best of all states; of equal ones those of the earlier state."""
        score, start, activations = (
            torch.cat([s[name] for s in states], 2) for name in ("score", "start", "activations")
        )
        best = score.sort(stable=True, dim=2, descending=True).indices[..., : self.k]
        wide = best[..., None].expand(*best.shape, self.window)
        self._score = list(score.gather(2, best))
        self._start = list(start.gather(2, best))
        self._activations = list(activations.gather(2, wide))

    @property
    def value(self) -> Float[Tensor, "site unit k"]:
        """What each excerpt is ranked by, best first."""
        score = torch.stack(self._score)
        score = -score if self.lowest else score
        return score.masked_fill(torch.stack(self._start) < 0, torch.nan)

    @property
    def start(self) -> Int[Tensor, "site unit k"]:
        """The corpus index of each excerpt's first token."""
        return torch.stack(self._start)

    @property
    def position(self) -> Int[Tensor, "site unit k"]:
        """The corpus index of each excerpt's extreme token, of the first of equal ones."""
        sign = -1.0 if self.lowest else 1.0
        peak = (sign * self.activations).nan_to_num(nan=-torch.inf).argmax(-1)
        return torch.where(self.start < 0, -1, self.start + peak)

    @property
    def activations(self) -> Float[Tensor, "site unit k window"]:
        """The activations on each excerpt's tokens."""
        return torch.stack(self._activations)


def _rows(
    values: Float[Tensor, "example place unit"], examples: Int[Tensor, " candidate"], units: Int[Tensor, " candidate"]
) -> Float[Tensor, "candidate place"]:
    """The values of some units on some examples."""
    n, _, width = values.shape
    if len(units) < _MOST * n * width:
        return values.transpose(1, 2)[examples, units]
    whole = values.transpose(1, 2).contiguous()  # many times as fast as to gather from afar, where most are wanted
    return whole.flatten(0, 1) if len(units) == n * width else whole[examples, units]
