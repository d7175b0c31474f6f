"""From a checkpoint to a Hugging Face GPT2LMHeadModel and back, for nnsight, tuned-lens and the Hub.

The two architectures are the same but for four things: names, transposed matrices (Conv1D),
biases, which GPT-2 always has, and the GELU. GPT-2 was trained with the tanh approximation,
nanoGPT with the exact one, so that `activation_function` says which of them it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.atomic import new_folder
from conversion.checkpoint import Checkpoint
from conversion.config import LAYER_NORM_EPS, ActFn, NanoGPTConfig
from conversion.errors import CheckpointError
from conversion.exported_layouts import CONV1D, from_gpt2
from conversion.model_args import GPT2_EXPECTED, check_settings
from conversion.vocabulary import TOKENIZER_NAME, Vocabulary, choose_vocabulary, find_vocabulary

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

_ACT_FNS: dict[str, ActFn] = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}


def to_huggingface(
    checkpoint: Checkpoint, folder: str | Path | None = None, *, dtype: torch.dtype | None = None
) -> GPT2LMHeadModel:
    """Convert a checkpoint into a GPT2LMHeadModel.

    Args:
        checkpoint: a checkpoint that `read_checkpoint` returned.
        folder: a folder to save the model and its tokenizer into, so that
            `AutoModelForCausalLM.from_pretrained(folder)` and `AutoTokenizer` load them.
        dtype: the model's precision; by default the checkpoint's own.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: `folder` exists and is not an empty folder.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    from conversion.saved_tokenizer import plain_tokenizer

    config = checkpoint.config
    gpt2_config = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.block_size,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        activation_function=config.act_fn,
        layer_norm_epsilon=LAYER_NORM_EPS,
        resid_pdrop=config.dropout,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        tie_word_embeddings=config.tied,
        bos_token_id=cast(Any, None),
        eos_token_id=cast(Any, None),
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(gpt2_config)
    model.load_state_dict(_to_gpt2(checkpoint, dtype or checkpoint.dtype), strict=True, assign=True)
    model.tie_weights()
    model.config.dtype = dtype or checkpoint.dtype
    model.eval()
    if folder is not None:
        with new_folder(folder) as temporary:
            model.save_pretrained(temporary)
            if checkpoint.vocabulary is not None:
                tokenizer = plain_tokenizer(cast(Any, checkpoint.tokenizer()), rarest=lambda: _least_written(model))
                tokenizer.save_pretrained(temporary)
    return model


@torch.no_grad()
def _least_written(model: Any) -> list[int]:
    """All ids in the order of their probability after random tokens (the mean of its logarithm), the least first."""
    config = model.config
    tokens = torch.randint(
        config.vocab_size, (8, min(config.n_positions, 64)), generator=torch.Generator().manual_seed(0)
    )
    return model(tokens).logits.float().log_softmax(-1).mean((0, 1)).argsort().tolist()


def from_huggingface(
    source: GPT2LMHeadModel | str | Path, *, meta: str | Path | Vocabulary | None = None
) -> Checkpoint:
    """Take a GPT-2 model of Hugging Face to a nanoGPT checkpoint.

    Args:
        source: a GPT2LMHeadModel, or a folder that `save_pretrained` wrote; nothing is downloaded.
        meta: the model's vocabulary; by default the folder's `tokenizer.json`.

    Returns:
        A checkpoint with the model's weights, in its precision, with `bias=False` if
        every bias is zero.

    Raises:
        CheckpointError: there is no such folder, or the model has another architecture or settings that nanoGPT
            does not have.
        VocabularyError: the vocabulary does not fit.
    """
    from transformers import GPT2LMHeadModel

    model = source if isinstance(source, GPT2LMHeadModel) else _load(Path(source))
    gpt2_config = model.config
    expected = {"n_inner": (None, 4 * gpt2_config.n_embd), "activation_function": tuple(_ACT_FNS), **GPT2_EXPECTED}
    check_settings(gpt2_config.to_dict(), expected, "the model's config")
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in from_gpt2(model.state_dict()).items()
    }
    bias = any(name.endswith(".bias") for name in state)
    tied = torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    config = NanoGPTConfig(
        n_layer=gpt2_config.n_layer,
        n_head=gpt2_config.n_head,
        n_embd=gpt2_config.n_embd,
        block_size=gpt2_config.n_positions,
        vocab_size=gpt2_config.vocab_size,
        bias=bias,
        dropout=float(gpt2_config.resid_pdrop),
        act_fn=_ACT_FNS[gpt2_config.activation_function],
        tied=tied,
    )
    vocabulary, why = None, ""
    if meta is not None:
        vocabulary, why = choose_vocabulary(meta, (), config.vocab_size)
    elif not isinstance(source, GPT2LMHeadModel) and (Path(source) / TOKENIZER_NAME).is_file():
        vocabulary, why = find_vocabulary([Path(source)], config.vocab_size)
    if tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return Checkpoint(
        config=config,
        state_dict={name: state[name] for name in config.shapes()},
        vocabulary=vocabulary,
        no_vocabulary=why,
        notes=("taken from a Hugging Face GPT-2",),
    )


def _to_gpt2(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Float[Tensor, " ..."]]:
    """Copies of a checkpoint's tensors in Hugging Face's layout, with zeros for absent biases."""
    state: dict[str, Float[Tensor, " ..."]] = {}
    for name, tensor in checkpoint.state_dict.items():
        if checkpoint.config.tied and name == "lm_head.weight":
            continue
        oriented = tensor.T if name.endswith(CONV1D) else tensor
        state[name] = oriented.detach().to(dtype).clone(memory_format=torch.contiguous_format)
        bias = name.removesuffix("weight") + "bias"
        if not checkpoint.config.bias and name != "lm_head.weight" and "transformer.w" not in name:
            state[bias] = torch.zeros(tensor.shape[0], dtype=dtype)
    if checkpoint.config.tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def _load(folder: Path) -> GPT2LMHeadModel:
    """The GPT-2 in a folder, read strictly, from safetensors alone, without running code of the folder."""
    from transformers import GPT2LMHeadModel

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; expected a folder that save_pretrained wrote")
    try:  # our own reading first: transformers would offer to run the code of an unknown model type
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read ({type(error).__name__}: {error})") from None
    if model_type != "gpt2":
        raise CheckpointError(f"{folder} holds a model of type {model_type!r}; expected 'gpt2'")
    try:
        model, info = cast(Any, GPT2LMHeadModel).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype="auto",
            trust_remote_code=False,
        )
    except Exception as error:  # transformers raises OSError, ValueError, SafetensorError and others
        reason = str(error).strip().splitlines()[0][:160]
        raise CheckpointError(f"{folder} cannot be read as a GPT-2 in safetensors ({reason})") from None
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
    if wrong:
        raise CheckpointError(f"{folder}: the tensors do not fit config.json: {wrong}")
    return model
