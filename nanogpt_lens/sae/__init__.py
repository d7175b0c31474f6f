"""Sparse autoencoders of a model, through SAELens: `ngl.sae.train_sae`, `ngl.sae.save_sae`, `ngl.sae.load_sae`."""

from nanogpt_lens.sae.training import load_sae, save_sae, train_sae

__all__ = ["load_sae", "save_sae", "train_sae"]
