says("gives them 0.20", chance[0, 0])
says("It is: 0.79 on average", on_blanks[1, 3])
holds("Head 1.3", on_blanks.argmax() == entropy.argmin() == 7)
entropy_chance = measured.chance[measured.labels["score"].index("entropy")].mean()
says("(entropy 0.84 nats, where uniform attention has 3.26)", entropy[7], entropy_chance)
seen_here = ngl.attention_patterns(model, excerpt).at(layer=1, head=3).squeeze(0)
on_spaces = seen_here[:, [character in " \n" for character in excerpt]].sum(-1)
holds("The marks stand at the spaces", on_spaces[9:].mean() > 0.6)
says("Head 1.3 is worth 0.03 nats. Head 0.0, which is not, is worth 0.37", matters[7], matters[0])
holds("Head 0.0, which is not", (entropy < entropy[0]).sum() >= 5 and matters.argmax() == 0)
says("a rank correlation of 0.01", spearmanr(entropy, matters).statistic)
says("Within layers 1 to 3 it is -0.60", spearmanr(entropy[4:], matters[4:]).statistic)
says("no head there is worth more than 0.06", matters[4:].max())
last = {name: share[-3:].sum() for name, share in shares.items()}
says("The last 3 characters have 91% of the influence on the prediction", 3, last["effect of the character"])
says("They get 52% of the mean attention, and 30% of the rollout", last["mean attention"], last["rollout"])
says(
    "Mean attention has 0.68, rollout 0.56, and recency 0.70",
    *(ranks[name].mean() for name in ("mean attention", "rollout", "recency")),
)
from nanogpt_lens.core.intervals import t_interval

less = ranks["mean attention"] - ranks["recency"]
says("Mean attention less recency is -0.02 (-0.04 to 0.00)", less.mean(), *t_interval(less))
holds("Recency explains as much as attention", t_interval(less)[0] > -0.05 and less.mean() < 0.01)
says("Head 1.3 gives 0.79 of its attention to blanks", on_blanks[1, 3])
says("Sharp is not important: 0.01 over all heads", spearmanr(entropy, matters).statistic)
says("52% against 91% on the last 3 characters", last["mean attention"], last["effect of the character"], 3)
