"""Patching sweeps: ours against transformer_lens.patching, equal results, in one run.

    python benchmarks/patching.py
    python benchmarks/patching.py --rounds 5 --skip-large --json results.json

Both sides patch the clean run's activation into the corrupted run, site by site, measure a logit
difference at the last position, and run without gradients. They take turns in one process on one
thread; what counts is the median over the rounds of each ratio. The shipped checkpoint's prompts are
64 characters, its whole context; they are printed with the recall of `screen_and_verify`. The large
model has GPT-2's 124M shape and random weights: for timing alone.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import transformer_lens.patching as theirs

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.native import GPT
from nanogpt_lens.model.access import provenance
from nanogpt_lens.model.loading import convert

PASSAGE = """\
HAMLET:
To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles,
And by opposing end them. To die, to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd. To die, to sleep;
To sleep, perchance to dream: ay, there's the rub;
For in that sleep of death what dreams may come
When we have shuffled off this mortal coil,
Must give us pause: there's the respect
That makes calamity of so long life;

MARK ANTONY:
Friends, Romans, countrymen, lend me your ears;
I come to bury Caesar, not to praise him.
The evil that men do lives after them;
The good is oft interred with their bones;
So let it be with Caesar. The noble Brutus
Hath told you Caesar was ambitious:
If it were so, it was a grievous fault,
And grievously hath Caesar answer'd it.
"""
PAIRS = 12
THEIRS = {
    ("resid_pre", ("layer", "pos")): "get_act_patch_resid_pre",
    ("z", ("layer", "pos", "head")): "get_act_patch_attn_head_out_by_pos",
    ("z", ("layer", "head")): "get_act_patch_attn_head_out_all_pos",
    ("pattern", ("layer", "head", "dest_pos")): "get_act_patch_attn_head_pattern_by_pos",
    ("v", ("layer", "pos", "head")): "get_act_patch_attn_head_v_by_pos",
}


def prompts() -> list[tuple[str, str]]:
    """Clean and corrupted windows of the passage, 64 characters each."""
    step = (len(PASSAGE) - 64) // (2 * PAIRS)
    starts = [i * step for i in range(2 * PAIRS)]
    return [(PASSAGE[a : a + 64], PASSAGE[b : b + 64]) for a, b in zip(starts[:PAIRS], starts[PAIRS:], strict=True)]


def likely_answers(model, clean, corrupted):
    """What the model expects after the clean and after the corrupted text, one id each."""
    answer = model(clean)[:, -1].argmax(-1)
    wrong = model(corrupted)[:, -1].argmax(-1)
    second = model(corrupted)[:, -1].topk(2).indices[:, 1]
    return answer, torch.where(wrong == answer, second, wrong)


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare(name, model, clean, corrupted, activation, axes, rounds):
    """Time of TransformerLens over ours, in turns; the largest difference of the values."""
    metric = ngl.metrics.logit_diff(*likely_answers(model, clean, corrupted))
    _, cache = model.run_with_cache(clean)
    sweep = getattr(theirs, THEIRS[activation, axes])

    def ours():
        return ngl.activation_patching(
            model, clean, corrupted, metric, activation=activation, axes=axes, progress=False
        )

    model(corrupted)  # both sides find the same warm model
    pairs = []
    for _ in range(rounds):
        slow, expected = seconds(lambda: sweep(model, corrupted, cache, metric))
        fast, result = seconds(ours)
        pairs.append((slow, fast))
    error = (result.values.double() - expected.double()).abs().max() / expected.double().abs().max()
    row = {
        "sweep": f"{activation} by {', '.join(axes)}",
        "model": name,
        "batch": len(clean),
        "sites": result.values.numel(),
        "theirs_s": statistics.median(s for s, _ in pairs),
        "ours_s": statistics.median(f for _, f in pairs),
        "ratio": statistics.median(s / f for s, f in pairs),
        "ratio_low": min(s / f for s, f in pairs),
        "ratio_high": max(s / f for s, f in pairs),
        "relative_error": float(error),
        "engine": result.provenance["arguments"]["engine"],
    }
    print(
        f"{row['sweep']:<26} {name:<17} batch {row['batch']}  {row['sites']:>5} sites  "
        f"theirs {row['theirs_s']:7.3f} s  ours {row['ours_s']:6.3f} s  ratio {row['ratio']:5.1f} "
        f"({row['ratio_low']:.1f}-{row['ratio_high']:.1f})  relative error {row['relative_error']:.0e}",
        flush=True,
    )
    return row


def screened_pair(model, clean_text, corrupted_text, k, rounds):
    """Recall of the true top k, and the time of the screening against both exact sweeps."""
    axes = ("layer", "pos", "head")
    clean, corrupted = (ngl.encode_text(model, text)[None] for text in (clean_text, corrupted_text))
    metric = ngl.metrics.logit_diff(*likely_answers(model, clean, corrupted))
    given = (model, clean, corrupted, metric)
    options = {"activation": "z", "axes": axes, "progress": False}
    _, cache = model.run_with_cache(clean)
    sweep = getattr(theirs, THEIRS["z", axes])
    times = []
    for _ in range(rounds):
        slow, _ = seconds(lambda: sweep(model, corrupted, cache, metric))
        exact_time, exact = seconds(lambda: ngl.activation_patching(*given, **options))
        screen_time, screen = seconds(lambda: ngl.screen_and_verify(*given, k=k, **options))
        times.append((screen_time / slow, screen_time / exact_time))
    best = exact.effect.abs().flatten().topk(k).indices
    of_theirs, of_ours = (statistics.median(column) for column in zip(*times, strict=True))
    row = {
        "clean": clean_text,
        "corrupted": corrupted_text,
        "recall": float(screen.verified.flatten()[best].double().mean()),
        "first_ranks": float(screen.recall_curve[k - 1]),
        "correlation": screen.correlation,
        "verified": int(screen.verified.sum()),
        "of_theirs": of_theirs,
        "of_ours": of_ours,
    }
    print(
        f"recall {row['recall']:.2f}  1/{1 / of_theirs:.0f} of theirs, {of_ours:.2f} of our exact sweep: "
        f"{clean_text!r} | {corrupted_text!r}",
        flush=True,
    )
    return row


def screening(model, k, rounds):
    """The same for every pair of prompts, and the mean."""
    rows = [screened_pair(model, *pair, k, rounds) for pair in prompts()]
    mean = {key: statistics.mean(r[key] for r in rows) for key in ("recall", "of_theirs", "of_ours")}
    print(
        f"mean over {len(rows)} prompts: recall of the true top {k} {mean['recall']:.3f}, "
        f"1/{1 / mean['of_theirs']:.0f} of theirs, {mean['of_ours']:.3f} of our exact sweep"
    )
    return {"k": k, "mean": mean, "prompts": rows}


def large_model():
    """GPT-2's 124M shape with random weights."""
    config = NanoGPTConfig(n_layer=12, n_head=12, n_embd=768, block_size=64, vocab_size=50257)
    torch.manual_seed(0)
    weights = {name: t.detach() for name, t in GPT(config).state_dict().items()}
    return convert(Checkpoint(config=config, state_dict=weights), consume=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-large", action="store_true", help="without the 124M model, which takes minutes")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    theirs.tqdm = lambda iterable, **kwargs: iterable
    model = ngl.load("shakespeare_char")
    clean, corrupted = (ngl.encode_text(model, "".join(t)).view(-1, 64) for t in zip(*prompts(), strict=True))
    small = "shakespeare_char"
    rows = [compare(small, model, clean[:1], corrupted[:1], *sweep, args.rounds) for sweep in THEIRS]
    rows += [compare(small, model, clean[:4], corrupted[:4], *sweep, args.rounds) for sweep in list(THEIRS)[:2]]
    screened = screening(model, 20, args.rounds)
    if not args.skip_large:
        large = large_model()
        tokens = torch.randint(50257, (2, 1, 16), generator=torch.Generator().manual_seed(0))
        rows.append(compare("124M, random", large, *tokens, "resid_pre", ("layer", "pos"), 1))
    versions = {name: value for name, value in provenance(model).items() if name != "arguments"}
    if args.json:
        facts = {"threads": args.threads, "machine": platform.machine(), **versions}
        args.json.write_text(json.dumps({**facts, "sweeps": rows, "screening": screened}, indent=1) + "\n")


if __name__ == "__main__":
    main()
