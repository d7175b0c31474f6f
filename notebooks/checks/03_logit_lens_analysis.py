kls, places = logit.score("kl"), top.in_depth_order()
kl = {name: compared.labels["score"].index(name) for name in ("logit", "tuned")}
constant = logit.chance[logit.labels["score"].index("kl"), 0, 0]
says("settles at depth 2.62 of 4, by a tuned lens at 1.39", logit.mean_depth, 4, tuned.mean_depth)
says("the KL is 6.51, and a constant guess has 1.49", kls[0, 0], constant)
says("on top in 99.3% of places", present[0, 0])
says("After the first MLP it is 8.4%, and the KL 0.71", present[0, 2], kls[0, 2])
at_end = places[-2][:2]
says(
    "0.68 against 6.51 at the embedding, 0.03 against 0.14 at the last point",
    compared.values[kl["tuned"], 0, 0],
    compared.values[kl["logit"], 0, 0],
    compared.values[kl["tuned"]][at_end],
    compared.values[kl["logit"]][at_end],
)
holds(
    "the intervals are far apart everywhere",
    all(compared.high[kl["tuned"], i, j] < compared.low[kl["logit"], i, j] for i, j, _ in places[:-1]),
)
says("a loss of 2.55, and the table has 2.48", tuned.score("loss")[0, 0], bigram)
says("MLP 0 writes +1.85 of 1.96", written["mlp0"], mean[0].clean)
says("MLP 0 writes +1.85, and only +1.01 is lost without it", written["mlp0"], lost["mlp0"])
says("+0.06, and as much, +1.01, is lost without it", written["0.0"], lost["0.0"])
agreement = parts.iloc[:, 0].corr(parts.iloc[:, 1], method="spearman")
says("The rank correlation is 0.45", agreement)
says("the present character, in 99.3% of places", present[0, 0])
says(
    "nearer everywhere, 0.68 against 6.51 at the embedding",
    compared.values[kl["tuned"], 0, 0],
    compared.values[kl["logit"], 0, 0],
)
says(
    "At depth 2.62 (2.60 to 2.64) or 1.39 (1.36 to 1.42)",
    logit.mean_depth,
    logit.depth_low,
    logit.depth_high,
    tuned.mean_depth,
    tuned.depth_low,
    tuned.depth_high,
)
says("What a part writes is not what it is worth: ranks correlate 0.45", agreement)
says("writes +0.19, and nothing is lost without it (-0.06)", written["3.3"], lost["3.3"])
