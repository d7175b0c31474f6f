"""What each layer believes: the logit lens, its convergence, logit attribution, the tuned lens."""
