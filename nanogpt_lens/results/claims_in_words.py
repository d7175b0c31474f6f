"""The claims of a hypothesis in plain words, for figures, tables and the report."""

from __future__ import annotations

import re

_PARTS = {"q": "query", "k": "key", "v": "value"}
_STREAMS = {"pre": "before block", "mid": "after the heads of block", "post": "after block"}
_FEATURES = {
    "position": "the position",
    "followed_earlier": "what followed its earlier occurrence",
    "occurred_earlier": "whether it occurred earlier",
    "distance_earlier": "how far back it occurred",
    "counts": "how often each token was there",
    "counts_before": "how often each token was there before",
    "set": "which tokens were there",
    "answer": "the answer",
    "everything": "everything",
    "nothing": "nothing",
}
_TOKEN = re.compile(r"(token|class)(?:-(\d+)|@(\d+))?")


def node_in_words(name: str) -> str:
    """What the activation of a claim is: "head 1.0", "key at position 3"; the name itself where it is none of ours."""
    node, _, at = name.partition("@")
    return f"{_node(node)}{_at(at)}"


def features_in_words(features: str) -> str:
    """What a claim depends on, such as "the token here, the position"; the name itself of a function of the user's."""
    every = [_feature(word) for word in features.split(", ")]
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}"


def verb(name: str, one: str) -> str:
    """A verb, such as "depends", that goes with an activation in words: "depend" with "logits" and "keys"."""
    return one.removesuffix("s") if name == "logits" or name.startswith(("keys ", "values ")) else one


def _node(node: str) -> str:
    if part := re.fullmatch(r"(?:\d+\.\d+\.)?([qkv])", node):
        return _PARTS[part[1]]
    if re.fullmatch(r"\d+\.\d+", node):
        return f"head {node}"
    if mlp := re.fullmatch(r"mlp(\d+)", node):
        return f"MLP {mlp[1]}"
    if stream := re.fullmatch(r"resid_(pre|mid|post)(\d+)", node):
        return f"stream {_STREAMS[stream[1]]} {stream[2]}"
    return "embedding" if node == "embed" else node


def _at(at: str) -> str:
    words = {"": "", "all": "s of all positions", "here": " where the head writes"}
    return words.get(at, f" at position {at}")


def _feature(word: str) -> str:
    token = _TOKEN.fullmatch("token-1" if word == "previous_token" else word)
    if token is None:
        return _FEATURES.get(word, word)
    kind, back, at = token.groups()
    if at is not None:
        place = f"at position {at}"
    elif back is None or int(back) == 0:
        place = "here"
    else:
        place = "before" if int(back) == 1 else f"{int(back)} before"
    return f"the token {place}" if kind == "token" else f"the class of the token {place}"
