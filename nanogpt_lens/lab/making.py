"""`ngl.lab`: from a checkpoint or a model to one page in which it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.backends import BackendChoice
from conversion.config import ActFn
from conversion.errors import CheckpointError
from conversion.vocabulary import Vocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.output import check_output
from nanogpt_lens.lab.findings import findings_of
from nanogpt_lens.lab.packing import MOST_BYTES, WARN_BYTES
from nanogpt_lens.lab.page import Lab
from nanogpt_lens.lab.payload import LabPrompt, payload_of, payload_without_weights, prompts_of
from nanogpt_lens.lab.proof import proof_of
from nanogpt_lens.model.access import Hooked, check_model
from nanogpt_lens.model.identity import identity
from nanogpt_lens.model.loading import load
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.text.corpus import Corpus, open_corpus

_REFERENCE_TOKENS = 2048
"""Tokens of the sequences that "mean" averages over; the page runs them when a mean is first asked for."""


def lab(
    path_or_model: str | Path | Hooked,
    *,
    text: Corpus | None = None,
    prompts: Sequence[LabPrompt] | None = None,
    findings: bool = True,
    output: str | Path | None = None,
    directions: Mapping[str, Float[Tensor, " d_model"] | Sequence[float]] | None = None,
    seed: int = 0,
    backend: BackendChoice = "auto",
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
) -> Lab:
    """Put a model into one offline page, in which anybody can intervene and see what changes.

        ngl.lab("out-shakespeare-char", output="lab.html")   # a file to open, and to send
        ngl.lab(model)                                       # in a notebook, as the last line of a cell

    The page computes the model itself (no server, no network), and proves on opening that it computes the same as
    PyTorch. docs/LAB.md says what can be done in it, and how scripts use it.

    Args:
        path_or_model: what `ngl.load` takes, or a model that it gave.
        text: the text whose sequences "mean" averages over, and that findings are measured on: a path, a data folder,
            a text or ids; None for text that the model writes itself.
        prompts: what the page opens with, see `LabPrompt`; None for what the findings propose.
        findings: whether heads get labels, and prompts, neurons and the tour are looked for (seconds).
        output: the page that is written; None to write none.
        directions: directions of the residual stream by name, which the page can add.
        seed: the seed of the reference sequences and of the proof's cases.
        backend, meta, act_fn, n_head, ignore_model_args: how a path is read, see
            `nanogpt_lens.model.reading.Reading`.

    Returns:
        the page: `.save(path)`, or shown by a notebook.

    Raises:
        AnalysisError: a model that is not built as nanoGPT is, a page that would be larger than 300 MB, prompts or
            directions that do not fit, an output that cannot be written.
        ConversionError: the checkpoint cannot be read.
    """
    file = None if output is None else check_output(output, example="lab.html")
    check_whole(seed=seed)
    reading = Reading(backend=backend, meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
    from_path = isinstance(path_or_model, str | Path)
    model = load(path_or_model, **reading.options()) if from_path else path_or_model
    check_model(model)
    _check_size(model)
    chosen = prompts_of(model, prompts)
    named = _named(model, path_or_model if from_path else None, reading)
    found = findings_of(model, corpus=text, prompts=chosen, seed=seed) if findings else _plain(chosen)
    about = {**_about(model, text, named, seed), "directions": _directions(model, directions), "findings": found}
    payload, packed = payload_of(model, proof_of(model, seed=seed), about)
    made = Lab(payload=payload, weights=packed.bytes)
    if file is not None:
        made.save(file)
    return made


def served_lab(model: Hooked, *, name: str, code: str, text: Corpus | None = None, seed: int = 0) -> Lab:
    """The page of a model that stays where it is: the server that gives the page computes for it.

    Args:
        model: the model; of any size.
        name: what it is called.
        code: the Python that loads it.
        text: the text whose sequences "mean" averages over; None for text that the model writes itself.
        seed: of these sequences.

    Raises:
        AnalysisError: a model that is not built as nanoGPT is.
    """
    about = {**_about(model, text, (name, code), seed), "directions": {}, "findings": None}
    return Lab(payload=payload_without_weights(model, about), weights=b"")


def _about(model: Hooked, text: Corpus | None, named: tuple[str, str], seed: int) -> dict[str, Any]:
    """What a page says of its model, and what "mean" averages over."""
    corpus = open_corpus(model, text)
    name, code = named
    return {
        "name": name,
        "code": code,
        "sha256": _sha256(model),
        "identity": identity(model),
        "reference": _reference(model, corpus, seed),
        "reference_name": corpus.windows_name,
    }


def _plain(prompts: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if prompts is None else {"prompts": prompts}


def _check_size(model: Hooked) -> None:
    """Raise AnalysisError where the page would be too large; weights are float32, 4/3 of their bytes in base64."""
    size = 16 * sum(tensor.numel() for tensor in {id(p): p for p in model.parameters()}.values()) // 3
    if size > MOST_BYTES:
        raise AnalysisError(
            f"the page would have about {size / 1e6:.0f} MB; a browser opens at most {MOST_BYTES / 1e6:.0f} MB: use "
            "`ngl.intervene` in Python, or a smaller model"
        )


def size_warning(n_bytes: int) -> str:
    """A sentence where a page is large; else nothing."""
    if n_bytes <= WARN_BYTES:
        return ""
    return f"the page has {n_bytes / 1e6:.0f} MB: browsers take seconds to open it, and mail will not carry it"


def _named(model: Hooked, path: str | Path | None, reading: Reading) -> tuple[str, str]:
    """The model's name, and the Python that loads it."""
    origin = getattr(model, "nanogpt_origin", None)
    place = path if path is not None else getattr(origin, "path", None)
    if place is None:
        return "a model", "..."
    file = Path(place)
    name = file.parent.name if file.suffix and file.parent.name else file.name
    options = {key: value for key, value in reading.changed().items() if isinstance(value, str | int | Path | tuple)}
    words = "".join(f", {key}={str(value) if isinstance(value, Path) else value!r}" for key, value in options.items())
    if getattr(model.cfg, "normalization_type", "LN") == "LNPre":
        words += ", process_weights=True"
    return name or str(place), f"ngl.load({str(place)!r}{words})"


def _sha256(model: Hooked) -> str | None:
    try:
        return getattr(getattr(model, "nanogpt_origin", None), "sha256", None)
    except (CheckpointError, OSError):
        return None


def _reference(model: Hooked, corpus: Any, seed: int) -> list[list[int]]:
    """The sequences that "mean" averages over, of the context's length where the text has room for them."""
    seq_len = min(int(model.cfg.n_ctx), corpus.room(2))
    n = max(2, min(32, _REFERENCE_TOKENS // seq_len))
    return corpus.windows(seq_len=seq_len, n=n, seed=seed).tolist()


def _directions(
    model: Hooked, directions: Mapping[str, Float[Tensor, " d_model"] | Sequence[float]] | None
) -> dict[str, list[float]]:
    """Directions by name, as lists of d_model numbers.

    Raises:
        AnalysisError: one has another width, or numbers that are not finite.
    """
    kept: dict[str, list[float]] = {}
    for name, numbers in (directions or {}).items():
        direction = torch.as_tensor(numbers, dtype=torch.float64).detach().cpu()
        if direction.shape != (model.cfg.d_model,) or not bool(direction.isfinite().all()):
            raise AnalysisError(
                f"the direction {name!r} has shape {list(direction.shape)}, or numbers that are not finite; expected "
                f"{model.cfg.d_model} numbers, the width of the residual stream"
            )
        kept[str(name)] = direction.tolist()
    return kept
