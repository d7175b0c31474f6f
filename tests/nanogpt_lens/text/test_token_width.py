"""A file of tokens of any width is the same corpus to every reader, and its width is in what results say of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.token_files import TokenFile
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.text.corpus import open_corpus, windows
from nanogpt_lens.text.datasets import TextData, read_data, write_data
from tests.conversion.test_token_files import DTYPES, WORDS, drawn, shard
from tests.making import write_meta
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model

IDS = drawn(2000, 65)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("model"))


def files(folder):
    """The same ids as every kind of file, by what provenance says of it."""
    found = {}
    for dtype in DTYPES[:4]:
        IDS.astype(dtype).tofile(folder / f"{dtype[1:]}.bin")
        found[folder / f"{dtype[1:]}.bin"] = WORDS[np.dtype(dtype).itemsize]
    (folder / "shard.bin").write_bytes(shard(IDS, "<u2"))
    (folder / "shard7.bin").write_bytes(shard(IDS, "<u4", version=7))
    np.save(folder / "a.npy", IDS.astype(np.uint16))
    return found | {
        folder / "shard.bin": "llm.c shard, uint16 tokens",
        folder / "shard7.bin": "llm.c shard, uint32 tokens",
        folder / "a.npy": ".npy, uint16 tokens",
    }


def test_every_file_is_the_same_corpus(model, tmp_path):
    expected = open_corpus(model, torch.from_numpy(IDS))
    for path, words in files(tmp_path).items():
        for given in (path, str(path), TokenFile(path)):
            opened = open_corpus(model, given)
            assert opened.n_tokens == len(IDS), path
            assert opened.fingerprint == expected.fingerprint
            assert opened.between(100, 700).tokens(3, 9).tolist() == IDS[103:109].tolist()
            assert opened.ids.array().tolist() == IDS.tolist()
            assert torch.equal(windows(model, given, seq_len=9, n=7), windows(model, IDS, seq_len=9, n=7))
            assert opened.origin == (f"{path} ({words})" if words else str(path))
            assert words in opened.windows_name


def test_results_say_how_the_file_kept_its_tokens(model, tmp_path):
    for path, words in files(tmp_path).items():
        statistics = ngl.neuron_statistics(model, path, progress=False)
        assert str(len(IDS)) in statistics.definition
        for result in (statistics, ngl.prefix_matching(model, path, n=4), ngl.text_loss(model, path, n=4)):
            assert words in f"{result.provenance} {result.definition}", (path, type(result))
    expected = ngl.neuron_statistics(model, IDS, progress=False).values
    assert torch.equal(ngl.neuron_statistics(model, tmp_path / "u4.bin", progress=False).values, expected)


def test_who_insists_is_believed(model, tmp_path):
    half = np.stack([IDS, np.zeros_like(IDS)], 1).flatten()
    half.astype("<u2").tofile(tmp_path / "a.bin")
    assert open_corpus(model, tmp_path / "a.bin").n_tokens == len(IDS)
    insisted = open_corpus(model, TokenFile(tmp_path / "a.bin", token_dtype="uint16"))
    assert insisted.ids.array().tolist() == half.tolist()
    assert insisted.origin == str(tmp_path / "a.bin")
    (tmp_path / "a.txt").write_text("the king\n" * 20)
    with pytest.raises(ngl.AnalysisError, match=r"a\.txt is taken for a text; token_dtype='uint32' is for files"):
        open_corpus(model, TokenFile(tmp_path / "a.txt", token_dtype="uint32"))


@pytest.mark.parametrize(("dtype", "name"), [("<u4", "uint32 tokens"), ("<i8", "int64 tokens")])
def test_the_error_of_a_foreign_file_names_its_width(model, tmp_path, dtype, name):
    (IDS + 30).astype(dtype).tofile(tmp_path / "a.bin")
    with pytest.raises(ngl.AnalysisError, match=rf"a\.bin \({name}\) has the token \d\d; expected ids from 0 to 64"):
        open_corpus(model, tmp_path / "a.bin").check_all()


class TestDataFolder:
    def prepared(self, folder, dtype, train=IDS, val=IDS[:300]):
        write_meta(folder)
        train.astype(dtype).tofile(folder / "train.bin")
        val.astype(dtype).tofile(folder / "val.bin")
        return folder

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_is_read_as_it_was_written(self, model, tmp_path, dtype):
        data = read_data(self.prepared(tmp_path, dtype))
        assert (data.train.tolist(), data.val.tolist()) == (IDS.tolist(), IDS[:300].tolist())
        assert data.stored == WORDS[np.dtype(dtype).itemsize]
        assert open_corpus(model, tmp_path).n_tokens == 300

    def test_a_short_part_is_as_wide_as_the_other(self, tmp_path):
        short = np.array([1, 0] * 20)
        assert read_data(self.prepared(tmp_path / "a", "<u2", val=short)).val.tolist() == short.tolist()
        ones = np.ones(20, dtype=int)
        assert read_data(self.prepared(tmp_path / "b", "<u4", val=ones)).val.tolist() == ones.tolist()

    def test_what_does_not_fit(self, tmp_path):
        folder = self.prepared(tmp_path / "a", "<u4")
        IDS.astype("<u2").tofile(folder / "val.bin")
        with pytest.raises(DataError, match=r"train\.bin and .*val\.bin hold uint32 tokens and uint16 tokens"):
            read_data(folder)
        with pytest.raises(DataError, match=r"train\.bin has the token 94 \(uint32 tokens\); expected ids below 65"):
            read_data(self.prepared(tmp_path / "b", "<u4", train=IDS + 30, val=IDS + 30))
        (tmp_path / "a.txt").write_text("abc")
        with pytest.raises(DataError, match=r"a\.txt is no data folder"):
            read_data(TokenFile(tmp_path / "a.txt", "uint32"))

    def test_a_large_vocabulary_is_written_wide(self, tmp_path):
        class Large:
            kind, size = "tokens", 100_277

            def save(self, folder):
                return folder

        data = TextData(train=drawn(300, 100_277), val=drawn(200, 100_277), vocabulary=Large(), name="large")
        write_data(data, tmp_path)
        assert np.fromfile(tmp_path / "train.bin", dtype="<u4").tolist() == data.train.tolist()
