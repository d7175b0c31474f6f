eap, overlap = table.loc["eap"], table.top_k_overlap
says(
    "15 of 110 edges, 94% (84% to 104%), minimal",
    circuit.n_edges,
    len(worth),
    circuit.faithfulness,
    *circuit.faithfulness_interval,
)
says("keep 94% of what the model does, and none of them can go", circuit.faithfulness)
holds("and none of them can go", circuit.is_minimal)
holds("Fifteen of 110 edges", circuit.n_edges == 15 and len(worth) == 110)
says("on other prompts they keep 84%", ways.faithfulness.iloc[0])
says("no edge into a query does anything (0.0007 at most)", worth.exact.filter(like=".q").abs().max())
way = {"embed->0.1.v", "0.1->mlp0", "mlp1->logits", *(f"mlp0->1.{head}.k" for head in range(4))}
holds("The keys of all four heads of layer 1 read MLP 0", way <= {*circuit.edges})
says("have 95% of the gap", share)
says(
    "corrected p is 0.65 for any edge. On 64 other prompts it is 0.0002, and the effects correlate 0.997",
    effects.to_dataframe().p_corrected.min(),
    64,
    more.to_dataframe().p_corrected.min(),
    np.corrcoef(effects.effect, more.effect)[0, 1],
)
says("is worth 0.94 logits; EAP says 0.40", -worth.exact["embed->0.1.v"], -worth.EAP["embed->0.1.v"])
says("EAP's order correlates 0.89 with the exact one", eap.spearman)
says("needs 34 edges, EAP-IG 19, exact effects 15", *table.n_edges[["eap", "eap_ig", "exact"]])
says("56 passes", table.n_runs["exact"])
holds("instead of about 250", 240 < table.n_runs["greedy"] < 260)  # a step more or fewer on another processor
says("find 0% and 20% of the ten best edges", *overlap[["weights", "attention"]])
holds("Four orders, four circuits", len(sizes) == 4)
says("it still does 91% to 99%", apart.min(), apart.max())
says("The 12 edges that all have", len(circuit.core))
says(
    "84% (77% to 91%) if the others carry the other text",
    *ways.iloc[0][["faithfulness", "faithfulness_low", "faithfulness_high"]],
)
holds("and nothing if they carry zeros, means, or another prompt", (ways.faithfulness_low.iloc[1:] < 0).all())
says(
    "17% on average, so that the 0% without these is no distinction (p = 0.12)",
    checks.value["random_complements"],
    checks.value["complement"].clip(-0.01, 0.01),
    checks.p["random_complements"],
)
holds("Random circuits of its size do nothing", abs(checks.value["random_circuits"]) < 0.005)
says("on 64 other prompts 84%", 64, ways.faithfulness.iloc[0])
says("0.89, and 34 edges for 15", eap.spearman, table.n_edges["eap"], circuit.n_edges)
says("84%, or 3%, 3% and 0%", *ways.faithfulness)
defines("a circuit holds within 0.1 of 1")
defines("The tolerance of 0.1 is ours")
