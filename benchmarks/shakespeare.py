"""What lenses and neurons show on the shipped model: the tables of docs/LENSES_AND_NEURONS.md.

    python benchmarks/shakespeare.py --text input.txt        # tiny Shakespeare, which the model was trained on
    python benchmarks/shakespeare.py --text input.txt --sae --json results.json

Neurons are chosen on the first half of the training part (90% of the text, as nanoGPT splits it) and measured
on the other half; the ablation is measured on the validation part, which neither the model's weights nor the
choice of neurons has seen. The tuned lens is trained on the training part and measured on the validation part.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from nanogpt_lens.model.access import provenance
from nanogpt_lens.neurons.auroc import auroc
from nanogpt_lens.text.corpus import open_corpus
from nanogpt_lens.text.predicates import token_class

CLASSES = ("speaker_name", "after_newline", "upper_case")
SETS = (1, 5)


def neurons(model, train, val):
    rows = []
    for name in CLASSES:
        found = ngl.find_neurons(model, train, name, progress=False)
        best = found.best(max(SETS))
        first = found.top(1).iloc[0]
        print(
            f"{name}: best neuron {best[0][0]}.{best[0][1]} ({'higher' if first['sign'] > 0 else 'lower'}), AUROC "
            f"{first['separation']:.3f}, on held-out text {first['held_out']:.3f} [{first['low']:.3f}, "
            f"{first['high']:.3f}], p {first['p']:.3f}; chance {found.chance:.3f}; next {best[1:]}",
            flush=True,
        )
        for n in SETS:
            removed = ngl.ablate_neurons(
                model, val, best[:n], source="mean", predicate=name, controls=50, progress=False
            )
            table = removed.table().set_index("score")
            for on in ("token", "next"):
                on_class, off, difference = (
                    table.loc[f"{what} {on}"] for what in ("rise on", "rise off", "difference")
                )
                rows.append(
                    {
                        "class": name,
                        "neurons": [f"{layer}.{neuron}" for layer, neuron in best[:n]],
                        "auroc": float(first["separation"]),
                        "held_out": float(first["held_out"]),
                        "held_out_low": float(first["low"]),
                        "held_out_high": float(first["high"]),
                        "on": on,
                        "rise_on": float(on_class["value"]),
                        "rise_off": float(off["value"]),
                        "difference": float(difference["value"]),
                        "low": float(difference["low"]),
                        "high": float(difference["high"]),
                        "controls": float(difference["chance"]),
                        "controls_as_strong": float(difference["controls_as_strong"]),
                    }
                )
                r = rows[-1]
                print(
                    f"  without the best {n}, {on:<5}: loss on the class {r['rise_on']:+.4f}, elsewhere "
                    f"{r['rise_off']:+.4f}, difference {r['difference']:+.4f} [{r['low']:+.4f}, {r['high']:+.4f}]; "
                    f"random others {r['controls']:+.4f}, {r['controls_as_strong']:.0%} as strong",
                    flush=True,
                )
    return rows


def confounds(model, val, rows):
    """Most letters of names are upper case, and most upper-case letters are in names: each without the other."""
    length = model.cfg.n_ctx
    val = val[: len(val) // length * length]
    sequences = open_corpus(model, val).sequences()
    names, upper = (token_class(model, val, sequences, rule)[0] for rule in ("speaker_name", "upper_case"))
    best = {row["class"]: row["neurons"][0] for row in rows if len(row["neurons"]) == 1}
    found = {}
    for rule, mask, where, kept in (
        ("speaker_name", names, "among upper-case letters", upper),
        ("upper_case", upper, "outside speakers' names", ~names),
    ):
        layer, neuron = map(int, best[rule].split("."))
        pieces = val.view(-1, length).split(512)
        parts = [
            ngl.get_neuron_activations(model, piece, [neuron], layers=[layer]).values.flatten() for piece in pieces
        ]
        values = torch.cat(parts).numpy()[kept, None]
        area = float(auroc(values, mask[None, kept])[0, 0])
        found[rule] = {"neuron": best[rule], "where": where, "auroc": max(area, 1 - area)}
        print(
            f"{rule}: neuron {best[rule]} {where} of the validation part: AUROC {found[rule]['auroc']:.3f}", flush=True
        )
    return found


def lenses(model, train, val):
    lens = ngl.train_tuned_lens(model, train, progress=False)
    scores = ngl.evaluate_lens(model, val, lens, n=1742, progress=False)
    print(scores)
    return scores.to_dataframe().to_dict("records")


def autoencoder(model, train, val):
    start = time.perf_counter()
    sae = ngl.sae.train_sae(model, train, layer=2, progress=False)
    seconds = time.perf_counter() - start
    scores = ngl.evaluate_sae(model, val, sae, n=1742, progress=False)
    print(f"TopK autoencoder of layer 2, hook_resid_post, trained in {seconds:.0f} s\n{scores}", flush=True)
    return {"seconds": seconds, "scores": scores.to_dataframe().to_dict("records")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sae", action="store_true", help="also an autoencoder (SAELens, TransformerLens 3.9)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ngl.load("shakespeare_char")
    ids = ngl.encode_text(model, args.text.read_text())
    border = int(0.9 * len(ids))
    train, val = ids[:border], ids[border:]
    rows = neurons(model, train, val)
    results = {**provenance(model), "neurons": rows, "confounds": confounds(model, val, rows)}
    results["lenses"] = lenses(model, train, val)
    if args.sae:
        results["autoencoder"] = autoencoder(model, train, val)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
