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
says("has 0.71 in the first seed, and 0.98 on other prompts: its 0.71", found.plain[-1][0], *rest[1][1, [1, 0]])
holds("and 0.98 on other prompts", rest[1][1, 1] == rest[1][1, 2])
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
holds("two layers, one head each, and is 32 wide", shapes.iloc[:, 0]["2 layers, 1 head, 32 wide"] == "3 of 3")
holds("All 48 runs", sum(int(found[-1]) for found in shapes.iloc[:, 0]) == 48)
narrow = shapes[shapes.index.str.endswith("16 wide") & ~shapes.index.str.startswith("1 layer")]
holds("the 16-wide ones", {*narrow.iloc[:, 0]} == {"0 of 3"})
says("lose 44% to 46% of the predictions", narrow["lost if shuffled"].min(), narrow["lost if shuffled"].max())
one = shapes[shapes.index.str.startswith("1 layer")]
holds("Only the one-layer models count", one["lost if shuffled"].max() < 0.02)
says("wrong: 33 times of 48", (better == 1).sum(), better.size)
plains, integrals = (np.array(list(many[f"{m} / exact"].values())) for m in names[1:])
holds("now agrees with itself at 600 already", min(many["exact / exact on other prompts"]["600"]) > 0.7)
says("as exact patching does, 0.90 or more in all twelve", plains[-1].min())
says("and 11 of 36 on more prompts", (integrals > plains).sum(), plains.size)
seen = many["the plain gradient sees of the head"]["6000"]
says("It still sees 5% to 8% of the head that matters most", min(seen), max(seen))
says("The plain gradient is right in 41% at the end", lists.loc["plain gradient", "6000"])
holds(
    "are right as often as exact effects",
    (lists.loc["exact effects"] - lists.loc["integrated gradients"]).max() < 0.05,
)
defines("hold 90% of what the ten truly largest hold")
says("wrong: at most 0.52", found.task[2:6].max())
defines("after training (above 0.9) and none before (below 0.7)")
defines("at 300 to 600, above 0.7")
defines("accuracy is above 0.8")
