"""Nets that skorch trained become targets: outputs are read as the criterion means them, and clones are retrained."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.utils.data import Subset

from forgetcast import predict_difficulty
from forgetcast.adapters import from_skorch
from forgetcast.corpus.measuring import measure
from forgetcast.errors import DatasetError, ModelError, NotApplicableError
from forgetcast.target.data import Data

SPLITTING: dict[str, Any] = {"max_epochs": 15, "lr": 0.02, "optimizer": torch.optim.Adam, "verbose": 0}
SETTINGS = {**SPLITTING, "train_split": None}


class Net(nn.Module):
    """A perceptron; its outputs are probabilities where skorch's default criterion wants them."""

    def __init__(self, probabilities: bool = True, outputs: int = 3) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(5, 12), nn.Linear(12, outputs)
        self.probabilities = probabilities

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(self.hidden(x).relu())
        return out.softmax(1) if self.probabilities else out


class Named(Net):
    """Takes its inputs by name."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(torch.cat([a, b], 1))


def clouds(classes: int = 3, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Points around the centre of their class, a few labels wrong."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 5)) + 2 * rng.normal(size=(classes, 5))[y]
    y[::17] = (y[::17] + 1) % classes
    return x.astype(np.float32), y


def fitted(net: Any, x: Any, y: Any) -> Any:
    """The net after training."""
    torch.manual_seed(0)
    return net.fit(x, y)


def test_probabilities_are_read_as_logits() -> None:
    """Under the default criterion; the last layer is found behind the softmax, and the net stays as it was."""
    x, y = clouds()
    net = fitted(NeuralNetClassifier(Net, **SETTINGS), x, y)
    before = {name: value.clone() for name, value in net.module_.state_dict().items()}
    target = from_skorch(net, x.astype(np.float64), y, heldout=clouds(n=30))
    np.testing.assert_allclose(target.logits().softmax(1).numpy(), net.predict_proba(x), atol=1e-5)
    assert target.head is not None
    assert target.head.name == "module.last"
    assert (target.name, target.info["architecture"]) == ("Net", "Net")
    report = predict_difficulty(target)
    assert report.table["index"].nunique() == 90
    assert not {"entanglement", "gradient_norm", "boundary_distance"} & set(report.factors.not_applicable)
    assert all(torch.equal(value, before[name]) for name, value in net.module_.state_dict().items())


def test_logits_and_one_logit_are_read_as_such() -> None:
    """Under CrossEntropyLoss, and of a binary net, whose labels may be floats."""
    x, y = clouds()
    net = NeuralNetClassifier(Net, module__probabilities=False, criterion=nn.CrossEntropyLoss, **SETTINGS)
    target = from_skorch(fitted(net, x, y), x, y)
    np.testing.assert_allclose(target.logits().softmax(1).numpy(), net.predict_proba(x), atol=1e-5)
    x, y = clouds(classes=2)
    two = NeuralNetBinaryClassifier(Net, module__probabilities=False, module__outputs=1, **SETTINGS)
    target = from_skorch(fitted(two, x, y.astype(np.float32)), x, y.astype(np.float32))
    assert target.num_classes == 2
    np.testing.assert_allclose(target.logits().softmax(1).numpy(), two.predict_proba(x), atol=1e-5)
    assert target.train(np.arange(60), seed=0)(torch.from_numpy(x[:3])).shape == (3, 2)


def test_it_is_unlearned_and_retrained() -> None:
    """A clone is trained with the same settings; the same seed gives the same model, and no random state moves."""
    x, y = clouds()
    net = fitted(NeuralNetClassifier(Net, **SETTINGS), x, y)
    target = from_skorch(net, x, y, heldout=clouds(n=30))
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (target.train(np.arange(80), seed) for seed in (3, 3, 4))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    a, b, c = (model.state_dict()["module.last.weight"] for model in (one, two, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    accuracy = (target.logits(module=one).argmax(1).numpy() == y).mean()
    assert accuracy > 0.8
    settings = {"unlearners": ["gradient_ascent"], "oracle_groups": 2, "oracle_seeds": 1, "progress": False}
    outcomes, instances = measure(target, [0, 7], **settings)
    assert set(outcomes["objective"]) == {"retrain", "erase"}
    assert instances["p_out"].between(0, 1).all()


SEEN: list[Tensor] = []


class Recorder(Callback):
    """Keeps the rows of every training batch, also of a clone."""

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool = False, **_: Any) -> None:
        if training:
            SEEN.append(batch[0].clone())


def content(x: Any) -> list[int]:
    """Hashes of the samples without repetition, sorted."""
    return sorted(set(Data((x, [0] * len(x))).content_hashes().tolist()))


@pytest.mark.parametrize("split", [ValidSplit(5, stratified=True), ValidSplit(0.3, random_state=1), ValidSplit(4)])
@pytest.mark.parametrize("binary", [False, True])
def test_samples_that_the_net_held_back_are_not_forecast(split: Any, binary: bool) -> None:
    """All of fit's samples are refused; those it was trained on, as recorded batch by batch, are taken."""
    x, y = clouds(classes=2 if binary else 3)
    y = y.astype(np.float32) if binary else y
    kind = NeuralNetBinaryClassifier if binary else NeuralNetClassifier
    outputs = {"module__probabilities": False, "module__outputs": 1} if binary else {}
    SEEN.clear()
    net = fitted(kind(Net, train_split=split, callbacks=[Recorder()], **outputs, **SPLITTING), x, y)
    for given in ((x, y), (Dataset(x, y),), (Subset(Dataset(x, y), range(90)),)):
        with pytest.raises(
            DatasetError, match=r"held some of these samples back|that the net's train_split leaves"
        ) as e:
            from_skorch(net, *given)
        assert "net.get_split_datasets(X, y)" in str(e.value)
        assert "\n" not in str(e.value)
    trained, held = net.get_split_datasets(x, y)
    target = from_skorch(net, trained, heldout=held)
    assert sorted(set(target.data.content_hashes().tolist())) == content(torch.cat(SEEN))
    assert target.notes == []
    SEEN.clear()
    model = target.train(np.arange(20), seed=0)
    assert target.logits(module=model).shape == (len(trained), 2 if binary else 3)


def test_a_clone_is_trained_on_all_that_it_gets() -> None:
    """What the net held back is already left out: the clone is validated on it and holds nothing else back."""
    x, y = clouds()
    net = fitted(NeuralNetClassifier(Net, callbacks=[EarlyStopping(patience=50)], **SPLITTING), x, y)
    trained, held = net.get_split_datasets(x, y)
    retrained = from_skorch(net, trained, heldout=held)._train
    assert retrained is not None
    validated = []

    class Watching(NeuralNetClassifier):
        def get_split_datasets(self, X: Any, y: Any = None, **more: Any) -> Any:
            parts = super().get_split_datasets(X, y, **more)
            validated.append(tuple(map(len, parts)))
            return parts

    net.__class__ = Watching
    retrained(np.arange(50), 0)
    assert validated == [(50, len(held))]


def test_a_split_drawn_anew_is_refused() -> None:
    """Which samples the net was trained on is then not known, whatever part of them is given."""
    x, y = clouds()
    net = fitted(NeuralNetClassifier(Net, train_split=ValidSplit(0.2), **SPLITTING), x, y)
    trained, held = net.get_split_datasets(x, y)
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    with pytest.raises(DatasetError, match=r"draws other samples each time.*random_state"):
        from_skorch(net, trained, heldout=held)
    assert (np.random.get_state()[1] == state).all()


def test_a_predefined_split_holds_nothing_back() -> None:
    """Its validation data comes from elsewhere."""
    x, y = clouds()
    split = predefined_split(Dataset(*clouds(n=30)))
    net = fitted(NeuralNetClassifier(Net, train_split=split, **SPLITTING), x, y)
    assert len(from_skorch(net, x, y)) == 90


def test_named_inputs_and_datasets() -> None:
    """A dict of arrays, and a dataset that holds the labels."""
    x, y = clouds()
    parts = {"a": x[:, :2], "b": x[:, 2:]}
    target = from_skorch(fitted(NeuralNetClassifier(Named, **SETTINGS), parts, y), parts, y)
    assert target.logits().shape == (90, 3)
    assert target.train(np.arange(60), seed=0) is not None
    net = fitted(NeuralNetClassifier(Net, **SETTINGS), x, y)
    assert from_skorch(net, Dataset(x, y)).data_hash == from_skorch(net, x, y).data_hash
    assert not from_skorch(net, x, y, can_train=False).can_train


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was expected."""
    x, y = clouds()
    with pytest.raises(ModelError, match="the net is not fitted"):
        from_skorch(NeuralNetClassifier(Net), x, y)
    with pytest.raises(ModelError, match="expected a skorch classifier; got NeuralNetRegressor"):
        from_skorch(NeuralNetRegressor(Net), x, y)
    odd = NeuralNetClassifier(Net, criterion=nn.MultiMarginLoss, **SETTINGS)
    with pytest.raises(ModelError, match=r"expected the criterion NLLLoss.*got MultiMarginLoss"):
        from_skorch(fitted(odd, x, y), x, y)
    net = fitted(NeuralNetClassifier(Net, module__outputs=4, **SETTINGS), x, y + 1)
    with pytest.raises(DatasetError, match=r"expected classes 0 to C - 1.*got \[1, 2, 3\]"):
        from_skorch(net, x, y + 1)
    monkeypatch.setitem(sys.modules, "skorch.classifier", None)
    with pytest.raises(NotApplicableError, match=r"pip install 'forgetcast\[skorch\]'"):
        from_skorch(net, x, y)
