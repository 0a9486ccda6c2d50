"""Data: every kind of source gives the same samples, cached or not; bad ones are named in one line."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from forgetcast.errors import DatasetError, IndexRangeError
from forgetcast.target.data import Data
from forgetcast.target.dataset_reader import REREAD
from forgetcast.target.inputs import channels_last, leaves, map_leaves

N = 1100  # more than two of the pieces that a dataset is read in


def samples(n: int = N, *shape: int) -> tuple[Tensor, Tensor]:
    """Noise of shape (n, *shape), by default (n, 3), with labels 0 to 4."""
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, *(shape or (3,)), generator=generator), torch.randint(5, (n,), generator=generator)


class Counted(Dataset):
    """Items made by a function, with a count of how often each was read."""

    def __init__(self, item: Callable[[int], Any], n: int = N) -> None:
        self.item, self.n, self.reads = item, n, Counter()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.reads[index] += 1
        return self.item(index)


def of_arrays() -> Counted:
    """Items as many datasets give them: a NumPy row and a Python number."""
    x, y = samples()
    return Counted(lambda i: (x[i].numpy(), int(y[i])))


def own_collate(items: list[Any]) -> tuple[np.ndarray, list[int]]:
    """A batch made of NumPy arrays and a list."""
    return np.stack([np.asarray(x) for x, _ in items]), [int(y) for _, y in items]


SOURCES: dict[str, Callable[[], Any]] = {
    "pair of tensors": lambda: samples(),
    "list of two tensors": lambda: list(samples()),
    "pair of arrays": lambda: tuple(part.numpy() for part in samples()),
    "nested lists": lambda: tuple(part.tolist() for part in samples()),
    "reversed arrays": lambda: tuple(np.flip(part.numpy(), 0).copy()[::-1] for part in samples()),
    "table and column": lambda: (pd.DataFrame(samples()[0].numpy()), pd.Series(samples()[1].numpy())),
    "tensors with gradients": lambda: (samples()[0].requires_grad_(), samples()[1]),
    "small integers as labels": lambda: (samples()[0], samples()[1].to(torch.uint8)),
    "tensor dataset": lambda: TensorDataset(*samples()),
    "items of arrays": of_arrays,
    "subset": lambda: Subset(TensorDataset(*(torch.cat([part, part]) for part in samples())), range(N, 2 * N)),
    "shuffling loader": lambda: DataLoader(TensorDataset(*samples()), batch_size=7, shuffle=True, drop_last=True),
    "loader without batches": lambda: DataLoader(TensorDataset(*samples()), batch_size=None),
    "loader with its own collate": lambda: DataLoader(of_arrays(), collate_fn=own_collate),
}


def as_float32(x: Tensor) -> Tensor:
    """Nested lists and tables may come as float64."""
    return x.float()


# -- what comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [1 << 30, 10_000, 0], ids=["cached", "given up midway", "never cached"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_samples(name: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in batches in order and by index in any order, whether or not the items are kept."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", cache)
    x, y = samples()
    data = Data(SOURCES[name]())
    assert len(data) == N
    assert data.labels.dtype == torch.int64
    assert torch.equal(data.labels, y)
    parts = list(data.batches(300))
    assert [len(index) for index, _, _ in parts] == [300, 300, 300, 200]
    assert torch.equal(torch.cat([index for index, _, _ in parts]), torch.arange(N))
    assert torch.allclose(as_float32(torch.cat([x for _, x, _ in parts])), x)
    assert torch.equal(torch.cat([y for _, _, y in parts]), y)
    some = torch.tensor([1099, 0, 511, 512, 3, 3])
    got_x, got_y = data.fetch(some)
    assert torch.allclose(as_float32(got_x), x[some])
    assert torch.equal(got_y, y[some])
    assert not got_x.requires_grad


@pytest.mark.parametrize("name", SOURCES)
def test_equal_content_has_an_equal_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest belongs to the samples, not to the object that holds them or to what is kept in memory."""
    data = Data(SOURCES[name]())
    if data.fetch([0])[0].dtype == torch.float32:
        assert data.digest() == Data(samples()).digest()
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", 0)
    assert Data(SOURCES[name]()).digest() == data.digest()


def once_but_a_few(reads: Counter[int]) -> bool:
    """Whether every item was asked for once, but for the few that are compared with themselves."""
    return sorted(reads.values()) == [1] * (N - REREAD) + [2] * REREAD


def test_a_cached_dataset_is_read_once_and_a_large_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the limit each item is asked for once; beyond it, again for every pass. A few are compared at once."""
    small = of_arrays()
    data = Data(small)
    list(data.batches())
    data.digest()
    assert once_but_a_few(small.reads)
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", 3 * 4 * N - 1)
    large = of_arrays()
    data = Data(large)
    list(data.batches())
    data.fetch([7])
    assert large.reads[8] == 2
    assert large.reads[7] == 3


def test_a_dataset_of_exactly_the_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts the bytes of the inputs, all of them."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", 3 * 4 * N)
    source = of_arrays()
    list(Data(source).batches())
    assert once_but_a_few(source.reads)


@pytest.mark.parametrize("cache", [1 << 30, 0])
def test_dict_and_tuple_inputs_keep_their_structure(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dicts stay dicts, tuples and lists become tuples, arrays and numbers become tensors, at any depth."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", cache)
    x, y = samples()
    tokens = torch.arange(2 * N).reshape(N, 2)
    sources = [
        ({"a": x.numpy(), "b": (tokens.numpy(), x[:, 0])}, y),
        Counted(lambda i: ({"a": x[i].numpy(), "b": [tokens[i].numpy(), float(x[i, 0])]}, y[i])),
    ]
    for source in sources:
        data = Data(source)
        got, _ = data.fetch([600, 2])
        assert list(got) == ["a", "b"]
        assert isinstance(got["b"], tuple)
        assert torch.equal(got["a"], x[[600, 2]])
        assert torch.equal(got["b"][0], tokens[[600, 2]])
        assert got["b"][0].dtype == torch.int64
        assert torch.allclose(got["b"][1].float(), x[[600, 2], 0])
        first, second = data.fetch([0])[0]["b"]
        assert first.shape == (1, 2)
        assert second.shape == (1,)


def test_a_pair_of_tuples_is_two_inputs() -> None:
    """Several positional inputs come in as a tuple or a list of tensors."""
    x, y = samples(6)
    for inputs in ((x, x + 1), [x, x + 1]):
        got, _ = Data((inputs, y)).fetch([4])
        assert isinstance(got, tuple)
        assert torch.equal(got[1], x[[4]] + 1)


def test_padding_to_the_longest_of_a_batch_works() -> None:
    """A collate function may give batches of different widths; they are then made anew, never joined."""

    def pad(items: list[tuple[Tensor, int]]) -> tuple[Tensor, list[int]]:
        return torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True), [y for _, y in items]

    def item(i: int) -> tuple[Tensor, int]:
        return torch.full((2 + i // 512,), i), i % 3

    data = Data(Counted(item), collate_fn=pad)
    assert torch.equal(data.labels, torch.arange(N) % 3)
    assert torch.equal(data.fetch([1099, 1])[0], torch.tensor([[1099] * 4, [1, 1, 0, 0]]))
    assert [x.shape[1] for _, x, _ in data.batches(512)] == [2, 3, 4]
    assert data.digest() == Data(Counted(item), collate_fn=pad).digest()


def test_what_a_caller_does_to_a_batch_stays_with_the_caller() -> None:
    """Batches are copies: writing into one changes neither the data nor the source."""
    x, y = samples(8)
    data = Data((x, y))
    got, labels = data.fetch([0, 1])
    got.zero_()
    labels.zero_()
    next(data.batches())[1].zero_()
    assert torch.equal(data.fetch(range(8))[0], samples(8)[0])
    assert torch.equal(x, samples(8)[0])
    assert torch.equal(data.labels, samples(8)[1])


def test_reading_leaves_the_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that draws random numbers draws none of the caller's."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", 0)
    before = torch.random.get_rng_state()
    data = Data(Counted(lambda i: (torch.randn(2) * 0 + i, i % 2), 20))
    list(data.batches())
    data.digest()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_explicit_collate_function_wins_over_the_loaders() -> None:
    """What is given to Data is used, else the loader's."""
    loader = DataLoader(of_arrays(), collate_fn=lambda items: 1 / 0)
    assert torch.equal(Data(loader, collate_fn=own_collate).labels, samples()[1])
    with pytest.raises(DatasetError, match="ZeroDivisionError"):
        Data(loader)


def test_one_sample_is_enough() -> None:
    """The smallest dataset has one sample."""
    data = Data((torch.zeros(1, 2), [3]))
    assert len(data) == 1
    assert data.labels.tolist() == [3]


# -- helpers over batches ------------------------------------------------------------------------------


def test_leaves_and_map_leaves_agree() -> None:
    """Mapping touches every leaf once and keeps the structure."""
    x = {"a": torch.ones(2), "b": (torch.ones(2, 1), [torch.ones(2, 2)])}
    assert [leaf.ndim for leaf in leaves(x)] == [1, 2, 2]
    doubled = map_leaves(lambda leaf: 2 * leaf, x)
    assert isinstance(doubled["b"][1], tuple)
    assert all(bool((leaf == 2).all()) for leaf in leaves(doubled))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_changes_the_layout_alone(channels: int) -> None:
    """Images keep their values and get the strides of channels last; other tensors are left as they are."""
    images, rows = torch.randn(2, channels, 4, 5), torch.randn(2, 7)
    laid, same = channels_last((images, rows))
    assert torch.equal(laid, images)
    assert laid.stride() == (20 * channels, 1, 5 * channels, channels)
    assert same is rows


# -- the digest ----------------------------------------------------------------------------------------


def reference_digest(x: Tensor, y: Tensor) -> str:
    """The digest of a plain pair, written out: corpora keep it, so it may never change."""
    sha = hashlib.sha256(y.numpy().tobytes())
    for start in range(0, len(x), 256):
        part = x[start : start + 256]
        sha.update(f"({x.dtype}, {tuple(x.shape[1:])})".encode())
        sha.update(part.contiguous().numpy().tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("shape", [(3,), (), (2, 4, 4), (1, 4, 4)])
def test_the_digest_keeps_its_definition(shape: tuple[int, ...]) -> None:
    """Stored data hashes stay valid, for any layout in memory."""
    x = torch.randn(700, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(700) % 4
    assert Data((x, y)).digest() == reference_digest(x, y)
    assert Data((channels_last(x), y)).digest() == reference_digest(x, y)


def test_the_digest_sees_every_change() -> None:
    """One input, one label, the order, the type, the shape or the name of an input: each gives another digest."""
    x, y = samples(20, 2, 2)
    variants: list[Any] = [(x, y), (x.flip(0), y.flip(0)), (x.double(), y), (x.flatten(1), y), (x[:19], y[:19])]
    for row in (0, 19):
        changed = x.clone()
        changed[row, 1, 0] += 1e-6 + 1e-6 * changed[row, 1, 0].abs()
        relabelled = y.clone()
        relabelled[row] += 1
        variants += [(changed, y), (x, relabelled)]
    variants += [({"a": x, "b": 2 * x}, y), ({"b": x, "a": 2 * x}, y), ((x, 2 * x), y)]
    digests = [Data(variant).digest() for variant in variants]
    assert len(set(digests)) == len(digests)


def test_the_digest_of_a_dict_does_not_depend_on_the_order_of_its_names() -> None:
    """The same names with the same tensors are the same input."""
    x, y = samples(5)
    assert Data(({"a": x, "b": -x}, y)).digest() == Data(({"b": -x, "a": x}, y)).digest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool])
def test_any_type_of_input_has_a_digest(dtype: torch.dtype) -> None:
    """Also types that NumPy does not know."""
    x, y = samples(5)
    data = Data((x.to(dtype), y))
    assert data.digest() == Data(((x * 1).to(dtype), y)).digest()
    assert data.digest() != Data((1 - x.to(dtype) if dtype != torch.bool else ~x.to(dtype), y)).digest()


# -- hashes of single samples --------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [1 << 30, 0], ids=["cached", "never cached"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_hash_of_a_sample(name: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for every sample, which goes by its numbers alone and moves with it; asking reads no dataset again."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", cache)
    x, y = samples()
    expected = Data((x, y)).content_hashes()
    assert (expected.dtype, expected.shape, len(np.unique(expected))) == (np.dtype("uint64"), (N,), N)
    source = SOURCES[name]()
    data = Data(source)
    reads = Counter(getattr(source, "reads", ()))
    assert (data.content_hashes() == expected).all()
    assert Counter(getattr(source, "reads", ())) == reads
    assert (copy.deepcopy(data).content_hashes() == expected).all()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert (Data((x[order], 1 - y[order].clamp(max=1))).content_hashes() == expected[order.numpy()]).all()


def test_the_hash_of_a_sample_goes_by_numbers_not_by_storage() -> None:
    """Types that hold the same numbers hash alike, and so do the two zeros; a last bit or large integer shows."""
    x = torch.arange(12).reshape(4, 3)
    expected = Data((x, [0] * 4)).content_hashes().tolist()
    types = (torch.uint8, torch.int16, torch.int32, torch.bfloat16, torch.float16, torch.float32, torch.float64)
    for dtype in types:
        assert Data((x.to(dtype), [0] * 4)).content_hashes().tolist() == expected
    zeros = torch.tensor([[0.0, -0.0], [-0.0, 0.0]])
    assert len(set(Data((zeros, [0, 0])).content_hashes().tolist())) == 1
    near = torch.tensor([1.0, 1.0 + 2**-23]).reshape(2, 1)
    ids = torch.tensor([[2**24], [2**24 + 1], [-(2**62)], [1 - 2**62]])
    for rows in (near, ids, {"a": ids, "b": torch.zeros(4)}):
        hashes = Data((rows, [0] * len(leaves(rows)[0]))).content_hashes()
        assert len(np.unique(hashes)) == len(hashes)
    named = {"a": x, "b": x.float()}, {"b": x, "a": x.double()}
    assert (Data((named[0], [0] * 4)).content_hashes() == Data((named[1], [0] * 4)).content_hashes()).all()


def test_the_hash_of_a_sample_does_not_depend_on_its_batch() -> None:
    """A collate function that pads to the longest gives a sample other columns beside a longer one."""
    rows = [torch.arange(1.0, 2 + k % 4) for k in range(20)]

    def pad(items: list[tuple[Tensor, int]]) -> tuple[Tensor, list[int]]:
        return torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True), [y for _, y in items]

    hashes = [
        Data(Counted(lambda i, some=some: (rows[some[i]], 0), len(some)), collate_fn=pad).content_hashes()
        for some in (range(20), [0, 4, 8], [3])
    ]
    assert (hashes[0] == np.resize(hashes[0][:4], 20)).all()
    assert hashes[1].tolist() == [hashes[0][0]] * 3
    assert hashes[2].tolist() == [hashes[0][3]]


# -- what is refused -----------------------------------------------------------------------------------


class Endless(IterableDataset):
    """A stream of samples."""

    def __iter__(self) -> Any:
        yield torch.zeros(3), 0


class WithoutLength(Dataset):
    """Items without a number of them."""

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3), 0


class LengthRaises(WithoutLength):
    """A length that is not known."""

    def __len__(self) -> int:
        raise NotImplementedError("unknown\nto all")


def raising(at: int, error: Exception) -> Counted:
    """A dataset that raises ``error`` at item ``at``."""

    def item(index: int) -> Any:
        if index == at:
            raise error
        return torch.zeros(3), index % 5

    return Counted(item)


def sharing() -> Counted:
    """A dataset that fills the same tensor anew for every item."""
    shared = torch.zeros(3)

    def item(index: int) -> Any:
        return shared.fill_(index), 0

    return Counted(item)


class Growing(Counted):
    """Somebody adds an item while it is read."""

    def __init__(self) -> None:
        super().__init__(lambda i: (torch.zeros(3), 0))

    def __len__(self) -> int:
        return N + (self.reads[5] > 0)


def with_nan(value: float = float("nan")) -> tuple[Tensor, Tensor]:
    """One bad number in item 1031."""
    x, y = samples()
    x[1031, 1] = value
    return x, y


def with_label(label: int) -> tuple[Tensor, Tensor]:
    """Another label for item 1031."""
    x, y = samples()
    y[1031] = label
    return x, y


def text(i: int) -> Any:
    """An item of text."""
    return "some text", i % 2


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "empty pair": (lambda: samples(0), "the dataset is empty: expected at least one sample"),
    "empty lists": (lambda: ([], []), "is empty|integers"),
    "empty dataset": (lambda: TensorDataset(*samples(0)), "the dataset is empty"),
    "unequal lengths": (lambda: (samples(9)[0], samples(8)[1]), r"as many inputs as labels; got \[9\] inputs and 8"),
    "unequal inputs": (lambda: ((samples(9)[0], samples(8)[0]), samples(9)[1]), r"got \[8, 9\] inputs and 9 labels"),
    "no inputs": (lambda: ({}, samples(9)[1]), "inputs"),
    "one number as inputs": (lambda: (torch.tensor(3.0), [1]), "inputs"),
    "three parts": (lambda: (*samples(9), samples(9)[1]), r"a pair \(inputs, labels\).*got a tuple of 3 items"),
    "iterable dataset": (Endless, "map-style dataset.*got Endless. Materialise"),
    "loader over a stream": (lambda: DataLoader(Endless()), "map-style dataset.*got Endless"),
    "no length": (WithoutLength, "got WithoutLength, which has no __len__: __len__ is to give the number of samples"),
    "no items by number": (lambda: {1, 2}, "got set, which has no __getitem__"),
    "length that raises": (LengthRaises, "length.*NotImplementedError: unknown"),
    "nothing": (lambda: None, "got NoneType"),
    "a path": (lambda: "data/train.npz", "got str"),
    "generator": (lambda: (item for item in [(torch.zeros(3), 0)]), "got generator"),
    "raising item": (lambda: raising(700, RuntimeError("disk\ngone")), "RuntimeError at item 700: disk$"),
    "raising key": (lambda: raising(3, KeyError("x")), "KeyError at item 3: 'x'"),
    "unequal shapes": (lambda: Counted(lambda i: (torch.zeros(3 + i % 2), 0)), "items 0-511 cannot be made into a"),
    "one of another shape": (
        lambda: Counted(lambda i: (torch.zeros(3 + (i == 700)), 0)),
        r"Item 700 is \(\(4,\) of float32, int\), item 512 is \(\(3,\) of float32, int\)\. Items must be",
    ),
    "one of another type": (
        lambda: Counted(lambda i: (torch.zeros(3, dtype=torch.float32 if i == 700 else torch.uint8), 0)),
        r"items 512-1023 have inputs of real numbers, item 0 of integers\. Item 700 is \(\(3,\) of float32, int\)",
    ),
    "one without a label": (
        lambda: Counted(lambda i: (torch.zeros(3), None if i == 9 else 0)),
        "label of item 9 is missing",
    ),
    "augmented": (
        lambda: Counted(lambda i: (torch.rand(3), 0)),
        "other inputs when item 0 is read again: a transform draws at random .augmentation.*without augmentation",
    ),
    "flipped half of the time": (
        lambda: Counted(lambda i: (torch.arange(3.0) * (1 if torch.rand(()) < 0.5 else -1), 0)),
        "gives other inputs when item",
    ),
    "labels at random": (
        lambda: Counted(lambda i: (torch.zeros(3), int(torch.randint(99, ())))),
        "other labels .first",
    ),
    "one array for all items": (sharing, "other inputs when item 0 is read again"),
    "growing": (Growing, "a fixed number of items; its length went from 1100 to 1101 while it was read"),
    "unequal shapes, far apart": (lambda: Counted(lambda i: (torch.zeros(3 + i // 512), 0)), r"item.* 512.*\(4,\)"),
    "images not yet tensors": (lambda: Counted(lambda i: (object(), 0)), "ToTensor, or give a collate_fn"),
    "text": (lambda: Counted(text), "numeric"),
    "text pair": (lambda: (["a", "b"], [0, 1]), "numeric"),
    "objects": (lambda: (np.array([None, {}], dtype=object), [0, 1]), "numeric"),
    "ragged lists": (lambda: ([[1.0], [1.0, 2.0]], [0, 1]), "numeric"),
    "three-part items": (lambda: TensorDataset(*samples(9), samples(9)[1]), r"items \(x, y\).*list of 3"),
    "items without labels": (lambda: TensorDataset(samples(9)[0]), r"items \(x, y\).*list of 1"),
    "dict items": (lambda: Counted(lambda i: {"x": torch.zeros(3), "y": 0}), r"items \(x, y\).*dict"),
    "bare items": (lambda: Counted(lambda i: torch.zeros(3)), r"items \(x, y\).*Tensor"),
    "nan": (with_nan, r"NaN or infinite inputs in 1 item\(s\), the first at \[1031\]: clean or impute"),
    "infinity": (lambda: with_nan(float("inf")), r"the first at \[1031\]"),
    "nan in a dataset": (lambda: TensorDataset(*with_nan()), r"the first at \[1031\]"),
    "nan in a dict": (lambda: ({"a": with_nan()[0], "b": samples()[0]}, samples()[1]), r"\[1031\]"),
    "negative label": (lambda: with_label(-1), "from 0; item 1031 has label -1"),
    "negative label in a dataset": (lambda: TensorDataset(*with_label(-1)), "from 0; item 1031 has label -1"),
    "float labels": (lambda: (samples()[0], samples()[1].float()), r"integers.*got torch.float32.*labels.long\(\)"),
    "bool labels": (lambda: (samples()[0], samples()[1] > 2), "got torch.bool"),
    "one-hot labels": (
        lambda: (samples()[0], torch.nn.functional.one_hot(samples()[1])),
        r"shape \(n,\), .* got \(1100, 5\): for one-hot labels pass labels.argmax\(1\)",
    ),
    "labels in a column": (lambda: (samples()[0], samples()[1][:, None]), r"got \(1100, 1\).*labels.squeeze\(1\)"),
    "one label for all": (lambda: (samples()[0], 3), r"shape \(n,\), .* got \(\)$"),
    "text labels": (lambda: (samples(2)[0], ["cat", "dog"]), "class numbers"),
    "text labels in a dataset": (lambda: Counted(lambda i: (torch.zeros(3), "cat")), "class numbers"),
    "a fraction as label": (lambda: (samples(3)[0], [0.0, 1.0, 1.5]), "item 2 has 1.5: forecasts are for classes"),
    "infinity as label": (lambda: (samples(2)[0], [0.0, float("inf")]), "item 1 has inf: forecasts are for classes"),
    "one-hot labels in a dataset": (lambda: Counted(lambda i: (torch.zeros(3), torch.eye(3)[0].long())), "one-hot"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_in_one_line(name: str) -> None:
    """What was expected, what came and where, in a DatasetError of one line."""
    make, message = BAD[name]
    with pytest.raises(DatasetError, match=message) as caught:
        Data(make())
    assert "\n" not in str(caught.value)


MISSING: dict[str, Any] = {
    "None": [0, None, 1],
    "NaN": [0, float("nan"), 1],
    "objects": np.array([0, None, 1], dtype=object),
    "nullable integers": pd.array([0, None, 1], dtype="Int64"),
    "a column": pd.Series([0, None, 1]),
    "a column of objects": pd.Series([0, pd.NA, 1]),
    "among text": ["a", None, "b"],
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_label_is_called_missing(name: str) -> None:
    """In a pair, and in items that are tuples or dicts: with the number of the item, not as a matter of types."""
    labels = MISSING[name]
    for source in (
        (torch.zeros(3, 2), labels),
        Counted(lambda i: (torch.zeros(2), labels[i]), 3),
        Counted(lambda i: {"x": torch.zeros(2), "label": labels[i]}, 3),
    ):
        with pytest.raises(DatasetError, match="the label of item 1 is missing") as caught:
            Data(source)
        assert "\n" not in str(caught.value)


LAYOUTS = ["to_sparse", "to_sparse_csr", "to_sparse_csc"]
MATRICES = [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, sparse.lil_matrix, sparse.dok_matrix]


@pytest.mark.parametrize("make", [*LAYOUTS, *MATRICES], ids=lambda make: getattr(make, "__name__", make))
def test_sparse_data_is_called_sparse(make: Any) -> None:
    """Of torch and of scipy, alone or within a dict, as inputs, labels or items: with the way to make it dense."""
    x, y = torch.eye(6), torch.arange(6) % 2
    thin: Any = getattr(x, make)() if isinstance(make, str) else make(x.numpy())
    row = x[:1].to_sparse() if isinstance(make, str) else make(x[:1].numpy())
    way = r"sparse.*\.to_dense\(\)" if isinstance(make, str) else r"sparse.*\.toarray\(\)"
    for source in ((thin, y), ({"a": thin}, y), (x, thin), Counted(lambda i: (row, 0), 6)):
        with pytest.raises(DatasetError, match=way) as caught:
            Data(source)
        assert "\n" not in str(caught.value)
    dense = thin.to_dense() if isinstance(make, str) else thin.toarray()
    assert torch.equal(Data((dense, y)).fetch(range(6))[0], x)


def test_messages_call_the_data_by_its_role() -> None:
    """With two datasets about, the message says which one is meant."""
    for bad in (samples(0), with_nan(), (1, 2, 3), with_label(-2), raising(2, ValueError("no"))):
        with pytest.raises(DatasetError, match="the held-out dataset"):
            Data(bad, role="held-out dataset")


@pytest.mark.parametrize("short", ["inputs", "labels"])
def test_a_collate_function_that_drops_samples_is_refused(short: str) -> None:
    """A batch with fewer rows than items would shift every later sample."""

    def drop(items: list[Any]) -> Any:
        x, y = own_collate(items)
        return (x[1:], y) if short == "inputs" else (x, y[1:])

    with pytest.raises(DatasetError, match="collate_fn"):
        Data(of_arrays(), collate_fn=drop)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([N], rf"{N} is out of range: the dataset has {N} samples \(0 to {N - 1}\)"),
        ([0, -1], "-1 is out of range"),
        ([3, 5, 3], "3 is given more than once"),
        ([1.0], "must be integers; got float64"),
        ([True, False], "must be integers; got bool"),
        (["3"], "must be integers"),
        ([[1, 2]], r"shape \(1, 2\)"),
        ([[1], [2, 3]], "must be integers"),
        (None, "must be integers"),
        ({1, 2}, "must be integers"),
        ([2**70], "must be integers"),
        ([], "at least one sample index; got none"),
        (torch.tensor([]), "got none"),
        (np.uint64([2**63]), "out of range"),
    ],
)
def test_bad_indices_are_refused(indices: Any, message: str) -> None:
    """Outside the data, repeated, empty or no integers at all: an IndexRangeError of one line."""
    with pytest.raises(IndexRangeError, match=message) as caught:
        Data(samples()).check_indices(indices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "indices", [[7, 2], (7, 2), np.array([7, 2], np.uint8), torch.tensor([7, 2]), range(7, -3, -5), pd.Index([7, 2])]
)
def test_good_indices_keep_their_order(indices: Any) -> None:
    """Any kind of sequence of integers becomes an int64 tensor in the order given."""
    index = Data(samples()).check_indices(indices)
    assert index.dtype == torch.int64
    assert index.tolist() == [7, 2]


def test_a_single_index_is_a_list_of_one() -> None:
    """A bare number, of Python or NumPy, names one sample."""
    data = Data(samples())
    assert data.check_indices(4).tolist() == data.check_indices(np.int32(4)).tolist() == [4]


def test_a_slice_is_sent_without_what_it_was_cut_from() -> None:
    """Pickling a view of a large tensor would carry all of it along, with every task."""
    x, y = torch.randn(5000, 20), torch.arange(5000) % 3
    data = Data((x[40:50], y[40:50]))
    content = pickle.dumps(data)
    assert len(content) < 4000
    back = copy.deepcopy(data)
    assert torch.equal(back.fetch([0, 9])[0], x[[40, 49]])
    assert torch.equal(back.labels, y[40:50])
    assert back.digest() == data.digest()
    whole = Data((x, y))
    assert whole.__getstate__()["_x"] is whole._x, "nothing is copied without need"
