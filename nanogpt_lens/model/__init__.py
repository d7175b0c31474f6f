"""A model: loaded, read, sampled, exported, and recognised again."""
