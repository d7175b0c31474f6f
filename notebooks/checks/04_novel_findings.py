exact, plain, integrated = sets[6000][:, :3, 1].T
says("it sees 0.06 of its 1.29 logits", plain[0], exact[0])
says(
    "Up to iteration 400 no seed is below 0.88, and at 500 one of three is, with 0.33",
    400,
    found.plain[:4].min(),
    500,
    found.plain[4].min(),
)
says("the largest effect at iteration 0 is 0.0007 logits", 0, np.abs(sets[0][0, 0]).max())
first, *rest = (agreed[step].to_numpy() for step in (0, 500, 6000))
says("-0.29 and 0.07 with itself. At 500 it is -0.83 and -0.81", *first[0, 1:], 500, *rest[0][0, 1:])
says("the plain gradient has 0.71, 0.93 and 0.91 in the three seeds: above 0.9 in two of three", *found.plain[-1], 0.9)
holds("above 0.9 in two of three", (found.plain[-1] > 0.9).sum() == 2)
says("the first seed has 0.98, so its 0.71", rest[1][1, 1], rest[1][1, 0])
says("the first seed has 0.98, so its 0.71", rest[1][1, 2], rest[1][1, 0])
says("Integrated gradients have 0.93, 1.00 and 1.00", *found.integrated[-1])
better = np.sign(found.integrated - found.plain)
says("33 times, equal 11 times, and worse 4 times", *((better == sign).sum() for sign in (1, 0, -1)))
holds(
    "is worth the most by exact patching, in all seeds and on all prompts",
    found.ranks["patching"]["6000"] == [1, 1, 1] and (sets[6000][:, 0].argmax(1) == 1).all(),
)
says("0.06 of 1.29, 0.20 of 3.29, 0.27 of 2.16", *np.stack([plain, exact], 1).ravel())
says("the ranks correlate 0.98 all the same", rest[1][1, 1])
holds("see it", np.abs(integrated / exact - 1).max() < 0.15)
says("has gained 0.28 logits, at the end 1.29", way.exact[50], way.exact[100])
says("0.02, 0.08, 0.28", *way["attention of head 1.0"][[0, 50, 100]])
says("0.31, 0.24 and 0.33 at the end, where chance has 0.62 for one seed", *found.prefix[-1], runs.needed(8, 1))
says("it does: 1.00 in all seeds", found.prefix_layer_1[-1].min())
says("at most 0.29, 0.43 and 0.52", *found.task[2:6].max(0))
holds("two layers, one head each, and is 32 wide", int(shapes.loc["2 layers, 1 heads, 32 wide"].iloc[0]) == 1)
holds("Eight of the 48 runs", len(shapes) == 8 and sum(map(int, shapes.iloc[:, 0])) == 3)
says("the 16-wide ones lose 46% of the predictions", 16, shapes["lost if shuffled"]["2 layers, 1 heads, 16 wide"])
says("wrong: 33 times of 48", (better == 1).sum(), better.size)
plains, integrals = (np.array(list(many[f"{m} / exact"].values())) for m in names[1:])
holds("exact patching agrees with itself at 600 already", min(many["exact / exact on other prompts"]["600"]) > 0.7)
says("as exact patching does, 0.90 or more in all twelve", plains[-1].min())
says("11 times better, 11 times worse, of 36", (integrals > plains).sum(), (integrals < plains).sum(), plains.size)
says("and 11 of 36 on more prompts", (integrals > plains).sum(), plains.size)
seen = many["the plain gradient sees of the head"]["6000"]
says("gradient sees 5% to 8% of the head that matters most", min(seen), max(seen))
says("stays below 0.48 at 600", max(many["attention on the task / ablation there"]["600"]), 600)
says("The plain gradient is right in 41% at the end", lists.loc["plain gradient", "6000"])
holds(
    "are right as often as exact effects",
    (lists.loc["exact effects"] - lists.loc["integrated gradients"]).max() < 0.05,
)
defines("hold 90% of what the ten truly largest hold")
says("wrong: at most 0.52", found.task[2:6].max())
says("1.29 where other sets have 3.29 and 2.16", *exact)
defines("after training (above 0.9) and none before (below 0.7)")
defines("at 300 to 600, above 0.7")
defines("accuracy is above 0.8")
