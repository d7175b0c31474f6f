"""Files of tokens: every width that forks write is read as it was written, or refused in one sentence; never halved."""

from __future__ import annotations

import re

import numpy as np
import pytest

from conversion.errors import ConversionError
from conversion.token_files import TokenFile, token_storage

DTYPES = ("<u2", "<u4", "<i4", "<i8", "<u8")
WORDS = {2: "", 4: "uint32 tokens", 8: "int64 tokens"}


def drawn(n, d_vocab, seed=0, zero=0.0):
    """Random ids, of which a share is 0."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < zero, 0, rng.integers(d_vocab, size=n))


def shard(ids, dtype, *, magic=20240520, version=1, order="<", announced=None):
    """What llm.c's data_common.py writes."""
    header = np.zeros(256, dtype=f"{order}i4")
    header[:3] = magic, version, len(ids) if announced is None else announced
    return header.tobytes() + np.asarray(ids).astype(dtype).tobytes()


@pytest.mark.parametrize("d_vocab", [2, 16, 65, 255, 256, 257, 50257, 50304, 65535, 65536])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, 0.6])
def test_the_width_shows_in_the_ids(tmp_path, d_vocab, dtype, zero):
    for seed, n in enumerate((401, 3000)):
        ids = drawn(n, d_vocab, seed, zero)
        ids.astype(dtype).tofile(tmp_path / "a.bin")
        found = token_storage(tmp_path / "a.bin", d_vocab)
        assert found.array().tolist() == ids.tolist()
        assert (found.n, found.words) == (n, WORDS[np.dtype(dtype).itemsize])


@pytest.mark.parametrize("dtype", ["<u4", "<i8"])
def test_a_vocabulary_that_16_bits_cannot_count(tmp_path, dtype):
    ids = drawn(500, 100_277)
    assert ids.max() > 65535
    ids.astype(dtype).tofile(tmp_path / "a.bin")
    assert token_storage(tmp_path / "a.bin", 100_277).array().tolist() == ids.tolist()
    low = drawn(500, 60_000)  # ids that happen to be small
    low.astype(dtype).tofile(tmp_path / "b.bin")
    assert token_storage(tmp_path / "b.bin", 100_277).array().tolist() == low.tolist()
    low.astype("<u2").tofile(tmp_path / "c.bin")
    with pytest.raises(ConversionError, match=r"seems to hold uint16 tokens, which cannot count.*100,277.*uint32"):
        token_storage(tmp_path / "c.bin", 100_277)
    assert token_storage(tmp_path / "c.bin", 100_277, token_dtype="uint16").array().tolist() == low.tolist()


def test_a_large_file_is_looked_at_in_places(tmp_path):
    for dtype in DTYPES:
        ids = drawn(1_500_001, 65)
        ids.astype(dtype).tofile(tmp_path / "a.bin")
        found = token_storage(tmp_path / "a.bin", 65)
        assert found.n == len(ids)
        assert np.array_equal(found.array(), ids)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64"])
def test_who_insists_is_believed(tmp_path, dtype):
    ids = np.array([3, 0, 5, 0, 7, 0, 1, 0])
    ids.astype(dtype).tofile(tmp_path / "a.bin")
    assert token_storage(tmp_path / "a.bin", 65, token_dtype=dtype).array().tolist() == ids.tolist()


def test_what_is_half_zeros_is_as_wide_as_the_zeros_say_and_narrower_for_who_insists(tmp_path):
    ids = drawn(600, 65) + 0
    half = np.stack([ids, np.zeros_like(ids)], 1).flatten()  # the very bytes of 600 uint32 tokens
    half.astype("<u2").tofile(tmp_path / "a.bin")
    assert token_storage(tmp_path / "a.bin", 65).words == "uint32 tokens"
    assert token_storage(tmp_path / "a.bin", 65, token_dtype="uint16").array().tolist() == half.tolist()
    other = np.stack([np.zeros_like(ids), np.maximum(ids, 1)], 1).flatten()  # zeros where no wide token has them
    other.astype("<u2").tofile(tmp_path / "b.bin")
    assert token_storage(tmp_path / "b.bin", 65).array().tolist() == other.tolist()


@pytest.mark.parametrize("ids", [[1, 0] * 40, [1, 0, 0, 0, 1, 0, 1, 0], [64, 0], [1, 0, 0, 0, 2, 0]])
def test_what_chance_could_do_is_refused(tmp_path, ids):
    np.array(ids, dtype="<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(
        ConversionError, match=r"a\.bin can be .* uint32 tokens or .* uint16 tokens, of which every.*insist"
    ):
        token_storage(tmp_path / "a.bin", 65)
    assert token_storage(tmp_path / "a.bin", 65, token_dtype="uint16").array().tolist() == ids
    assert token_storage(tmp_path / "a.bin", 65, n_tokens=len(ids)).array().tolist() == ids
    assert token_storage(tmp_path / "a.bin", 65, n_tokens=len(ids) // 2).array().tolist() == ids[::2]
    train = drawn(300, 65)
    train.astype("<u2").tofile(tmp_path / "val.bin")  # the other part of the data folder is clear
    (tmp_path / "a.bin").rename(tmp_path / "train.bin")
    assert token_storage(tmp_path / "train.bin", 65).array().tolist() == ids


@pytest.mark.parametrize("ids", [[0, 1] * 6, [1, 1, 0] * 4, [1, 0, 1], [0, 0, 0, 1]])
def test_toys_of_two_tokens_are_read(tmp_path, ids):
    np.array(ids, dtype="<u2").tofile(tmp_path / "a.bin")
    assert token_storage(tmp_path / "a.bin", 2).array().tolist() == ids


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i8"])
def test_nothing_but_zeros_shows_no_width(tmp_path, dtype):
    np.zeros(64, dtype=dtype).tofile(tmp_path / "a.bin")
    with pytest.raises(ConversionError, match=r"a\.bin holds nothing but zeros.*token_dtype='uint16'"):
        token_storage(tmp_path / "a.bin", 65)
    name = np.dtype(dtype).name
    assert token_storage(tmp_path / "a.bin", 65, token_dtype=name).n == 64


@pytest.mark.parametrize("d_vocab", [65, 300, 50257, 50304])
@pytest.mark.parametrize("dtype", [">u2", ">u4", ">i4", ">i8"])
def test_big_endian_is_refused_by_name(tmp_path, d_vocab, dtype):
    for ids in (drawn(400, d_vocab), drawn(400, 65)):  # the whole vocabulary, and characters under GPT-2's sizes
        ids.astype(dtype).tofile(tmp_path / "a.bin")
        with pytest.raises(
            ConversionError, match=r"a\.bin holds u?int\d\d tokens in big-endian byte order; expected lit"
        ):
            token_storage(tmp_path / "a.bin", d_vocab)


@pytest.mark.parametrize(("dtype", "name"), [("<u2", "uint16"), ("<u4", "uint32"), ("<i8", "int64")])
def test_a_file_that_is_cut_off(tmp_path, dtype, name):
    content = drawn(500, 65).astype(dtype).tobytes()
    for cut in range(1, np.dtype(dtype).itemsize):
        (tmp_path / "a.bin").write_bytes(content[:-cut])
        with pytest.raises(
            ConversionError, match=rf"a\.bin has {len(content) - cut:,} bytes, .* {name} tokens.*cut off"
        ):
            token_storage(tmp_path / "a.bin", 65)


@pytest.mark.parametrize(("version", "dtype", "d_vocab"), [(1, "<u2", 65), (1, "<u2", 50304), (7, "<u4", 128_256)])
def test_a_shard_of_llm_c(tmp_path, version, dtype, d_vocab):
    ids = drawn(700, d_vocab)
    (tmp_path / "a.bin").write_bytes(shard(ids, dtype, version=version))
    found = token_storage(tmp_path / "a.bin", d_vocab)
    assert found.array().tolist() == ids.tolist()
    assert found.words == f"llm.c shard, {np.dtype(dtype).name} tokens"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (shard([1] * 9, "<u2")[:-1], r"announces 9 tokens of 2 bytes, and 17 bytes follow; expected 18: .*cut off"),
        (shard([1] * 9, "<u2", announced=8), r"announces 8 tokens.*18 bytes follow; expected 16"),
        (shard([1] * 9, "<u2", announced=-3), r"announces -3 tokens"),
        (shard([1] * 9, "<u2", version=2), r"version 2; expected version 1 \(uint16\) or 7 \(uint32\)"),
        (shard([1] * 9, ">u2", order=">"), r"shard of llm\.c in big-endian byte order"),
        (shard([1] * 9, "<u2", magic=20240326, version=3), r"is a GPT-2 model of llm\.c; expected a file of tokens"),
        (shard([1] * 9, "<u2", magic=20240522), r"is an evaluation set of llm\.c"),
        (b"", r"is empty"),
        (b"\x93NUMPY\x01\x00", r"damaged \.npy header"),
    ],
)
def test_what_a_header_gives_away(tmp_path, content, words):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ConversionError, match=words) as caught:
        token_storage(tmp_path / "a.bin", 65)
    assert "a.bin" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_is_not_contradicted(tmp_path):
    (tmp_path / "a.bin").write_bytes(shard([1, 2], "<u2"))
    with pytest.raises(ConversionError, match=r"holds uint16 tokens, as its header says; token_dtype='uint32' contra"):
        token_storage(tmp_path / "a.bin", 65, token_dtype="uint32")
    assert token_storage(tmp_path / "a.bin", 65, token_dtype="uint16").array().tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i8", ">u2"])
def test_a_npy_file_says_what_it_is(tmp_path, dtype):
    ids = drawn(50, 65).astype(dtype)
    np.save(tmp_path / "a.npy", ids)
    found = token_storage(tmp_path / "a.npy", 65)
    assert found.array().tolist() == ids.tolist()
    np.save(tmp_path / "b.npy", ids.reshape(5, 10))
    with pytest.raises(ConversionError, match=r"b\.npy holds .* of shape \[5, 10\]; expected integers \[tokens\]"):
        token_storage(tmp_path / "b.npy", 65)
    np.save(tmp_path / "c.npy", np.array([1, "a", None], dtype=object), allow_pickle=True)
    with pytest.raises(ConversionError, match=r"c\.npy holds object"):
        token_storage(tmp_path / "c.npy", 65)


@pytest.mark.parametrize(("dtype", "name"), [("<u4", "uint32 tokens"), ("<i8", "int64 tokens"), ("<u2", "")])
def test_ids_beyond_the_vocabulary_have_the_width_of_their_own(tmp_path, dtype, name):
    for largest in (200, 60_000) if dtype == "<u2" else (200, 60_000, 128_256):
        ids = drawn(400, largest)
        ids.astype(dtype).tofile(tmp_path / "a.bin")
        found = token_storage(tmp_path / "a.bin", 65)
        assert (found.words, found.n) == (name, 400)


def test_another_word_is_refused():
    with pytest.raises(ConversionError, match=re.escape("token_dtype is 'float32'; expected one of uint8, uint16")):
        TokenFile("a.bin", "float32")
