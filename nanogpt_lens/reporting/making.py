"""`ngl.report`: the sections of a report, made one after the other, and the page."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from conversion.backends import BackendChoice, resolve_backend
from conversion.checkpoint import CHECKPOINT_NAME
from conversion.config import ActFn
from conversion.freeing import give_back
from conversion.val_loss import ValBin
from conversion.vocabulary import Vocabulary
from nanogpt_lens.circuits.claims import Hypothesis, read_hypothesis
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.output import check_output
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.loading import convert
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.reporting.beside import made_by_two
from nanogpt_lens.reporting.comparison import report_of_two
from nanogpt_lens.reporting.page import page
from nanogpt_lens.reporting.report import Report
from nanogpt_lens.reporting.section import Recipe, Section, section_of
from nanogpt_lens.reporting.sections import (
    attention,
    certificate,
    checkpoints,
    circuits,
    heads,
    induction,
    lab,
    lens,
    loss,
    neurons,
    patching,
    scrubbing,
    summary,
)
from nanogpt_lens.reporting.sections.further import further_recipes
from nanogpt_lens.reporting.subject import OwnPair, Subject, is_large, text_of
from nanogpt_lens.reporting.words import line_of
from nanogpt_lens.text.corpus import Corpus

_MODULES = (
    certificate,
    loss,
    heads,
    attention,
    induction,
    lens,
    patching,
    circuits,
    scrubbing,
    neurons,
    lab,
    checkpoints,
)

log = logging.getLogger(__name__)

RECIPES: dict[str, Recipe] = {module.RECIPE.key: module.RECIPE for module in _MODULES}
"""All sections but the summary, in their order."""

SECTIONS: Mapping[str, str] = {summary.KEY: summary.TITLE, **{key: r.title for key, r in RECIPES.items()}}
"""The title of every section that is written for the report, by its key, in their order."""


def section_titles() -> dict[str, str]:
    """The title of every section by its key, those of analyses registered for the report before the last."""
    last = checkpoints.RECIPE.key
    further = {key: recipe.title for key, recipe in further_recipes().items()}
    return {**{k: t for k, t in SECTIONS.items() if k != last}, **further, last: SECTIONS[last]}


def report(
    path: str | Path | Sequence[str | Path],
    *,
    corpus: Corpus | None = None,
    output: str | Path | None = None,
    sections: Sequence[str] | None = None,
    clean: str | Sequence[int] | None = None,
    corrupted: str | Sequence[int] | None = None,
    answer: str | int | None = None,
    wrong: str | int | None = None,
    hypothesis: Hypothesis | Mapping[str, Any] | str | Path | None = None,
    val_bin: ValBin = None,
    seed: int = 0,
    progress: bool = True,
    backend: BackendChoice = "auto",
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
) -> Report:
    """One offline page about a checkpoint: the proof that its conversion is equal, and what is inside.

    A section that fails says so in its place, and the rest stands. The same arguments give the same bytes.

    Args:
        path: nanoGPT's `out_dir`, a `ckpt.pt`, or the name of a shipped checkpoint. Of a folder with several
            checkpoints (`ckpt*.pt`, also in the folders in it) these are compared as well; where it has no `ckpt.pt`
            of its own, they are compared alone. Two paths, before and after, give the page of `ngl.compare`.
        corpus: what the model is measured on: a text, a path or token ids; None for the model's own text, which
            shows less.
        output: also write the page there.
        sections: which ones, see `section_titles`; None for all that apply.
        clean, corrupted: a pair of prompts of your own, as text or ids, for the section on patching; give both or
            none.
        answer, wrong: one token each, as text or id, what the clean and the corrupted prompt call for; None for the
            model's own top tokens.
        hypothesis: what the model is said to do, as for `ngl.scrub`; with it there is a section on scrubbing.
        val_bin: the run's validation data, for the certificate: as for `ngl.check`.
        seed: of everything that is drawn.
        progress: show a bar over the sections.
        backend, meta, act_fn, n_head, ignore_model_args: as for `ngl.check`.

    Returns:
        the report; `save(path)` writes it.

    Raises:
        AnalysisError: a model in place of a path, a section that does not exist or that these checkpoints cannot
            have, half a pair, prompts that do not fit or are equal or have no section, a hypothesis that cannot be said
            of the model or has no section, an output that cannot be written.
        NanoGPTLensError: a checkpoint or text that cannot be read.
    """
    reading = Reading(backend=backend, meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
    if isinstance(path, list | tuple):
        others = {"sections": sections, "clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
        others |= {"hypothesis": hypothesis, "val_bin": val_bin}
        _check_two(path, others)
        options: dict[str, Any] = {"seed": seed, "progress": progress, "reading": reading}
        return report_of_two(str(path[0]), str(path[1]), corpus=corpus, output=output, **options)
    if not isinstance(path, str | Path):
        raise AnalysisError(
            f"a {type(path).__name__} was given; expected the path of a checkpoint (a folder, a ckpt.pt) or the name "
            "of a shipped one, because the report proves what is in the file"
        )
    check_whole(seed=seed)
    resolve_backend(backend)
    target = None if output is None else check_output(output)
    pair = _pair(clean, corrupted, answer, wrong)
    stages = checkpoints.checkpoints_of(path)
    alone = len(stages) > 1 and not checkpoints.has_own(path)
    claims = None if hypothesis is None else read_hypothesis(hypothesis)
    several, scrubs = len(stages) > 1, claims is not None
    chosen = chosen_sections(sections, path=path, several=several, alone=alone, scrubs=scrubs)
    _check_used(chosen, pair, claims)
    about: dict[str, Any] = {
        "path": str(path),
        "raw_text": corpus,
        "pair": pair,
        "hypothesis": claims,
        "hypothesis_file": scrubbing.file_of(hypothesis),
        "stages": stages,
        "val_bin": val_bin,
        "seed": seed,
        "reading": reading,
    }
    subject = Subject(**about) if alone else _subject(about, reading)
    parts = _sections(subject, chosen, progress)
    result = Report(html=_page(subject, parts), path=str(path), sections=parts, passed=_passed(parts))
    if target is not None:
        result.save(target)
    return result


def _check_two(paths: Sequence[Any], others: Mapping[str, Any]) -> None:
    """Raise AnalysisError unless two paths are given, and nothing that is about one checkpoint."""
    if len(paths) != 2 or not all(isinstance(path, str | Path) for path in paths):
        raise AnalysisError(f"{len(paths)} paths were given; expected one checkpoint, or two to compare")
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise AnalysisError(f"{given[0]} was given, which is about one checkpoint; leave it out where two are compared")


def chosen_sections(
    sections: Sequence[str] | None, *, path: str | Path, several: bool, alone: bool, scrubs: bool = False
) -> list[str]:
    """The keys of the sections that are made, in the order of `section_titles`.

    Args:
        sections: the keys, or one of them; None for all.
        path: what the report is about.
        several: it has several checkpoints.
        alone: these are compared, and none is looked into.
        scrubs: a hypothesis is given.

    Raises:
        AnalysisError: one that does not exist, or none; one that needs several checkpoints where there is one, or one
            where there are several, or a hypothesis where there is none.
    """
    titles = section_titles()
    names = [sections] if isinstance(sections, str) else None if sections is None else list(sections)
    if names is not None:
        unknown = [name for name in names if name not in titles]
        if unknown or not names:
            what = f"there is no section {unknown[0]!r}" if unknown else "no section is chosen"
            near = did_you_mean(unknown[0], titles) if unknown else ""
            raise AnalysisError(f"{what}; expected some of {', '.join(titles)}{near}")
        comparing = checkpoints.RECIPE.key
        if comparing in names and not several:
            raise AnalysisError(
                f"the section {comparing} was chosen, but {path} is one checkpoint; expected a folder with several"
            )
        if scrubbing.RECIPE.key in names and not scrubs:
            raise AnalysisError(
                f"the section {scrubbing.RECIPE.key} was chosen without a hypothesis; give hypothesis='FILE' too, or "
                "leave it out"
            )
        single = [name for name in names if name not in (summary.KEY, comparing)] if alone else []
        if single:
            raise AnalysisError(
                f"the section {single[0]} is about one checkpoint, but {path} holds several and no {CHECKPOINT_NAME} "
                f"of its own; name one of them, or choose {comparing}"
            )
        return [key for key in titles if key in names]
    if alone:
        return [summary.KEY, checkpoints.RECIPE.key]
    absent = {checkpoints.RECIPE.key: not several, scrubbing.RECIPE.key: not scrubs}
    return [key for key in titles if not absent.get(key)]


def _check_used(chosen: Sequence[str], pair: OwnPair | None, claims: Hypothesis | None) -> None:
    """Raise AnalysisError where prompts or a hypothesis are given, and no section uses them."""
    for given, what, key in (
        (pair, "clean and corrupted prompts were", patching.RECIPE.key),
        (claims, "a hypothesis was", scrubbing.RECIPE.key),
    ):
        if given is not None and key not in chosen:
            them, prompts = ("them", "the prompts") if given is pair else ("it", "the hypothesis")
            raise AnalysisError(
                f"{what} given, but the section {key}, which alone uses {them}, is not among the sections "
                f"({', '.join(chosen)}); choose it too, or leave {prompts} out"
            )


def _pair(
    clean: str | Sequence[int] | None,
    corrupted: str | Sequence[int] | None,
    answer: str | int | None,
    wrong: str | int | None,
) -> OwnPair | None:
    if clean is None and corrupted is None:
        if answer is not None or wrong is not None:
            raise AnalysisError("an answer was given without prompts; expected clean and corrupted as well")
        return None
    if clean is None or corrupted is None:
        alone = "clean" if corrupted is None else "corrupted"
        raise AnalysisError(f"only the {alone} prompt was given; expected clean and corrupted, or neither of them")
    if clean is corrupted or (isinstance(clean, str) and clean == corrupted):
        raise AnalysisError("the clean and the corrupted text are the same; expected two that differ in some token")
    return OwnPair(clean=clean, corrupted=corrupted, answer=answer, wrong=wrong)


def _subject(about: dict[str, Any], reading: Reading) -> Subject:
    """The subject with its model and its text; what the user can get wrong is checked here."""
    checkpoint = reading.checkpoint(about["path"])
    kept = checkpoint.without_weights()
    _ = checkpoint.sha256, kept.sha256
    n_params = checkpoint.n_params
    model = convert(checkpoint, backend=reading.backend, consume=True)
    if about["pair"] is not None:
        patching.own_case(model, about["pair"])
    if about["hypothesis"] is not None:
        scrubbing.check_hypothesis(model, about["hypothesis"])
    about |= {"checkpoint": kept, "n_params": n_params, "text": text_of(model, about["raw_text"])}
    if not is_large(n_params):
        return Subject(**about, _model=model)
    del model  # the certificate needs its memory
    give_back()

    def again() -> Hooked:
        give_back()
        model = convert(reading.checkpoint(about["path"]), backend=reading.backend, consume=True)
        if cast(Any, model).nanogpt_origin.sha256 != kept.sha256:
            raise AnalysisError(f"{about['path']} has changed while the report was made; make it again")
        return model

    return Subject(**about, _made_by=again)


def _sections(subject: Subject, chosen: Sequence[str], progress: bool) -> tuple[Section, ...]:
    """The sections in their order; the summary, which reads the others, is made last and stands first."""
    recipes = {**RECIPES, **further_recipes()}
    with tqdm(total=len(chosen), desc="report", unit="section", disable=not progress) as bar:
        keys = [key for key in chosen if key != summary.KEY]
        numbers = count(1)

        def begins(key: str) -> None:
            log.info("section %d of %d, %s", next(numbers), len(chosen), key)
            bar.set_postfix_str(key)

        made = made_by_two(
            keys,
            lambda key: section_of(recipes[key], subject),
            n_params=subject.n_params,
            before_each=begins,
            after_each=bar.update,
        )
        sections = [made[key] for key in keys]
        if summary.KEY in chosen:
            log.info("section %d of %d, %s", len(chosen), len(chosen), summary.KEY)
            sections.insert(0, summary.section(subject, sections))
            bar.update()
    return tuple(sections)


def _passed(sections: Sequence[Section]) -> bool | None:
    """Whether equality is proven by every section that is about it; a certificate that failed proves nothing."""
    about = [
        s
        for s in sections
        if s.key in (certificate.RECIPE.key, checkpoints.RECIPE.key) and s.status != "does not apply"
    ]
    return all(s.proven is True for s in about) if about else None


def _page(subject: Subject, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    passed = _passed(sections)
    said = [s.verdict for s in sections if s.verdict]
    certified = next((s.results["check"] for s in sections if "check" in s.results), None)
    if passed is None:
        status = "Equality not checked: the certificate was not among the chosen sections"
    elif passed and certified is not None and len(said) == 1:
        status = certificate.in_a_line(certified)
    elif said:
        status = "; ".join(said)
    else:
        status = "NOT PROVEN: the certificate could not be made"
    return page(
        name=line_of(subject.name, longest=120),
        title=f"{subject.name}: nanogpt-lens report",
        status=status,
        tone={True: "good", False: "bad", None: "plain"}[passed],
        sections=sections,
        size=summary.size_of(subject),
        proof=() if certified is None else (certificate.by_kind(certified),),
    )
