"""The lab: one offline page with the model inside, in which anybody can intervene."""
