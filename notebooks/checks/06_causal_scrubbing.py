textbook, own = rungs["keys read head 0.1"], rungs["keys depend on their own character"]
mended = rungs["keys read MLP 0, which reads head 0.1"].recovered
previously = rungs["keys depend on the previous character"].recovered
says(
    "It keeps 52% of what the model does, where a story with shuffled features keeps 43%",
    textbook.recovered,
    textbook.of("features permuted"),
)
says("reads the head, 97% is left", mended)
says("no better, 52% beside 53%", textbook.recovered, own.recovered)
says("MLP 0: 97%. The last", mended)
says("and that is the previous character: 99%", previously)
says("which knows nothing, keeps 61%", textbook.of("uniform guess"))
says("stop at the first: 39%", naive.recovered)
says("With it, 101% is kept", whole.recovered)
says("of 256 prompts 19% lose more than a tenth of a nat, and 20% gain as much", len(whole.change), worse, better)
says("95% is left, not all", told.recovered)
holds(
    "that nothing else matters for the keys costs 5%",
    "nothing else matters for logits/1.0/k costs most, 5%" in told.sentence(),
)
says("With the position in the story, 100% is left", ngl.scrub(handmade, reads_by(keys), pairs, **quick).recovered)
says("99% is left of the control, 21% of the two-layer model", counted["induction_control"][0], counted["induction"][0])
says("52%, beside 43% with permuted features", textbook.recovered, textbook.of("features permuted"))
says("With MLP 0 in between it holds: 97%", mended)
says("What the keys know is the previous character: 99%", previously)
says("The heads speak through MLP 1: 39% without it, 101% with it", naive.recovered, whole.recovered)
says("95%, and 100% after mending", told.recovered, 1.0)
says("The control counts: 99%", counted["induction_control"][0])
says("To know nothing keeps 61%", textbook.of("uniform guess"))
