import math

holds("The opened model is nanoGPT's", certificate.passed)
says("A character costs it 1.87 nats; a uniform guess would cost 4.17", loss.values, math.log(65))
says("without head 0.0 the loss rises by 0.37 nats", importance.values[0, 0])
holds(
    "One head carries the most",
    importance.values.argmax() == 0 and importance.low[0, 0] > importance.high.flatten()[1:].max(),
)
says("No head of the layers above is worth more than 0.06", importance.values[1:].max())
entropy = ngl.attention_statistics(model, TEXT, n=64, seed=0).score("entropy")
holds("Head 1.3 has the sharpest attention", entropy.argmin() == 7)
text = "HERMIA:\nI would my father look'd but"
looks = ngl.attention_patterns(model, text).at(layer=1, head=3).squeeze(0)
blank = [max((j for j in range(i + 1) if text[j] in " \n"), default=0) for i in range(len(text))]
inside = [i for i in range(9, len(text)) if text[i] not in " \n"]
one_before = [blank[max(blank[i] - 1, 0)] for i in range(len(text))]
right = sum(int(looks[i].argmax()) in (blank[i], one_before[i]) for i in inside)
holds("at the one before its own word, or at the one before that", right > 0.8 * len(inside))
says("depends on the letter itself: 1.00", stream.recovery[0, 10])
says(
    "One layer later 0.18 is left there, and 0.85 has arrived at the end",
    stream.recovery[1, 10],
    stream.recovery[1, -1],
)
says("the best, head 0.0, brings back 0.40", heads.recovery[0, 0])
holds("the best, head 0.0", heads.recovery[0].argmax() == 0)
for prompt, answer in zip(texts, "gd", strict=True):
    holds("After `He is the kin` the model says `g`", model.to_string(model(prompt)[0, -1].argmax()) == answer)
says("It spells, and makes no sense: 1.87 nats, of 4.17 for a guess", loss.values, math.log(65))
says("Head 0.0 matters most, 0.37 nats", importance.values[0, 0])
