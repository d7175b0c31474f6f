kls, places = logit.score("kl"), top.in_depth_order()
kl = {name: compared.labels["score"].index(name) for name in ("logit", "tuned")}
constant = logit.chance[logit.labels["score"].index("kl"), 0, 0]
says("settles at depth 2.66 of 4, by a tuned lens at 1.36", logit.mean_depth, 4, tuned.mean_depth)
says("the KL is 6.53, and a constant guess has 1.40", kls[0, 0], constant)
says("on top in 99.5% of places", present[0, 0])
says("After the first MLP it is 9.0%, and the KL 0.69", present[0, 2], kls[0, 2])
at_end = places[-2][:2]
says(
    "0.68 against 6.53 at the embedding, 0.03 against 0.13 at the last point",
    compared.values[kl["tuned"], 0, 0],
    compared.values[kl["logit"], 0, 0],
    compared.values[kl["tuned"]][at_end],
    compared.values[kl["logit"]][at_end],
)
holds(
    "the intervals are far apart everywhere",
    all(compared.high[kl["tuned"], i, j] < compared.low[kl["logit"], i, j] for i, j, _ in places[:-1]),
)
says("a loss of 2.52, and the table has 2.52", tuned.score("loss")[0, 0], bigram)
says("MLP 0 writes +1.85 of 1.96", 0, written["mlp0"], mean[0].clean)
says("MLP 0 writes +1.85, and only +0.73 is lost without it", 0, written["mlp0"], lost["mlp0"])
says("+0.06, and +1.01 is lost without it", written["0.0"], lost["0.0"])
agreement = parts.iloc[:, 0].corr(parts.iloc[:, 1], method="spearman")
says("The rank correlation is 0.42", agreement)
says("the present character, in 99.5% of places", present[0, 0])
says(
    "0.68 against 6.53 at the embedding, and does",
    compared.values[kl["tuned"], 0, 0],
    compared.values[kl["logit"], 0, 0],
)
says(
    "At depth 2.66 (2.64 to 2.68) or 1.36 (1.33 to 1.38)",
    logit.mean_depth,
    logit.depth_low,
    logit.depth_high,
    tuned.mean_depth,
    tuned.depth_low,
    tuned.depth_high,
)
says("What a part writes is not what it is worth: 0.42", agreement)
says("writes +0.19, and nothing is lost without it (-0.06)", written["3.3"], lost["3.3"])
