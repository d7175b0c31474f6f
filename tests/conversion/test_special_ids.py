"""The ids of beginning, end and padding under TransformerLens: none is beyond the embedding where it is looked up."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from conversion import GPT, Checkpoint, ConversionError, VocabularyError, read_checkpoint, read_vocabulary
from conversion.fast_tokenizer import tokenizer_for
from conversion.vocabulary import CharVocabulary, StringVocabulary, TokenizerVocabulary
from tests.conftest import convert
from tests.making import CHARS, write, write_meta

TEXTS = ["Hello there,", "who is it?", "the king, my lord", "and more of it"]


def concatenated(texts: list[str], tokenizer: Any, **options: Any) -> torch.Tensor:
    try:
        from transformer_lens.utils import tokenize_and_concatenate
    except ImportError:  # TransformerLens 4
        from transformer_lens.utilities.tokenize_utils import (  # pyright: ignore[reportMissingImports]
            tokenize_and_concatenate,
        )
    dataset = Dataset.from_dict({"text": texts})
    rows = tokenize_and_concatenate(dataset, tokenizer, max_length=12, num_proc=None, **options)
    return torch.stack(list(rows["tokens"]))


def chars(folder: Path, characters: str = CHARS, **sizes: Any) -> Checkpoint:
    write_meta(folder, characters)
    return read_checkpoint(write(folder, **sizes))


def moves(folder: Path) -> Checkpoint:
    tokens = ["1.", "e4", " ", "Nf3"]
    folder.mkdir(exist_ok=True)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": {token: i for i, token in enumerate(tokens)}}))
    return read_checkpoint(write(folder, vocab_size=4))


def bpe(folder: Path, special: list[str], **sizes: Any) -> Checkpoint:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS * 3, vocab_size=280, min_frequency=2, special_tokens=special)
    folder.mkdir(exist_ok=True)
    trained.save(str(folder / "tokenizer.json"))
    return read_checkpoint(write(folder, vocab_size=trained.get_vocab_size(), **sizes))


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_tokenize_and_concatenate(tmp_path, add_bos_token):
    """TransformerLens writes the id of the end between texts: a line break, as nanoGPT's own texts have it."""
    model = convert(chars(tmp_path))
    rows = concatenated(TEXTS, model.tokenizer, add_bos_token=add_bos_token)
    width = 11 if add_bos_token else 12
    ids = [CHARS.index(c) for c in "\n".join(TEXTS)]
    expected = torch.tensor(ids[: len(ids) // width * width]).reshape(-1, width)
    assert torch.equal(rows[:, -width:], expected)
    assert rows.shape[1] == 12
    if add_bos_token:
        assert set(rows[:, 0].tolist()) == {CHARS.index("\n")}
    assert torch.isfinite(model(rows, return_type="loss"))


@pytest.mark.parametrize(
    ("make", "separator"),
    [
        (lambda f: chars(f, CHARS.replace("\n", "")[:40] + "…", vocab_size=41), " "),
        (lambda f: chars(f, "abc", vocab_size=3), "a"),
        (moves, " "),
        (lambda f: bpe(f, []), "\n"),
        (lambda f: bpe(f, ["<|endoftext|>"]), "<|endoftext|>"),
    ],
)
def test_what_stands_between_texts(tmp_path, make, separator):
    checkpoint = make(tmp_path / "out")
    tokenizer = convert(checkpoint).tokenizer
    for name in ("bos", "eos"):
        assert tokenizer.decode([getattr(tokenizer, f"{name}_token_id")]) == separator
    text = {3: "abc" * 5, 4: "1. e4 Nf3 e4 Nf3"}.get(checkpoint.config.vocab_size, " " * 20)
    rows = concatenated([text] * 3, tokenizer)
    assert int(rows.max()) < checkpoint.config.vocab_size


@pytest.mark.parametrize(
    ("vocabulary", "d_vocab", "padding"),
    [
        (CharVocabulary(tuple("abc")), 3, 3),  # every id is text: beyond the embedding
        (CharVocabulary(tuple("abc")), 64, 3),  # the first of nanoGPT's rows that round the vocabulary up
        (StringVocabulary(("a", "<PAD>", "b")), 3, 1),  # the vocabulary's own
        (StringVocabulary(("ab", "c")), 2, 2),
    ],
)
def test_padding_is_no_token_of_text(vocabulary, d_vocab, padding):
    """TransformerLens masks it wherever a text ends with it."""
    assert tokenizer_for(vocabulary, n_ctx=9, d_vocab=d_vocab).pad_token_id == padding


def test_text_that_ends_with_any_token_is_not_masked(tmp_path):
    """`generate` masks ids of padding at the end of a prompt; greedy text against the native model's."""
    checkpoint = chars(tmp_path)
    model, native = convert(checkpoint, dtype=torch.float64), GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    for last in ("\n", "z", " ", "$"):
        tokens = model.to_tokens("ab" + last)
        got = model.generate(tokens, max_new_tokens=6, do_sample=False, verbose=False, return_type="tokens")
        expected = tokens
        with torch.no_grad():
            for _ in range(6):
                expected = torch.cat([expected, native(expected)[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(got.cpu(), expected)


def line_breaks(folder: Path) -> Any:
    """A model that writes nothing but line breaks: its last residual stream is their embedding."""
    checkpoint = chars(folder)
    state = checkpoint.state_dict
    state["transformer.wte.weight"][CHARS.index("\n")] *= 9
    state["transformer.ln_f.weight"].zero_()
    state["transformer.ln_f.bias"].copy_(state["transformer.wte.weight"][CHARS.index("\n")])
    return convert(checkpoint)


def test_generate_does_not_stop_at_a_line_break(tmp_path):
    model = line_breaks(tmp_path)
    assert model.generate("ab", max_new_tokens=5, do_sample=False, verbose=False) == "ab" + "\n" * 5
    assert model.generate("ab", 5, eos_token_id=0, do_sample=False, verbose=False) == "ab\n"


@pytest.mark.hooked
def test_copies_do_not_stop_either(tmp_path):
    model = line_breaks(tmp_path)
    copied, buffer = copy.deepcopy(model), io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for each in (model, copied, torch.load(buffer, weights_only=False)):
        assert each.generate("ab", max_new_tokens=5, do_sample=False, verbose=False) == "ab" + "\n" * 5
        assert each.generate("ab", 5, True, 0, do_sample=False, verbose=False) == "ab\n"
        assert each.generate._model() is each
    pieces = list(model.generate_stream("ab", max_new_tokens=4, do_sample=False, verbose=False))
    assert torch.cat([piece.cpu() for piece in pieces], 1)[0, -4:].tolist() == [0] * 4


@pytest.mark.hooked
def test_a_model_is_freed_when_it_is_dropped(tmp_path):
    import gc
    import weakref

    model = convert(chars(tmp_path))
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.hooked
@pytest.mark.parametrize("make", [chars, moves, lambda f: bpe(f, []), lambda f: bpe(f, ["<|endoftext|>"])])
def test_transformer_lens_takes_the_tokenizer_again(tmp_path, make):
    from transformer_lens import HookedTransformer

    model = convert(make(tmp_path / "out"))
    text = "e4 Nf3" if model.cfg.d_vocab == 4 else "king"
    before = model.to_tokens(text)
    model.set_tokenizer(model.tokenizer)
    model.set_tokenizer(model.tokenizer, default_padding_side="right")
    again = HookedTransformer(model.cfg, tokenizer=model.tokenizer)
    again.load_state_dict(model.state_dict())
    for each in (model, again):
        assert torch.equal(each.to_tokens(text), before)
        assert each.to_string(each.to_tokens(text)[0]) == text
    assert torch.equal(again(text), model(text))


@pytest.mark.hooked
def test_one_without_a_vocabulary_too(tmp_path):
    from transformer_lens import HookedTransformer

    model = convert(read_checkpoint(write(tmp_path)))
    assert (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) == (None, None)
    again = HookedTransformer(model.cfg, tokenizer=model.tokenizer)
    again.load_state_dict(model.state_dict())
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(tokens), model(tokens))
    with pytest.raises(VocabularyError, match="has no vocabulary"):
        again.to_tokens("a")


def test_no_text_holds_the_special_token(tmp_path):
    tokenizer = convert(chars(tmp_path)).tokenizer
    with pytest.raises(VocabularyError, match="prepend_bos=False"):
        tokenizer(tokenizer.bos_token or tokenizer.eos_token)
    tokenizer.pad_token = "a"  # who says what padding is, gets it
    assert tokenizer.pad_token_id == CHARS.index("a")


def test_texts_of_several_lengths_in_any_vocabulary(tmp_path):
    model = convert(moves(tmp_path / "moves"))
    with pytest.raises(ConversionError, match="the texts have 1 and 3 tokens; nanoGPT has no padding token"):
        model.to_tokens(["e4", "e4 Nf3"])
    with pytest.raises(ConversionError, match="the texts have . and .* tokens; nanoGPT has no padding token"):
        convert(bpe(tmp_path / "bpe", [])).to_tokens(["k", "the king"])


def test_a_folder_for_transformer_lens_keeps_padding_beyond(tmp_path):
    """What `--to hooked` saves is read by TransformerLens, which masks what it takes for padding."""
    from conversion.saving import save_transformer_lens

    checkpoint = chars(tmp_path / "out")
    save_transformer_lens(convert(checkpoint), checkpoint, tmp_path / "tl")
    saved = json.loads((tmp_path / "tl" / "tokenizer_config.json").read_text())
    assert saved["pad_token"] == saved["eos_token"]
    vocabulary = read_vocabulary(tmp_path / "tl" / "tokenizer.json", 65)
    assert vocabulary.chars == tuple(CHARS)
    added = json.loads((tmp_path / "tl" / "tokenizer.json").read_text())["added_tokens"]
    assert [token["id"] for token in added] == [65]


def test_a_bpe_vocabulary_is_kept_as_it_is(tmp_path):
    checkpoint = bpe(tmp_path / "out", ["<|endoftext|>"])
    assert isinstance(checkpoint.vocabulary, TokenizerVocabulary)
    model = convert(checkpoint)
    assert {model.tokenizer.eos_token_id, model.tokenizer.pad_token_id} == {0}
    assert "generate" not in vars(model)  # its own end of a text ends it
