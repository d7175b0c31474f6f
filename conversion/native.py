"""nanoGPT's architecture in plain PyTorch, the reference with which every conversion is compared.

It has pre-LayerNorm blocks, learned positions, one matrix for queries, keys and values, an MLP
four times as wide with an exact GELU, and a head that is tied to the embedding; the names are those
of nanoGPT's state dict. Two things differ from the original: the model returns the logits of all
positions, and every activation that TransformerLens names can be read and replaced:

    logits = model(tokens, edits={"blocks.0.attn.hook_pattern": lambda pattern: pattern * 0})

An edit receives the activation in TransformerLens' shape and returns the new one, or None
to leave it as it is. Attention is fused wherever no edit needs the scores or the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from conversion.checkpoint import Checkpoint
from conversion.config import LAYER_NORM_EPS, NanoGPTConfig

Edit = Callable[[Tensor], Tensor | None]
"""A function that reads an activation and returns None, or returns what takes the activation's place."""

_BLOCK_HOOKS = (
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)


def hook_names(n_layers: int) -> tuple[str, ...]:
    """TransformerLens' names of all activations, in the order of the computation."""
    blocks = [f"blocks.{i}.{name}" for i in range(n_layers) for name in _BLOCK_HOOKS]
    return ("hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_scale", "ln_final.hook_normalized")


class Edits:
    """Edits of the activations whose hook names begin with a prefix."""

    def __init__(self, functions: Mapping[str, Edit], prefix: str = "") -> None:
        self.functions = functions
        self.prefix = prefix

    def below(self, prefix: str) -> Edits:
        """The edits of the activations inside a block or a module."""
        return Edits(self.functions, f"{self.prefix}{prefix}.")

    def any_of(self, *names: str) -> bool:
        """Whether there is an edit of one of these activations."""
        return any(self.prefix + name in self.functions for name in names)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        function = self.functions.get(self.prefix + name)
        edited = None if function is None else function(value)
        return value if edited is None else edited


NO_EDITS = Edits({})


class LayerNorm(nn.Module):
    """LayerNorm with an optional bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(
        self, x: Float[Tensor, "example pos d_model"], edits: Edits = NO_EDITS
    ) -> Float[Tensor, "example pos d_model"]:
        if not edits.any_of("hook_scale", "hook_normalized"):
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, LAYER_NORM_EPS)
        centred = x - x.mean(-1, keepdim=True)
        scale = edits("hook_scale", (centred.pow(2).mean(-1, keepdim=True) + LAYER_NORM_EPS).sqrt())
        normalized = edits("hook_normalized", centred / scale)  # before weight and bias, as in TransformerLens
        scaled = normalized * self.weight
        return scaled if self.bias is None else scaled + self.bias


class CausalSelfAttention(nn.Module):
    """Multi-head attention from each position to itself and to earlier ones."""

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "example pos d_model"], edits: Edits = NO_EDITS
    ) -> Float[Tensor, "example pos d_model"]:
        batch, time, width = x.shape
        qkv = self.c_attn(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = (edits(f"hook_{name}", part) for name, part in zip("qkv", qkv.unbind(2), strict=True))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [example, head, pos, d_head]
        if edits.any_of("hook_attn_scores", "hook_pattern"):
            future = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
            scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(future, -torch.inf)
            pattern = edits("hook_pattern", edits("hook_attn_scores", scores).softmax(-1))
            z = F.dropout(pattern, self.dropout, self.training) @ v
        else:
            dropout = self.dropout if self.training else 0.0
            z = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        z = edits("hook_z", z.transpose(1, 2))  # [example, pos, head, d_head]
        return self.resid_dropout(self.c_proj(z.reshape(batch, time, width)))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.d_mlp, bias=config.bias)
        self.c_proj = nn.Linear(config.d_mlp, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.approximate = "tanh" if config.act_fn == "gelu_new" else "none"

    def forward(
        self, x: Float[Tensor, "example pos d_model"], edits: Edits = NO_EDITS
    ) -> Float[Tensor, "example pos d_model"]:
        pre = edits("hook_pre", self.c_fc(x))
        post = edits("hook_post", F.gelu(pre, approximate=self.approximate))
        return self.dropout(self.c_proj(post))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream after a LayerNorm."""

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(
        self, x: Float[Tensor, "example pos d_model"], edits: Edits = NO_EDITS
    ) -> Float[Tensor, "example pos d_model"]:
        x = edits("hook_resid_pre", x)
        x = x + edits("hook_attn_out", self.attn(self.ln_1(x, edits.below("ln1")), edits.below("attn")))
        x = edits("hook_resid_mid", x)
        x = x + edits("hook_mlp_out", self.mlp(self.ln_2(x, edits.below("ln2")), edits.below("mlp")))
        return edits("hook_resid_post", x)


class Transformer(nn.Module):
    """Everything below the head, under the name that nanoGPT's keys begin with."""

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.bias)

    def forward(self, tokens: Int[Tensor, "example pos"], edit: Edits) -> Float[Tensor, "example pos d_model"]:
        return self.rest(self.embedded(tokens, edit), 0, edit)

    def embedded(self, tokens: Int[Tensor, "example pos"], edit: Edits) -> Float[Tensor, "example pos d_model"]:
        """The residual stream before the first block."""
        embed = self.wte(tokens)
        positions = self.wpe.weight[: tokens.shape[1]].to(embed.dtype)  # which may compute in another precision
        embed = edit("hook_embed", embed)
        if edit.any_of("hook_pos_embed"):  # TransformerLens has a batch axis here
            positions = edit("hook_pos_embed", positions.expand(len(tokens), -1, -1))
        return self.drop(embed + positions)

    def rest(
        self, x: Float[Tensor, "example pos d_model"], layer: int, edit: Edits
    ) -> Float[Tensor, "example pos d_model"]:
        """The blocks from a layer on, and the last LayerNorm, from the residual stream before that layer."""
        for i, block in enumerate(self.h):
            if i >= layer:
                x = block(x, edit.below(f"blocks.{i}") if edit.functions else NO_EDITS)
        return self.ln_f(x, edit.below("ln_final") if edit.functions else NO_EDITS)


class GPT(nn.Module):
    """A nanoGPT model.

    `GPT(config)` is initialised as nanoGPT initialises; `GPT.from_checkpoint` holds a
    checkpoint's weights.
    """

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        if not self.lm_head.weight.is_meta:
            self.init_weights()

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None, copy: bool = True) -> GPT:
        """The model of a checkpoint in evaluation mode, in the checkpoint's precision or in `dtype`.

        Without `copy` it may share memory with the checkpoint's tensors.
        """
        with torch.device("meta"):
            model = cls(checkpoint.config)
        weights = {
            k: t for k, t in checkpoint.state_dict.items() if not (checkpoint.config.tied and k == "lm_head.weight")
        }
        state = {key: tensor.detach().to(dtype or tensor.dtype, copy=copy) for key, tensor in weights.items()}
        state.setdefault("lm_head.weight", state["transformer.wte.weight"])
        model.load_state_dict(state, strict=True, assign=True)
        model.tie()
        return model.eval()

    def tie(self) -> None:
        """Make the head and the token embedding one parameter, if the config says so."""
        if self.config.tied:
            self.transformer.wte.weight = self.lm_head.weight

    def init_weights(self) -> None:
        """Initialise as nanoGPT does: N(0, 0.02), residual projections scaled by depth, biases zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith("c_proj.weight")
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02
                nn.init.normal_(parameter, mean=0.0, std=std)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, tokens: Int[Tensor, "example pos"], *, edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example pos d_vocab"]:
        """The logits at every position.

        Args:
            tokens: token ids.
            edits: functions that read or replace activations, by TransformerLens' names
                (`hook_names`), each in TransformerLens' shape.

        Raises:
            ValueError: there are more positions than the context has, or a hook name is unknown.
        """
        time = tokens.shape[1]
        if time > self.config.block_size:
            raise ValueError(f"{time} tokens exceed the context of {self.config.block_size}; cut the sequence")
        if edits:
            check_names(edits, self.config.n_layer)
        return self.lm_head(self.transformer(tokens, Edits(edits) if edits else NO_EDITS))

    def last_logits(self, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example d_vocab"]:
        """The logits after the last of `tokens`, at most `block_size`."""
        return self.lm_head(self.transformer(tokens, NO_EDITS)[:, -1])

    def rest(
        self,
        stream: Float[Tensor, "example pos d_model"],
        layer: int,
        *,
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "example pos d_vocab"]:
        """The logits of a run that begins with the residual stream before a layer, 0 to `n_layer`; see `forward`."""
        if edits:
            check_names(edits, self.config.n_layer)
        return self.lm_head(self.transformer.rest(stream, layer, Edits(edits) if edits else NO_EDITS))

    def loss(self, tokens: Int[Tensor, "example pos"], targets: Int[Tensor, "example pos"]) -> Float[Tensor, ""]:
        """The mean cross-entropy of the `targets` that follow `tokens`, in nats."""
        return mean_loss(self(tokens), targets)


def mean_loss(logits: Float[Tensor, "example pos d_vocab"], targets: Int[Tensor, "example pos"]) -> Float[Tensor, ""]:
    """The mean cross-entropy of the `targets`, in nats; targets of -1 do not count."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def check_names(names: Iterable[str], n_layers: int) -> None:
    """Raise ValueError unless all names are names of activations."""
    known = set(hook_names(n_layers))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no activation is called {', '.join(unknown)}; expected names of hook_names({n_layers})")
