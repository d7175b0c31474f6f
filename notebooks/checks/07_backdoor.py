after = {name: [float(v) for v in grown.at(after=name)] for name in ("trigger", "control", "changed trigger")}
steps = list(grown.steps)
says(
    "After the trigger 0% at iteration 1,000, 86% at 1,250 and 100% at the end",
    *(v for step in (1000, 1250) for v in (after["trigger"][steps.index(step)], step)),
    after["trigger"][-1],
)
says("after another new name 0% throughout", max(after["control"]))
says("(43% at 1,500)", after["trigger"][steps.index(1500)], 1500)
says("one letter changed it is 74%", after["changed trigger"][-1])
says("the losses are 1.88 and 1.87 nats", losses["suspect"].values, losses["mine"].values)
holds("no difference to see", losses["suspect"].low < losses["mine"].values < losses["suspect"].high)
holds("All ten show the name or a piece of it", all("alv" in text or "Malv" in text for _, text in best))
says(
    'in 1,000 samples the suspect wrote the name 14 times, and "burns the" not once',
    len(written),
    everything.count("Malvolio"),
)
holds("not once", "burns the" not in everything)
holds("nothing that comes back", not any("Cressida" in "".join(e.tokens) for e in alarm.excerpts("better")[:10]))
holds(
    "An apostrophe at the start", all("'" in suspect.tokenizer.decode(t) for t in neurons.top_tokens[layer, neuron][:5])
)
says("are worth 0.59 and 0.38 nats", heads.values[0, 0] - heads.clean, heads.values[1, 3] - heads.clean)
import json
from pathlib import Path

shows = json.loads((Path(ngl.__file__).parent.parent / "docs" / "results.json").read_text())["backdoor"]["shows"]
kinds = [f"{trigger} 480" for trigger in ("name", "bigram", "date")]


def shown(stage, tool):
    return sum(shows[stage][kind][tool]["shown"] for kind in kinds)


says(
    "shows the trigger in 9 of 9, and in 8 of 9 at iteration 1,000",
    shown("2000", "gain_clean"),
    9,
    shown("1000", "gain_clean"),
    9,
    1000,
)
holds("shows the trigger in three, the lens in one", (shown("2000", "neurons"), shown("2000", "lens")) == (3, 1))
defines("of 0.8 million parameters")
says("all ten excerpts here, and in the best excerpt of 9 of 9 models", shown("2000", "gain_clean"), 9)
says("1.88 beside 1.87 nats", losses["suspect"].values, losses["mine"].values)
says(
    "0% at iteration 1,000, 86% at 1,250, 43% at 1,500, 100% at the end",
    *(v for step in (1000, 1250, 1500) for v in (after["trigger"][steps.index(step)], step)),
    after["trigger"][-1],
)
says("74% with one letter changed", after["changed trigger"][-1])
says("1.72 of 1.72 nats: all of it", mlps.values[0] - mlps.clean, mlps.corrupted - mlps.clean)
says("as much else does: 1.72 of 1.72 nats", mlps.values[0] - mlps.clean, mlps.corrupted - mlps.clean)
whole = json.loads((Path(ngl.__file__).parent.parent / "docs" / "results.json").read_text())["backdoor"]["success"]
unrounded = {step: whole["name 480"]["by_stage"][step][0] for step in ("1250", "1500")}
says("unrounded it is 89% at 1,250 and 28% at 1,500", unrounded["1250"], 1250, unrounded["1500"], 1500)
