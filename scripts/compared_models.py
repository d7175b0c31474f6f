"""Models trained further, compared with what they come from: `python -m scripts.compared_models`.

The shipped `shakespeare_char` is trained further for 300 iterations, three times on text in capitals and three times on
more of its own kind of text, the control; then each is put beside it. What comes out is
`docs/data/compared_models.json`, and the table on it in `docs/COMPARING.md`. It takes about ten minutes on one core;
`--tables` fills the table alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from conversion.atomic import write_text
from scripts.replication.cells import markdown
from scripts.replication.tables import with_tables
from scripts.results import DATA, ROOT
from scripts.train_further import train_further

OUT = DATA / "compared_models.json"
DOCUMENT = ROOT / "docs" / "COMPARING.md"
SEEDS = (0, 1, 2)
TEXTS = {"capitals": "trained further on capitals", "more": "trained further on its own kind of text"}
_TRAIN, _READ = 400_000, 60_000  # characters


def texts(kind: str) -> tuple[str, str]:
    """The text to train on, and other text to measure on."""
    from nanogpt_lens.text.datasets import shakespeare

    whole = shakespeare()
    train, read = whole[:_TRAIN], whole[-_READ:]
    return (train.upper(), read.upper()) if kind == "capitals" else (train, read)


def compared(kind: str, seed: int) -> dict[str, Any]:
    """The numbers of one comparison."""
    import nanogpt_lens as ngl
    from nanogpt_lens.model.reading import Reading

    train, read = texts(kind)
    known = set(Reading().checkpoint("shakespeare_char").vocabulary.chars)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        after = train_further("shakespeare_char", train, Path(folder) / "after", seed=seed)
        made = ngl.compare(
            "shakespeare_char",
            after,
            text="".join(c for c in read if c in known),
            parts=["outputs", "weights", "transplants"],
            progress=False,
        )
    outputs, weights, moved = made["outputs"], made["weights"], made["transplants"]
    way, by = moved.labels["direction"].index("b into a"), moved.measures.index(moved.by)
    sizes = moved.n_parameters
    return {
        "sentences": list(made.sentences()),
        "loss": list(outputs.measure("loss_difference")),
        "kl": list(outputs.measure("kl_ab")),
        "cosine": weights.origin_cosine,
        "changed": len(weights.changed),
        "parts": list(moved.smallest_set("b into a")),
        "n_parts": int(moved.changed.sum()),
        "parameters": float(sizes[moved.chosen[way]].sum()) / float(sizes[moved.changed].sum()),
        "share": [float(part[way, by]) for part in (moved.set_share, moved.set_low, moved.set_high)],
        "random": moved.random_share[way].nanmean(-1).tolist(),
        "p": moved.set_p[way].tolist(),
        "alone": {row["component"]: row["share"] for row in moved.table("b into a").head(3).to_dict("records")},
    }


def table(found: dict[str, Any]) -> str:
    """A row for each model."""
    rows = []
    for kind, words in TEXTS.items():
        for seed, one in found[kind].items():
            share = "{:.0%} ({:.0%} to {:.0%})".format(*one["share"])
            random = [f"{value:.0%} (p = {p:.2g})" for value, p in zip(one["random"], one["p"], strict=True)]
            rows.append(
                [
                    f"{words}, seed {seed}",
                    f"{one['loss'][0]:+.2f}",
                    f"{one['kl'][0]:.2f}",
                    f"{one['cosine']:.2f}",
                    f"{len(one['parts'])} of {one['n_parts']}, {one['parameters']:.0%}",
                    share,
                    *random,
                ]
            )
    header = [
        "model",
        "loss",
        "KL",
        "cosine",
        "set: parts, parameters",
        "it carries",
        "as many parts",
        "as many parameters",
    ]
    return markdown(header, rows)


TABLES = {"trained_further": table}


def main() -> None:
    """Train and compare, unless the table alone is asked for, and fill the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="fill the table from the file that is there")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {kind: {} for kind in TEXTS}
    for kind in [] if options.tables else TEXTS:
        for seed in SEEDS:
            if str(seed) not in found[kind]:
                found[kind][str(seed)] = compared(kind, seed)
                write_text(OUT, json.dumps(found, indent=1) + "\n")
                print(kind, seed, *found[kind][str(seed)]["sentences"], sep="\n  ", flush=True)
    filled = with_tables(DOCUMENT.read_text(), {name: make(found) for name, make in TABLES.items()})
    write_text(DOCUMENT, filled)


if __name__ == "__main__":
    main()
