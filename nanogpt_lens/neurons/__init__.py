"""What each neuron is for: search over a corpus, statistics, neurons that separate a class, ablation."""
