"""The tables of the documents, from `docs/results.json`: nothing in them is typed by hand.

A document says where with a pair of comments, `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.backdoor.tables import TABLES as BACKDOOR
from scripts.replication.arrival import arrival, arrival_scrubbed
from scripts.replication.cells import Found, ends, markdown, number, several, three

_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(document: str, found: Found) -> str:
    """The document with every table made anew.

    Raises:
        KeyError: a table of an unknown name.
    """
    return _PLACE.sub(lambda m: f"{m[1]}{TABLES[m[2]](found)}\n{m[3]}", document)


def with_tables(document: str, tables: Mapping[str, str]) -> str:
    """The document with these tables in place of those of the same names.

    Raises:
        KeyError: the document has a table of another name.
    """
    return _PLACE.sub(lambda m: f"{m[1]}{tables[m[2]]}\n{m[3]}", document)


def _runs(found: Found) -> list[tuple[str, str, Any]]:
    named = (("2 layers", "induction"), ("1 layer", "induction_control"))
    return [(words, seed, run) for words, name in named for seed, run in found[name].items()]


def formation(found: Found) -> str:
    """Claim 1."""
    rows = []
    for words, seed, run in _runs(found):
        heads = run["formation"]["random"]
        cells = [
            f"{heads[s]['head']}: {number(heads[s]['values'])}; {heads[s]['verdict']}"
            for s in ("previous_token", "induction")
        ]
        rows.append([words, seed, *cells, ends(run["formation"]["accuracy"])])
    header = ("model", "seed", "previous-token head", "induction head", "accuracy where induction is required")
    return markdown(header, rows)


def control(found: Found) -> str:
    """Claim 1: by what the accuracy comes about."""
    rows = []
    for words, seed, run in _runs(found):
        mixed = run["shuffled"]
        lost = f"{number(mixed['lost'])} ({number(mixed['lost_low'])} to {number(mixed['lost_high'])})"
        rows.append(
            [
                words,
                seed,
                number(mixed["intact"]),
                number(mixed["shuffled"]),
                lost,
                number(run["formation"]["unseen_accuracy"]["values"]),
                number(run["formation"]["task"]["induction"]["values"]),
            ]
        )
    header = (
        "model",
        "seed",
        "accuracy",
        "context in random order",
        "lost",
        "accuracy at a trigger's first time",
        "highest induction attention on the task",
    )
    return markdown(header, rows)


def outputs(found: Found) -> str:
    """Claims 1 and 2: at whose outputs the best head looks."""
    steps = ("200", "300", "400", "600", "1000", "6000")
    rows = []
    for words, seed, run in _runs(found):
        cells = [f"{of['per_own']:.1f}, {of['per_other']:.1f}" for of in (run["whose_outputs"][s] for s in steps)]
        rows.append([words, seed, *cells])
    return markdown(("model", "seed", *(f"{int(step):,}" for step in steps)), rows)


_CROSSED = {"onset": "a tenth of its rise", "level": "0.1 above chance", "half": "half of its rise"}


def order(found: Found) -> str:
    """Claim 2."""
    rows = []
    for seed, run in found["induction"].items():
        for point, words in _CROSSED.items():
            random, task = (run["order"][kind][point] for kind in ("random", "task"))
            rows.append([seed, words, *(f"{v:,.0f}" for v in random[3:]), three(random), three(task)])
    header = (
        "seed",
        "each score at",
        "previous-token head",
        "induction head",
        "how much later, random permutations",
        "how much later, on the task",
    )
    return markdown(header, rows)


def learning(found: Found) -> str:
    """Claim 3."""
    rows = []
    for words, seed, run in _runs(found):
        part, heads = run["learning"], run["formation"]["random"]
        curves = (
            heads["previous_token"],
            heads["induction"],
            part["accuracy"],
            part["gain"],
            part["order_dependent_accuracy"],
        )
        points = [f"{of['onset'][0]:,.0f}, {of['half'][0]:,.0f}" if of["formed"] else "not reached" for of in curves]
        correlation = number(part["rank_correlation_with_induction"]["accuracy"], 2)
        rows.append([words, seed, *points, correlation, number(part["gain_at_the_end"], 2)])
    header = (
        "model",
        "seed",
        "previous-token head",
        "induction head",
        "accuracy",
        "loss gain",
        "accuracy that needs order",
        "rank correlation of accuracy and induction score",
        "loss gain at the end, nats",
    )
    return markdown(header, rows)


_SETS = {
    "nothing": "nothing",
    "induction": "induction heads (on random permutations)",
    "induction_at_work": "induction heads (on the task)",
    "previous_token": "previous-token head",
    "others": "all other heads",
}


def ablation(found: Found) -> str:
    """Claim 4: accuracy where induction is required without some heads."""
    rows = []
    for seed, part in found["causes"].items():
        mean, other = part["ablation"]["mean"], part["ablation"]["resample"]
        for name, words in _SETS.items():
            if name in mean:
                row = mean[name]
                rows.append(
                    [
                        seed,
                        words,
                        row["heads"] or "–",
                        ends(row["accuracy"]),
                        ends(row["lost"]),
                        ends(other[name]["lost"]),
                    ]
                )
        for name, words in (
            ("parts", "as many induction heads as others, mean of {}"),
            ("controls", "as many heads that are not, mean of {}"),
        ):
            if mean.get(name):
                both = [ends(m[name]["mean_lost"]) for m in (mean, other)]
                rows.append([seed, words.format(mean[name]["sets"]), "–", "–", *both])
    header = ("seed", "taken out", "heads", "accuracy", "lost, mean in its place", "lost, resampled")
    return markdown(header, rows)


def paths(found: Found) -> str:
    """Claim 4: through what the previous-token head works, on the task's prompts."""
    rows = []
    for seed, part in found["causes"].items():
        head = part["paths"]["previous_token"]
        for direction in ("noise", "denoise"):
            of = part["paths"]["task"][direction]
            through, frozen = of["through"], of["through_frozen"]
            rest = [sender for sender in through if sender != head]
            most = max(abs(through[sender]["keys"]["share"]["value"]) for sender in rest)
            cells = [ends(through[head][part_]["share"], 2) for part_ in ("keys", "queries", "values")]
            rows.append(
                [
                    seed,
                    f"{head}, {direction}",
                    ends(of["total"], 1),
                    *cells,
                    ends(frozen[head]["keys"]["share"], 3),
                    number(most),
                ]
            )
    header = (
        "seed",
        "head and direction",
        "total effect, logits",
        "through keys",
        "through queries",
        "through values",
        "through keys, MLPs frozen",
        "other heads of the layer, at most",
    )
    return markdown(header, rows)


def composition(found: Found) -> str:
    """Claim 4: K-composition."""
    rows = []
    for seed, part in found["causes"].items():
        of = part["composition"]
        head, random = of["previous_token"], of["random"]
        for receiver, scores in of.items():
            if not isinstance(scores, Mapping) or "rank" not in scores:
                continue
            others = [v for sender, v in scores["scores"].items() if sender != head]
            rows.append(
                [
                    seed,
                    receiver,
                    f"{number(scores['scores'][head])} ({head})",
                    number(max(others)),
                    f"{number(random['low'])} to {number(random['high'])}",
                ]
            )
    header = ("seed", "induction head", "previous-token head", "highest other", "95% of random heads")
    return markdown(header, rows)


_POINTS = ("resid_post 0", "resid_mid 1", "resid_post 1")


def answers(found: Found) -> str:
    """Claim 5."""
    rows = []
    for seed, part in found["causes"].items():
        of = part["prompts"]
        for words, name in (("random [A][B]...[A]", "lens"), ("the task", "lens_on_task")):
            right = of["clean"]["accuracy"] if name == "lens" else part["ablation"]["mean"]["nothing"]["accuracy"]
            cells = [ends(of[name][point]["top"], 2) for point in _POINTS]
            rows.append([seed, words, ends(right), *cells, of[name]["appears"] or "nowhere"])
        rows.append([seed, "corrupted", ends(of["corrupted"]["accuracy"]), "", "", "", ""])
    header = ("seed", "prompts", "accuracy", *(f"[B] on top after {p}" for p in _POINTS), "[B] appears at")
    return markdown(header, rows)


def carried(found: Found) -> str:
    """Claim 6."""
    rows = []
    for seed, part in found["causes"].items():
        of = part["carry_over"]
        rows.append(
            [
                seed,
                "the task",
                ends(of["task"]["accuracy"]),
                number(of["task"]["chance"]),
                "1",
                ends(of["task"]["loss"], 2),
            ]
        )
        for length in ("16", "32", "50", "64"):
            row = of[length]
            rows.append(
                [
                    seed,
                    f"permutations of {length}",
                    ends(row["accuracy"]),
                    number(row["chance"]),
                    ends(row["share"], 2),
                    ends(row["loss"], 2),
                ]
            )
        row = of["pairs"]
        rows.append([seed, "[A][B]...[A]", ends(row["accuracy"]), number(row["chance"]), ends(row["share"], 2), ""])
    return markdown(("seed", "sequences", "accuracy", "chance", "share carried over", "loss, nats"), rows)


def heads(found: Found) -> str:
    """Every head of every seed at the end."""
    rows = []
    for seed, part in found["causes"].items():
        for head, of in part["heads"]["scores"].items():
            rows.append(
                [
                    seed,
                    head,
                    *(
                        ends(of[name])
                        for name in ("previous_random", "previous_task", "induction_random", "induction_task")
                    ),
                ]
            )
    header = (
        "seed",
        "head",
        "previous token, random permutations",
        "previous token, the task",
        "prefix matching, random permutations",
        "induction attention, the task",
    )
    return markdown(header, rows)


def agreement(found: Found) -> str:
    """Finding (b), heads: rank correlations by stage, mean and range over seeds and sets of prompts."""
    part = found["head_agreement"]
    steps = _steps(part)
    rows = [[name, *(_over(by_step[step]) for step in steps)] for name, by_step in part["correlations"].items()]
    rows.append(["patching / patching on other prompts", *(_over(part["patching_with_itself"][s]) for s in steps)])
    return markdown(("methods", *(f"{int(step):,}" for step in steps)), rows)


def ranks(found: Found) -> str:
    """Finding (b), heads: how often the previous-token head is first, and what gradients see of it."""
    part = found["head_agreement"]
    steps = _steps(part)
    rows = [
        [
            f"first by {method.replace('_', ' ')}",
            *(f"{sum(rank == 1 for rank in by_step[step])} of {len(by_step[step])}" for step in steps),
        ]
        for method, by_step in part["rank_of_previous_token"].items()
    ]
    rows += [
        [f"share that {method.replace('_', ' ')} sees", *(_over(by_step[step]) for step in steps)]
        for method, by_step in part["seen_of_previous_token"].items()
    ]
    return markdown(("", *(f"{int(step):,}" for step in steps)), rows)


def _steps(part: Found) -> list[str]:
    return list(map(str, part["steps"]))


def _over(values: Sequence[float | None], digits: int = 2) -> str:
    """The mean of some numbers, and the least and the largest."""
    good = [v for v in values if v is not None and v == v]
    if not good:
        return "–"
    return f"{sum(good) / len(good):.{digits}f} ({min(good):.{digits}f} to {max(good):.{digits}f})"


NAMES_OF_METHODS = {"eap": "EAP", "eap_ig": "EAP-IG", "acdc": "ACDC", "exact": "exact effects"}


def _named(method: str) -> str:
    return NAMES_OF_METHODS.get(method, method)


def edge_ranks(found: Found) -> str:
    """Finding (b), edges: rank correlation with the exact effects, mean and range over seeds and sets of prompts."""
    return _by_step(found, "spearman")


def edge_tops(found: Found) -> str:
    """Finding (b), edges: the share of the ten largest effects among a method's first ten."""
    part = found["edge_agreement"]
    rows = [
        ["exact effects on other prompts", *(_over(part["other_prompts"][step]) for step in _steps(part))],
        ["a random order", *([f"{10 / 110:.2f}"] * len(part["steps"]))],
    ]
    return _by_step(found, "top_k_overlap", rows)


def _by_step(found: Found, score: str, more: Sequence[Sequence[str]] = ()) -> str:
    part = found["edge_agreement"]
    rows = [
        [_named(method), *(_over([three_[0] for three_ in scores[score][step]]) for step in _steps(part))]
        for method, scores in part["graded"].items()
    ]
    return markdown(("method", *(f"{step:,}" for step in part["steps"])), [*rows, *more])


def edge_intervals(found: Found) -> str:
    """Finding (b), edges: every grade at the last stage, on the first 512 prompts, with its interval over prompts."""
    part, rows = found["edge_agreement"], []
    last, n_sets = str(part["steps"][-1]), len(part["prompt_seeds"])
    for method, scores in part["graded"].items():
        for i, seed in enumerate(part["seeds"]):
            place = i * n_sets if method in ("eap", "eap_ig") else i
            cells = [three(scores[s][last][place], 2) for s in ("spearman", "sign_agreement", "top_k_overlap")]
            rows.append([_named(method), seed, *cells, f"{scores['kendall'][last][place]:.2f}"])
    head = ("method", "seed", "Spearman", "right signs of relevant edges", "shared of the first ten", "Kendall")
    return markdown(head, rows)


def edge_sizes(found: Found) -> str:
    """Finding (b), edges: the fewest edges of each order with nine tenths of the gap, by seed."""
    part = found["edge_agreement"]
    rows = [
        [_named(method), *(", ".join("–" if n is None else str(n) for n in by_step[step]) for step in _steps(part))]
        for method, by_step in part["sizes"].items()
    ]
    return markdown(("order", *(f"{step:,}" for step in part["steps"])), rows)


def safe_lists(found: Found) -> str:
    """Finding (b): the share of safe lists by way of asking, number of prompts and iteration; mean of the seeds."""
    part, rows = found["edge_agreement"], []
    for way, by_number in part["safe"].items():
        name = _named(way.removesuffix("_checked")) + (", first 20 checked" if way.endswith("_checked") else "")
        rows += [
            [name, n, *(f"{sum(by_step[step]) / len(by_step[step]):.0%}" for step in _steps(part))]
            for n, by_step in by_number.items()
        ]
    return markdown(("way of asking", "prompts", *(f"{step:,}" for step in part["steps"])), rows)


def safe_elsewhere(found: Found) -> str:
    """Finding (b): the share of safe lists of 32 prompts on other tasks."""
    rows = []
    for name, shares in found["edge_agreement"]["elsewhere"].items():
        task, seed, step = name.split()
        rows.append(
            [task, seed if task != "handmade" else "–", f"{int(step):,}", *(f"{v:.0%}" for v in shares.values())]
        )
    ways = [
        _named(w.removesuffix("_checked")) + (", checked" if w.endswith("_checked") else "")
        for w in next(iter(found["edge_agreement"]["elsewhere"].values()))
    ]
    return markdown(("task", "seed", "iteration", *ways), rows)


def safe_rule(found: Found) -> str:
    """Finding (b): the rule on every test."""
    rows = []
    for method, rules in found["edge_agreement"]["rule"].items():
        rule = next(iter(rules.values()))
        for test, got in {"where it was fitted": rule["fitted"], **rule["tests"]}.items():
            cells = [three(got[name], 2) for name in ("safe", "said", "precision", "gain", "recall")]
            works = "–" if test == "where it was fitted" else "yes" if got["works"] else "no"
            rows.append([_named(method), test, f"{got['models']}, {got['samples']:,}", *cells, works])
    head = ("method", "test", "models, samples", "safe", "called safe", "precision", "above always trust", "recall")
    return markdown((*head, "works"), rows)


def safe_rivals(found: Found) -> str:
    """Finding (b): every rule, its thresholds, and how it does on every test."""
    rows = []
    for method, rules in found["edge_agreement"]["rule"].items():
        for rule, of in rules.items():
            limits = ", ".join(
                f"{v / 100:g}" if k in ("agreement", "halves") else f"{v:g}" for k, v in of["thresholds"].items()
            )
            for test, got in of["tests"].items():
                cells = [three(got[name], 2) for name in ("precision", "recall", "youden")]
                rows.append([_named(method), rule, limits, test, *cells, three(got.get("main_is_better_by"), 2)])
    head = ("method", "rule", "thresholds", "test", "precision", "recall", "recall + specificity - 1")
    return markdown((*head, "the first rule is better by"), rows)


def smallest(found: Found) -> str:
    """Finding (a): every shape, with means over the seeds."""
    part = found["smallest_model"]
    if not part:
        return "Not measured."
    rows = [
        [
            name,
            f"{shape['parameters']:,}",
            f"{shape['induction']} of {len(shape['seeds'])}",
            several(shape["half_million_tokens"], 1),
            ends(shape["mean_prefix_matching"], 2),
            ends(shape["mean_accuracy"], 2),
            ends(shape["mean_lost"], 2),
        ]
        for name, shape in part["shapes"].items()
    ]
    header = (
        "model",
        "parameters",
        "seeds with an induction head",
        "million tokens until half",
        "prefix matching",
        "accuracy",
        "accuracy lost by shuffling",
    )
    return markdown(header, rows)


def shakespeare(found: Found) -> str:
    """Claim 7: the last checkpoint of every seed."""
    rows = []
    for seed, part in found["shakespeare"]["seeds"].items():
        layers = "; ".join(
            f"layer {i}: " + (", ".join(f"{n.replace('_', ' ')} {k}" for n, k in names.items()) or "none")
            for i, names in enumerate(part["names_by_layer"])
        )
        rows.append(
            [
                seed,
                f"{part['prefix_matching']['head']}: {ends(part['prefix_matching'])}",
                ends(part["gain_on_repeated_random_tokens"]),
                ends(part["in_context_learning"]),
                layers,
            ]
        )
    header = (
        "seed",
        "highest prefix matching",
        "loss gain on repeated random tokens, nats",
        "in-context learning, nats",
        "heads by what they are called",
    )
    return markdown(header, rows)


def shakespeare_stages(found: Found) -> str:
    """Claim 7: over training."""
    part = found["shakespeare"]["over_training"]
    names = ("previous_token", "duplicate_token", "induction", "positional", "sink", "broad")
    rows = []
    for i, step in enumerate(part["steps"]):
        cells = [number(part["highest"][name][i], 2) for name in names]
        called = {}
        for layer in part["names_by_layer"][str(step)]:
            for name, count in layer.items():
                called[name] = called.get(name, 0) + count
        words = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in called.items()) or "none"
        rows.append([f"{step:,}", number(part["highest_prefix_matching"][i]), *cells, words])
    header = ("iteration", "prefix matching", *(n.replace("_", " ") for n in names), "named heads")
    return markdown(header, rows)


def syntax(found: Found) -> str:
    """Finding (d): of every class and seed, the head that goes furthest beyond characters."""
    part = found["syntax"]
    rows = []
    for name, of in part["classes"].items():
        cells = []
        for seed, best in part["best"].items():
            one = best[name]
            attends = part["attending"][name][seed]
            values = ", ".join(number(one[key], 2) for key in ("values", "chance", "beyond", "preference"))
            cells.append(f"{one['head']}: {values}" + (f"; **{', '.join(attends)}**" if attends else ""))
        rows.append([name.replace("_", " "), f"{of['queries']:,}", number(of["told_apart"], 2), *cells])
    header = ("class", "queries", "told apart", *(f"seed {seed}" for seed in part["best"]))
    return markdown(header, rows)


_FOLLOWED = ("own_line_break", "own_word_break", "word_start", "own_word_start")


def syntax_training(found: Found) -> str:
    """Finding (d), over training: the highest of any head beyond characters, and the heads that attend."""
    part = found["syntax"]["training"]
    rows = []
    for seed, classes in part.items():
        for name in _FOLLOWED:
            of = classes[name]
            cells = [
                number(max(by_layer), 2) + (f" ({', '.join(heads)})" if heads else "")
                for by_layer, heads in zip(of["beyond"], of["attending"], strict=True)
            ]
            rows.append([name.replace("_", " "), seed, *cells[4:]])
    steps = next(iter(next(iter(part.values())).values()))["steps"]
    return markdown(("class", "seed", *(f"{step:,}" for step in steps[4:])), rows)


def syntax_knocked(found: Found) -> str:
    """Finding (d): what it costs to take the attention away."""
    rows = []
    for seed, classes in found["syntax"]["knocked_out"].items():
        for name, of in classes.items():
            cells = [
                cell
                for kind in ("class", "shifted")
                for cell in (
                    number(of[kind]["attention"], 2),
                    three(of[kind]["rise"], 3),
                    three(of[kind]["per_attention"], 2),
                )
            ]
            rows.append([name.replace("_", " "), seed, of["heads"], *cells])
    kinds = [
        f"{what}{kind}"
        for kind in ("", ", class shifted")
        for what in ("attention taken", "rise of the loss, nats", "rise per attention")
    ]
    return markdown(("class", "seed", "heads", *kinds), rows)


TABLES: dict[str, Callable[[Found], str]] = {
    "formation": formation,
    "control": control,
    "outputs": outputs,
    "order": order,
    "learning": learning,
    "heads": heads,
    "ablation": ablation,
    "paths": paths,
    "composition": composition,
    "answers": answers,
    "carried": carried,
    "agreement": agreement,
    "ranks": ranks,
    "edge_ranks": edge_ranks,
    "edge_tops": edge_tops,
    "edge_intervals": edge_intervals,
    "edge_sizes": edge_sizes,
    "safe_lists": safe_lists,
    "safe_elsewhere": safe_elsewhere,
    "safe_rule": safe_rule,
    "safe_rivals": safe_rivals,
    "smallest": smallest,
    "arrival": arrival,
    "arrival_scrubbed": arrival_scrubbed,
    "shakespeare": shakespeare,
    "shakespeare_stages": shakespeare_stages,
    **BACKDOOR,
    "syntax": syntax,
    "syntax_training": syntax_training,
    "syntax_knocked": syntax_knocked,
}
