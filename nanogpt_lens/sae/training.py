"""Sparse autoencoders of a model's activations, through SAELens: nothing of it is written again.

A TopK autoencoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders") is trained by
SAELens' own trainer on activations that our reader takes from a corpus of any size: no hub, no
tokenizer, no token store. What comes out is SAELens' inference class, saved in SAELens' own format,
with the hook point and the checkpoint's hash in its metadata; its features go wherever neurons go
(`nanogpt_lens.interventions.units`).

SAELens needs TransformerLens 3; it is the extra `sae` of pyproject.toml.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from conversion.atomic import new_folder
from conversion.backends import transformer_lens_version
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import Hooked, device_of, evaluating, provenance
from nanogpt_lens.model.fingerprints import weights_hash
from nanogpt_lens.running.reading import Reader
from nanogpt_lens.sae.unfinished import UnfinishedSAE
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.seen import trace_to_text
from nanogpt_lens.text.sequences import Sequences

Normalize = Literal["expected_average_only_in", "covariance_whitening", "none"]
"""SAELens' normalisations that can be folded into the weights, so that the result reads activations as they are."""

_BUFFER_TOKENS = 2**16
_BUFFER_NUMBERS = 2**24

_log = logging.getLogger(__name__)


def train_sae(
    model: Hooked,
    corpus: Corpus,
    *,
    layer: int,
    activation: str = "resid_post",
    d_sae: int | None = None,
    k: int = 16,
    tokens: int = 1_000_000,
    batch_size: int = 512,
    lr: float = 4e-3,
    normalize: Normalize = "expected_average_only_in",
    seq_len: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Any:
    """Train a TopK autoencoder on one activation, with SAELens' `SAETrainer`.

    The corpus is read in batches of sequences, in a new random order each time round, and the activations
    of up to 65536 tokens are mixed (SAELens' `mixing_buffer`). The learning rate rises over the first twentieth
    and falls to zero over the last fifth. Features that are silent for a twentieth of the steps count as dead and
    are revived by SAELens' auxiliary loss. The same seed on the same machine gives the same autoencoder; the global
    random numbers are left as they were.

    Args:
        model: the model (TransformerLens 3).
        corpus: the text to train on; of a `TextData` or a data folder its training part, so that `evaluate_sae`,
            which takes the validation part, is on other text. A text file or ids are taken whole.
        layer: the layer whose activation is read.
        activation: what is read, one of `nanogpt_lens.interventions.units.UNIT_HOOKS`.
        d_sae: the number of features; None for 8 times the residual stream's width (twice an MLP's).
        k: the largest number of features that are active on one token.
        tokens: the number of tokens to train on; a small corpus is read several times, see
            `metadata.epochs`.
        batch_size: activations (tokens) of a training step.
        lr: Adam's learning rate.
        normalize: how SAELens scales activations in training; it is folded into the weights.
        seq_len: the tokens of a sequence; None for the model's context.
        seed: the seed of the start, the order and the mixing.
        output: a new folder to save to, see `save_sae`.
        resume: a folder for the state of an unfinished run, saved every ten seconds; a killed run goes on from there to
            the same autoencoder. Deleted at the end.
        progress: show SAELens' bar.

    Returns:
        SAELens' `TopKSAE` in evaluation mode. `cfg.metadata` has `hook_name`, `checkpoint_sha256`,
        `weights_sha256`, `corpus`, `training_tokens` and `epochs`.

    Raises:
        AnalysisError: SAELens is missing or does not fit, no such layer or activation, k or d_sae that do not
            fit, a bad corpus, activations that are not finite, a training that diverges.
        CheckpointError: `output` is there already.
    """
    sae_lens()
    units = Units(model, activation=activation, layers=[layer])
    d_sae = 8 * int(model.cfg.d_model) if d_sae is None else d_sae
    check_whole(1, d_sae=d_sae, k=k, tokens=tokens, batch_size=batch_size)
    check_whole(seed=seed)
    if tokens < batch_size:
        raise AnalysisError(f"tokens is {tokens}; expected at least batch_size={batch_size}, one training step")
    if k > d_sae:
        raise AnalysisError(f"k is {k}; expected at most d_sae={d_sae}, the number of features")
    check_choice(Normalize, normalize=normalize)
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < 1:
        raise AnalysisError(f"lr is {lr!r}; expected a learning rate between 0 and 1, such as 0.004")
    sequences = open_corpus(model, corpus, part="train").sequences(seq_len=seq_len, least=2)
    metadata = _metadata(model, units, sequences, tokens=tokens, seed=seed)
    sizes = {"d_in": units.width, "d_sae": d_sae, "k": k, "normalize_activations": normalize}
    with new_folder(output) if output is not None else tempfile.TemporaryDirectory() as folder:
        options = {"tokens": tokens, "batch_size": batch_size, "lr": float(lr), "seed": seed}
        saved = None if resume is None else UnfinishedSAE(resume, {**metadata, **sizes, **options})
        trained = _train(model, units, sequences, sizes | {"metadata": metadata}, saved, progress=progress, **options)
        trained.save_inference_model(str(folder))
        sae = _read(Path(folder), device_of(model))
    if saved is not None:
        saved.delete()
    return sae


def save_sae(sae: Any, folder: str | Path) -> Path:
    """Write an autoencoder in SAELens' format; a killed run leaves no half of it.

    Raises:
        CheckpointError: the folder exists and is not empty.
    """
    with new_folder(folder) as temporary:
        sae.save_model(str(temporary))
    return Path(folder)


def load_sae(folder: str | Path, model: Hooked, *, transfer: bool = False) -> Any:
    """Read an autoencoder in SAELens' format, and make sure that it is one of this model.

    Args:
        folder: what `save_sae`, `train_sae(output=...)` or SAELens itself wrote.
        model: the model whose activations it is to read.
        transfer: take one that was trained on another checkpoint (of the same width), or that does not say on
            which; how well it fits is what `evaluate_sae` measures.

    Raises:
        AnalysisError: SAELens is missing or does not fit; nothing there, or damaged; another checkpoint's or
            another width's autoencoder.
    """
    sae_lens()
    sae = _read(Path(folder).expanduser(), device_of(model))
    autoencoder_units(model, sae)
    if transfer or _same_model(model, sae.cfg.metadata):
        return sae
    source, mine = sae.cfg.metadata, _identity(model)
    what = f"the checkpoint {str(source.checkpoint_sha256)[:12]}" if source.checkpoint_sha256 else "other weights"
    raise AnalysisError(
        f"{folder} was trained on {what if source.weights_sha256 else 'a model that it does not name'}, the model is "
        f"{str(mine['checkpoint_sha256'] or mine['weights_sha256'])[:12]} ({mine['normalization']}); load it with "
        "transfer=True to measure how well it fits"
    )


def sae_lens() -> Any:
    """The module `sae_lens`.

    Raises:
        AnalysisError: it is not installed, or TransformerLens is too new for it.
    """
    if transformer_lens_version() >= (4, 0):
        raise AnalysisError(
            f"SAELens needs TransformerLens below 4, and {version('transformer-lens')} is installed; run "
            "`pip install sae-lens 'transformer-lens>=3.9,<4'` in an environment of its own"
        )
    try:
        import sae_lens as library
    except ImportError:
        raise AnalysisError(
            "sparse autoencoders need SAELens, which is not installed; run `pip install sae-lens`"
        ) from None
    return library


def autoencoder_units(model: Hooked, sae: Any) -> Units:
    """The features of an autoencoder as units of the model.

    Raises:
        AnalysisError: the autoencoder is none of SAELens, of another width or layer, or expects scaled activations.
    """
    units = Units(model, sae=sae)
    scaled = getattr(sae.cfg, "normalize_activations", "none")
    if scaled in ("expected_average_only_in", "covariance_whitening"):
        raise AnalysisError(
            f"the autoencoder has normalize_activations={scaled!r}, whose factor is not saved with it; expected one "
            "with the factor folded in (SAELens' fold_activation_norm_scaling_factor)"
        )
    return units


def features_and_reconstruction(
    sae: Any, activation: Float[Tensor, "example pos *features"]
) -> tuple[Float[Tensor, "example pos feature"], Float[Tensor, "example pos *features"]]:
    """What an autoencoder makes of an activation: features, and the reconstruction in the activation's dtype."""
    whole = activation if sae.hook_z_reshaping_mode else activation.flatten(2)
    features = sae.encode(whole)
    rebuilt = sae.decode(features)
    features = features.to_dense() if features.is_sparse else features
    return features, rebuilt.reshape(activation.shape).to(activation.dtype)


def _identity(model: Hooked) -> dict[str, Any]:
    """What tells one model's activations from another's."""
    return {
        "checkpoint_sha256": provenance(model)["checkpoint_sha256"],
        "weights_sha256": weights_hash(model),
        "normalization": str(model.cfg.normalization_type),  # folded LayerNorms give other activations
    }


def _same_model(model: Hooked, source: Any) -> bool:
    """Whether the metadata of an autoencoder name the weights, or the checkpoint, of this model."""
    mine = _identity(model)
    if mine["weights_sha256"] == source.weights_sha256:
        return True
    of_file = ("checkpoint_sha256", "normalization")  # in another dtype, perhaps
    return bool(mine["checkpoint_sha256"]) and all(mine[name] == source[name] for name in of_file)


def _metadata(model: Hooked, units: Units, sequences: Sequences, *, tokens: int, seed: int) -> dict[str, Any]:
    """What SAELens keeps beside the weights; plain JSON."""
    made = provenance(model)
    return {
        "model_name": made["checkpoint"] or type(model).__name__,
        "model_class_name": type(model).__name__,
        "hook_name": units.names[0],
        "hook_head_index": None,
        "context_size": sequences.seq_len,
        "prepend_bos": False,
        "dataset_path": sequences.name,
        **_identity(model),
        "corpus": sequences.name,
        "corpus_trace": trace_to_text(sequences.trace()),
        "training_tokens": tokens,
        "epochs": round(tokens / sequences.n_tokens, 3),
        "seed": seed,
        "nanogpt_lens_version": made["nanogpt_lens"],
    }


def _train(
    model: Hooked,
    units: Units,
    sequences: Sequences,
    config: dict[str, Any],
    saved: UnfinishedSAE | None,
    *,
    tokens: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: bool,
) -> Any:
    """Train an autoencoder; return it as SAELens' training class."""
    library = sae_lens()
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.mixing_buffer import mixing_buffer
    from sae_lens.training.sae_trainer import SAETrainer

    device = device_of(model)
    reshape = "hook_z" if units.activation == "z" else "none"
    config = {**config, "device": str(device), "reshape_activations": reshape}
    config["metadata"] = library.saes.sae.SAEMetadata(**config["metadata"])
    steps = -(-tokens // batch_size)
    settings = SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=lr,
        lr_end=lr,  # where the fall to zero begins
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        device=str(device),
        dead_feature_window=max(1, steps // 20),
        feature_sampling_window=steps + 1,
        n_batches_for_norm_estimate=min(steps, 100),
        logger=LoggingConfig(log_to_wandb=False),
    )
    with seeded(seed, device), torch.inference_mode(False), torch.enable_grad():
        sae = library.TopKTrainingSAE(library.TopKTrainingSAEConfig(**config))
        size = max(2 * batch_size, min(_BUFFER_TOKENS, _BUFFER_NUMBERS // units.width, tokens // 4))
        source = _activations(model, units, sequences, size // 4, seed)
        provider = _finite(sae, mixing_buffer(size, batch_size, source))
        trainer = SAETrainer(cfg=settings, sae=sae, data_provider=provider)
        if saved is not None:
            trainer.data_provider = saved.saving(provider, trainer, saved.restore(trainer))
        with nullcontext() if progress else _silent():
            trainer.fit()
    _check_finite(sae)
    _log.info("%d tokens are %.1f times the corpus", steps * batch_size, steps * batch_size / sequences.n_tokens)
    return sae


def _activations(
    model: Hooked, units: Units, sequences: Sequences, size: int, seed: int
) -> Iterator[Float[Tensor, "token d_in"]]:
    """Yield activations in pieces of about `size` tokens, the corpus in a new order each time, without end."""
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        reader = Reader(model, units.names)
    piece: list[Float[Tensor, "_ d_in"]] = []
    while True:
        for i in torch.randperm(sequences.n_batches, generator=generator).tolist():
            batch = sequences.batch(i)
            with evaluating(model):  # not around the yield, which would leave gradients off in the training
                reader(batch.tokens, lambda _, value: piece.append(value.flatten(2).flatten(0, 1).float()))
            if sum(map(len, piece)) >= size:
                yield torch.cat(piece)
                piece.clear()


def _finite(sae: Any, batches: Iterator[Float[Tensor, "token d_in"]]) -> Iterator[Float[Tensor, "token d_in"]]:
    """Yield the batches, as long as they and the autoencoder are finite.

    Raises:
        AnalysisError: they are not.
    """
    for i, batch in enumerate(batches):
        if not bool(batch.isfinite().all()):
            raise AnalysisError("some activations are not finite; the model overflows on this text")
        if i % 50 == 0:
            _check_finite(sae)
        yield batch


def _check_finite(sae: Any) -> None:
    """Raise AnalysisError unless all weights are finite."""
    if not all(bool(p.isfinite().all()) for p in sae.parameters()):
        raise AnalysisError(
            "the training diverged: weights are no longer finite; give a smaller lr, or a larger batch_size"
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random numbers, which SAELens draws from; leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Show none of SAELens' bars, which it always shows."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


def _read(folder: Path, device: torch.device) -> Any:
    """SAELens' inference class from its files.

    Raises:
        AnalysisError: there is none, or it is damaged.
    """
    try:
        return sae_lens().SAE.load_from_disk(folder, device=str(device)).eval()
    except FileNotFoundError:
        raise AnalysisError(
            f"{folder} holds no autoencoder; expected SAELens' cfg.json and sae_weights.safetensors"
        ) from None
    except (OSError, json.JSONDecodeError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise AnalysisError(
            f"{folder} cannot be read as an autoencoder of SAELens ({type(error).__name__}: {str(error)[:80]}); "
            "make it again"
        ) from None
