"""The induction hypothesis as a ladder, scrubbed: `python -m scripts.scrubbing`.

Three seeds of the shipped `induction` model, on prompts of its own task and on repeated random permutations; and the
hypothesis of the one-layer control, that it counts characters, on prompts in random order. What comes out is
`docs/data/scrubbing.json`, and the tables of `docs/SCRUBBING.md`. It takes a few minutes; `--tables` fills the tables
alone.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from conversion.atomic import write_text
from scripts.replication.cells import markdown
from scripts.replication.tables import with_tables
from scripts.results import DATA, ROOT, SEEDS, place

OUT = DATA / "scrubbing.json"
DOCUMENT = ROOT / "docs" / "SCRUBBING.md"
PROMPTS, LENGTH, DRAWS, ORDERS = 512, 32, 2, 8
PROMPTS_WEAKENED = 64
"""The prompts on which every claim is weakened, which takes a hundred times as long as the hypothesis itself."""

PREVIOUS = {"1337": "0.1", "1338": "0.2", "1339": "0.1"}
"""The previous-token head of each seed, see `docs/RESULTS.md`."""

PROMPT_KINDS = ("trigger_bigrams", "repeated_random")
_HEADS = [f"1.{head}" for head in range(4)]
_AT_PREVIOUS = {"depends_on": "previous_token"}
_TOKEN = {"depends_on": "token"}


def induction(head: dict[str, Any], *, through_mlp: bool = True, token: bool = True) -> dict[str, Any]:
    """That the heads of layer 1 do it, each as `head` says, through MLP 1 as well, beside what the token brings."""
    heads: dict[str, Any] = dict.fromkeys(_HEADS, head)
    rest = {"resid_pre1": _TOKEN} if token else {}
    mlp = {"mlp1": {"reads": {**rest, **heads}}} if through_mlp else {}
    return {"logits": {"reads": {**rest, **heads, **mlp}}}


def opened(key: dict[str, Any]) -> dict[str, Any]:
    """A head whose queries and values depend on the token there, and whose keys are as said."""
    return {"reads": {"q": _TOKEN, "k": key, "v": _TOKEN}}


def ladder(previous: str) -> dict[str, dict[str, Any]]:
    """The hypotheses by name, from the naive one up."""
    answer = {"depends_on": "followed_earlier"}
    from_head = {previous: _AT_PREVIOUS}
    direct = {**_AT_PREVIOUS, "reads": from_head}
    by_mlp = {**_AT_PREVIOUS, "reads": {"mlp0": {**_AT_PREVIOUS, "reads": from_head}}}
    both = ["token", "previous_token"]
    by_both = {"depends_on": both, "reads": {"mlp0": {"depends_on": both, "reads": {**from_head, "embed": _TOKEN}}}}
    return {
        "the heads say what followed": induction(answer, through_mlp=False, token=False),
        "... through MLP 1 as well": induction(answer, token=False),
        "... beside what the last token brings": induction(answer),
        "keys read the previous-token head": induction(opened(direct)),
        "keys read MLP 0, which reads that head": induction(opened(by_mlp)),
        "... and the token": induction(opened(by_both)),
        "keys depend on the previous token alone": induction(opened(_AT_PREVIOUS)),
        "keys depend on their own token alone": induction(opened(_TOKEN)),
        "keys, queries and values are what they are": induction({"reads": {part: {} for part in "qkv"}}),
    }


MAIN = "keys read MLP 0, which reads that head"
"""The hypothesis of which every claim is weakened."""


def pairs_of(model: Any, kind: str, n: int = PROMPTS) -> Any:
    """The prompts of a kind."""
    from nanogpt_lens.text.task_pairs import pairs_by_name

    return pairs_by_name(model, kind, n=n, seq_len=LENGTH)


def of_seed(seed: str) -> dict[str, Any]:
    """What every rung recovers of one model, and what each claim of the main one costs."""
    import nanogpt_lens as ngl

    model = ngl.load(place("induction", seed))
    found: dict[str, Any] = {}
    for kind in PROMPT_KINDS:
        pairs = pairs_of(model, kind)
        results = {
            name: ngl.scrub(model, {"name": name, **rung}, pairs, n_draws=DRAWS, weaken=False)
            for name, rung in ladder(PREVIOUS[seed]).items()
        }
        some = pairs.at(torch.arange(PROMPTS_WEAKENED))
        weakened = ngl.scrub(model, {"name": MAIN, **ladder(PREVIOUS[seed])[MAIN]}, some, n_draws=2)
        table = weakened.claims_table().drop(columns=["n_values"])
        found[kind] = {
            "rungs": {name: share_of(result) for name, result in results.items()},
            "claims": json.loads(table.to_json(None, orient="records", double_precision=6) or "[]"),
        }
    return found


def share_of(result: Any) -> dict[str, Any]:
    """The recovered share of a result, with its interval, and that of its features permuted."""
    low, high = result.interval_of_recovered
    numbers = {"recovered": result.recovered, "low": low, "high": high}
    numbers |= {"permuted": result.of("features permuted"), "guess": result.of("uniform guess")}
    return {name: round(value, 6) for name, value in numbers.items()}


def counting(name: str, seed: str) -> dict[str, Any]:
    """What "it depends on the last token, and on which others there are" recovers, of prompts in their own order.

    Seven random orders of each stand in for it.
    """
    import nanogpt_lens as ngl
    from nanogpt_lens.text.pair import Pair

    model = ngl.load(place(name, seed))
    pairs = pairs_of(model, "trigger_bigrams", PROMPTS // ORDERS)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.arange(LENGTH), *(_shuffled(generator) for _ in range(ORDERS - 1))]
    some = [pairs.clean[:, order] for order in orders]
    data = Pair(
        clean=torch.cat(some),
        corrupted=torch.cat(some),
        answer=pairs.answer.repeat(ORDERS),
        wrong=pairs.wrong.repeat(ORDERS),
    )
    said = {
        "which characters there are": ["token", "counts_before"],
        "the last character alone": "token",
    }
    in_order = torch.arange(len(pairs.clean))
    found = {}
    for words, feature in said.items():
        result = ngl.scrub(model, {"logits": {"depends_on": feature}}, data, n_draws=DRAWS, weaken=False)
        found[words] = dict(zip(("recovered", "low", "high"), result.recovered_of(in_order), strict=True))
    return found


def _shuffled(generator: torch.Generator) -> torch.Tensor:
    """All positions in random order, but the last one."""
    return torch.cat([torch.randperm(LENGTH - 1, generator=generator), torch.tensor([LENGTH - 1])])


def _words(share: dict[str, Any]) -> str:
    return f"{share['recovered']:.2f} ({share['low']:.2f} to {share['high']:.2f})"


def ladder_table(found: dict[str, Any], kind: str) -> str:
    """A row for each rung, a column for each seed."""
    seeds = list(found["seeds"])
    names = found["seeds"][seeds[0]][kind]["rungs"]
    rows = [
        [
            name,
            *(_words(found["seeds"][seed][kind]["rungs"][name]) for seed in seeds),
            " / ".join(f"{found['seeds'][seed][kind]['rungs'][name]['permuted']:.2f}" for seed in seeds),
        ]
        for name in names
    ]
    guesses = [found["seeds"][seed][kind]["rungs"][next(iter(names))]["guess"] for seed in seeds]
    rows.append(["a uniform guess", *(f"{guess:.2f}" for guess in guesses), ""])
    return markdown(["hypothesis", *seeds, "features permuted"], rows)


def counting_table(found: dict[str, Any]) -> str:
    """A row for each model and seed."""
    rows = [
        [model, seed, *(_words(share) for share in shares.values())]
        for model, seeds in found["counting"].items()
        for seed, shares in seeds.items()
    ]
    return markdown(["model", "seed", "which characters there are", "the last character alone"], rows)


TABLES = {
    "ladder": lambda found: ladder_table(found, "trigger_bigrams"),
    "ladder_random": lambda found: ladder_table(found, "repeated_random"),
    "counting": counting_table,
}


def main() -> None:
    """Scrub, unless the tables alone are asked for, and fill the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="fill the tables from the file that is there")
    parser.add_argument("--again", action="store_true", help="compute what the file has already, too")
    options = parser.parse_args()
    found: dict[str, Any] = {"seeds": {}, "counting": {}}
    if OUT.is_file() and not options.again:
        found = json.loads(OUT.read_text())
    for seed in [] if options.tables else SEEDS:
        if seed not in found["seeds"]:
            found["seeds"][seed] = of_seed(seed)
            write_text(OUT, json.dumps(found, indent=1) + "\n")
    if not options.tables and not found["counting"]:
        found["counting"]["1 layer"] = {SEEDS[0]: counting("induction_control", SEEDS[0])}
        found["counting"]["2 layers"] = {seed: counting("induction", seed) for seed in SEEDS}
        write_text(OUT, json.dumps(found, indent=1) + "\n")
    if DOCUMENT.is_file():
        tables = {name: table(found) for name, table in TABLES.items()}
        write_text(DOCUMENT, with_tables(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
