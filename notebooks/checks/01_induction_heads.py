at = {step: i for i, step in enumerate(matching.steps)}
score, task_curve = both.values, three.values
unseen = accuracy.at(score="accuracy", position="unseen")
previous = backward.at(score="previous_token").flatten(1)
says("the model is right in 47% of the places", right.values[at[400]])
says("Its best head scores 0.02 as an induction head then", matching.values[at[400]].max())
says("and is half-way up at iteration 1,232", half.values[1])
says("head 1.0 at 0.42 and head 1.2 at 0.38", *matching.values[-1, 1, [0, 2]])
says("fall back, to 0.16 and 0.09. Chance is 0.014", *matching.values[-1, 1, [1, 3]], matching.chance[-1, 1, 0])
for head in (1, 3):
    holds("The other two begin and fall back", not ngl.find_change_point(matching, layer=1, head=head).formed)
    holds("The other two begin and fall back", matching.values[:, 1, head].max() > matching.values[-1, 1, head] + 0.03)
says("ends with 0.79 of its attention there", previous[-1, 1])
says("All other heads stay at 0.05 or less", previous[:, [0, *range(2, 8)]].max())
says(
    "has 0.51 of its attention on the right place, while head 0.1 gives 0.07",
    task_curve[at[400], 2],
    task_curve[at[400], 0],
)
says("comes at 585 and 683, in that order", helper.values[0], half.values[0])
says("half of it comes at 1,330 and 1,232", helper.values[1], half.values[1])
holds("and the intervals overlap", helper.high[0] >= half.low[0] and half.high[1] >= helper.low[1])
says("right in 89% of the places; 1% is left without head 0.1", *knocked.values[at[1500], :2])
holds("and nothing without the heads of layer 1", knocked.values[at[1500], 2] < 0.005)
says("it is right in 52%, and 27% is left without head 0.1", *knocked.values[at[400], :2])
says(
    "it is right in 97%. Without three of layer 1 it is right in 10%",
    *(accuracy_without(model, some).values for some in (["0.0", "0.2", "0.3"], ["1.0", "1.1", "1.2"])),
)
into = paths.effect
says("head 0.1 is worth 4.54 nats of the right answer. Through the values it is worth 0.09", -into[1, 1], -into[1, 2])
says("no other head reaches more than 0.01", into[[0, 2, 3]].abs().max())
says("the effect is gone, 0.02", frozen.effect[1, 1].abs())
text_only = ngl.prefix_matching(ngl.load("shakespeare_char"), n=128, seed=0)
says("Its best head scores 0.016, and chance is 0.021", text_only.values.max(), text_only.chance[0, 0])
says(
    "a circuit set by hand scores 1.00", ngl.prefix_matching(ngl.load("handmade_induction"), n=128, seed=0).values.max()
)
says("accuracy is 95%, and 0% without layer 1's heads", right.values[-1], knocked.values[-1, 2])
says("1,232 iterations (1,000 to 1,500)", half.values[1], half.low[1], half.high[1])
holds("still rises at 6,000", matching.values[-1, 1, 0] > matching.values[-2, 1, 0])
holds(
    "Half of the early accuracy needs no previous-token head",
    0.4 < knocked.values[at[400], 1] / knocked.values[at[400], 0] < 0.6,
)
says("is the control, at most 0.02", unseen.max())
says("ends with 0.96 of its attention on the right place, not 0.42", task_curve[-1, 2], matching.values[-1, 1, 0])
