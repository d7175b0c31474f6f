"""Causal scrubbing as its pseudocode says: one prompt, one position and one node at a time, from plain runs' caches.

Nothing here knows trees, pools or chunks of the package. What it shares with it are the numbers that decide on draws.
"""

from __future__ import annotations

import math

import torch

from nanogpt_lens.circuits.places import generator


def feature_value(word, tokens, answer, pos):
    """The value of a feature for one prompt, a list of ids, at a position."""
    if not isinstance(word, str):
        return tuple(feature_value(one, tokens, answer, pos) for one in word)
    upto = tokens[: pos + 1]
    if word == "followed_earlier":
        places = [i for i in range(pos) if tokens[i] == tokens[pos]]
        return tokens[places[-1] + 1] if places else None
    values = {
        "token": tokens[pos],
        "previous_token": tokens[pos - 1] if pos else None,
        "position": pos,
        "counts": tuple(sorted(upto)),
        "set": frozenset(upto),
        "answer": answer,
        "everything": tuple(upto),
        "nothing": None,
    }
    return values[word]


class Naive:
    """One draw of a hypothesis, by recursion.

    Args:
        model, tokens, answer: the model and the prompts.
        seed, draw: which numbers decide.
        same: whether stand-ins keep their position.
    """

    def __init__(self, model, tokens, answer, *, seed, draw, same=False, rest_kept=""):
        self.model, self.tokens, self.answer, self.same = model, tokens.tolist(), answer.tolist(), same
        self.seed, self.draw, self.rest_kept = seed, draw, rest_kept
        self.n, self.n_pos = tokens.shape
        self.caches = [model.run_with_cache(tokens[[i]])[1] for i in range(self.n)]
        self._numbers = {}

    def logits(self, hypothesis, ref):
        """The scrubbed logits of one prompt."""
        last = [(i, self.n_pos - 1) for i in range(self.n)]
        root = hypothesis.logits
        place = self.stand_in(root, "logits", (ref, self.n_pos - 1), last, (ref,), False)
        final = self.stream("logits", root, "logits", place, last, (ref,), None)
        return self.model.unembed(self.model.ln_final(final[None, None]))[0, 0]

    def uniform(self, path, where):
        """The number of a claim for a prompt and the positions that were split off."""
        if path not in self._numbers:
            shape = (self.n, *[self.n_pos] * (len(where) - 1))
            numbers = generator(self.seed, f"{self.draw} {path}").random(math.prod(shape))
            self._numbers[path] = numbers.reshape(shape)
        return float(self._numbers[path][where])

    def stand_in(self, claim, path, place, pool, where, same):
        agreed = [one for one in pool if not same or one[1] == place[1]]
        value = feature_value(claim.depends_on, self.tokens[place[0]], self.answer[place[0]], place[1])
        agreed = [
            one
            for one in agreed
            if feature_value(claim.depends_on, self.tokens[one[0]], self.answer[one[0]], one[1]) == value
        ]
        return agreed[int(self.uniform(path, where) * len(agreed))]

    def rest(self, path, place, pool, where, same):
        if path == self.rest_kept:
            return place
        agreed = [one for one in pool if not same or one[1] == place[1]]
        return agreed[int(self.uniform(f"{path}/rest", where) * len(agreed))]

    def plain(self, node, row, pos):
        """A node's activation in the plain run of a prompt, at a position."""
        cache = self.caches[row]
        if node == "logits":
            return cache["resid_post", self.model.cfg.n_layers - 1][0, pos]
        if node.startswith("resid_"):
            return cache[node[:-1].replace("resid_", "resid_"), int(node[-1])][0, pos]
        if node == "embed":
            return (cache["hook_embed"] + cache["hook_pos_embed"])[0, pos]
        if node.startswith("mlp"):
            return cache["mlp_out", int(node[3:])][0, pos] - self.model.blocks[int(node[3:])].mlp.b_out
        layer, head, *part = node.split(".")
        if part:
            return cache[part[0], int(layer)][0, pos, int(head)]
        return cache["z", int(layer)][0, pos, int(head)] @ self.model.blocks[int(layer)].attn.W_O[int(head)]

    def value(self, node, claim, path, place, pool, where, whole):
        """A node's activation at a place: at its position, or at all as rows."""
        positions = range(self.n_pos) if whole else [place[1]]
        if claim.reads is None:
            rows = [self.plain(node, place[0], pos) for pos in positions]
            return torch.stack(rows) if whole else rows[0]
        if node.count(".") == 1:
            return self.head(node, claim, path, place, pool, where, whole)
        rows = []
        for pos in positions:
            stream = self.stream(node, claim, path, place, pool, where, pos if whole else None)
            rows.append(self.received(node, stream))
        return torch.stack(rows) if whole else rows[0]

    def received(self, node, stream):
        if node.startswith("resid_") or node == "logits":
            return stream
        if node.startswith("mlp"):
            block = self.model.blocks[int(node[3:])]
            return block.mlp(block.ln2(stream[None, None]))[0, 0] - block.mlp.b_out
        layer, head, part = node.split(".")
        block = self.model.blocks[int(layer)]
        weight, bias = (getattr(block.attn, f"{kind}_{part.upper()}")[int(head)] for kind in "Wb")
        return block.ln1(stream[None, None])[0, 0] @ weight + bias

    def stream(self, node, claim, path, place, pool, where, pos):
        """The stream that a node reads; `pos` where the node is of all positions."""
        whole = pos is not None
        same = whole or (self.same and len(pool) > self.n)
        rest = self.rest(path, place, pool, where, same)
        at = (rest[0], pos if whole else rest[1])
        total = self.plain(self.read_stream(node), *at).clone()
        for child in claim.reads or ():
            child_path = f"{path}/{child.name}"
            stand_in = self.stand_in(child, child_path, place, pool, where, same)
            value = self.value(child.node, child, child_path, stand_in, pool, where, whole)
            total += (value[pos] if whole else value) - self.plain(child.node, *at)
        return total

    def read_stream(self, node):
        if node == "logits" or node.startswith("resid_"):
            return node
        return f"resid_mid{node[3:]}" if node.startswith("mlp") else f"resid_pre{node.split('.')[0]}"

    def head(self, node, claim, path, place, pool, where, whole):
        layer, head = map(int, node.split("."))
        every = [(i, j) for i in range(self.n) for j in range(self.n_pos)]
        same = whole or (self.same and len(pool) > self.n)
        rest = self.rest(path, place, pool, where, same)
        if not claim.reads:
            at = range(self.n_pos) if whole else [rest[1]]
            rows = [self.plain(node, rest[0], pos) for pos in at]
            return torch.stack(rows) if whole else rows[0]
        rows = []
        for pos in range(self.n_pos) if whole else [place[1]]:
            q = self.plain(f"{node}.q", rest[0], pos if whole else rest[1])
            keys = {part: [self.plain(f"{node}.{part}", rest[0], j) for j in range(pos + 1)] for part in "kv"}
            for child in claim.reads:
                part, child_path = child.node[-1], f"{path}/{child.name}"
                full = f"{node}.{part}"
                if part == "q":
                    stand_in = self.stand_in(child, child_path, place, pool, where, same)
                    value = self.value(full, child, child_path, stand_in, pool, where, whole)
                    q = value[pos] if whole else value
                elif child.at in ("", "each"):
                    for j in range(pos + 1):
                        stand_in = self.stand_in(child, child_path, (place[0], j), every, (*where, j), self.same)
                        keys[part][j] = self.value(full, child, child_path, stand_in, every, (*where, j), False)
                elif child.at == "all":
                    stand_in = self.stand_in(child, child_path, place, pool, where, True)
                    value = self.value(full, child, child_path, stand_in, pool, where, True)
                    keys[part] = list(value[: pos + 1])
                else:
                    j = place[1] if child.at == "here" else child.at
                    there = pool if child.at == "here" else [(i, j) for i in range(self.n)]
                    if j <= pos:
                        stand_in = self.stand_in(
                            child, child_path, (place[0], j), there, where, same and child.at == "here"
                        )
                        keys[part][j] = self.value(full, child, child_path, stand_in, there, where, False)
            scores = torch.stack(keys["k"]) @ q / math.sqrt(self.model.cfg.d_head)
            z = scores.softmax(0) @ torch.stack(keys["v"])
            rows.append(z @ self.model.blocks[layer].attn.W_O[head])
        return torch.stack(rows) if whole else rows[0]
