"""What a shell completes, without torch: names of shipped checkpoints, analyses, sections, tasks, methods, parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

TASKS = ("induction", "repeated_random", "trigger_bigrams")
SECTIONS = (
    *("summary", "certificate", "loss", "heads", "attention", "induction", "lens", "patching", "circuits", "scrubbing"),
    *("neurons", "lab", "checkpoints"),
)
METHODS = ("greedy", "exact", "acdc", "eap_ig", "eap", "weights", "attention")
PARTS = ("outputs", "weights", "representations", "difference_lens", "heads", "transplants", "edges")
_FOLLOWED = ("weights", "random tokens", "corpus", "task")


def checkpoints(incomplete: str) -> list[str]:
    """The names of shipped checkpoints; where none begins so, the shell offers files."""
    from nanogpt_lens.model.places import shipped_checkpoints

    return [name for name in shipped_checkpoints() if name.startswith(incomplete)]


def texts(incomplete: str) -> list[str]:
    """The names of shipped checkpoints that have text beside them."""
    from nanogpt_lens.model.places import shipped_checkpoints, shipped_text

    return [name for name in shipped_checkpoints() if name.startswith(incomplete) and shipped_text(name) is not None]


def analyses(incomplete: str) -> Iterator[tuple[str, str]]:
    """The names of analyses, with what they say."""
    from nanogpt_lens.catalogue import ANALYSES

    return ((a.name, a.about) for a in ANALYSES.values() if a.name.startswith(incomplete))


def measures(incomplete: str) -> Iterator[tuple[str, str]]:
    """The names of analyses that can be followed over training, with what they say."""
    from nanogpt_lens.catalogue import ANALYSES

    known = (a for a in ANALYSES.values() if a.looks_at in _FOLLOWED or a.name == "edge_effects")
    return ((a.name, a.about) for a in known if a.name.startswith(incomplete))


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion by one of some names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion by names with commas between them, each once."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        there = before.split(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in there]

    return complete
