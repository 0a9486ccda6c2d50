"""Target: any classifier, never changed; the last linear layer is found and explains the logits; bad ones are named."""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from forgetcast.corpus.zoo.torchvision_import import torchvision
from forgetcast.errors import DatasetError, IndexRangeError, ModelError, NotApplicableError
from forgetcast.factors import factor_table
from forgetcast.target.data import Data
from forgetcast.target.frozen_copy import frozen_copy
from forgetcast.target.target import Target

CLASSES = 5


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def samples(*shape: int, n: int = 12) -> tuple[Tensor, Tensor]:
    """Noise of shape (n, *shape) and labels 0 to 4 in turn."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1)), torch.arange(n) % CLASSES


def mlp() -> nn.Sequential:
    """Inputs (n, 4) to 5 classes."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES))


class Custom(nn.Module):
    """A body and a head put together by a function; ``finish`` makes the output."""

    def __init__(self, finish: Callable[[Custom, Tensor], Any]) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)  # defined first, called last
        self.body = nn.Linear(4, 8)
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(self, torch.relu(self.body(x)))


@dataclass
class Output:
    """What many libraries return in place of a tensor."""

    logits: Tensor
    hidden: Tensor


class Everything(nn.Module):
    """Batch norm, dropout, a frozen part and a part that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.frozen = nn.Conv2d(6, 6, 1).requires_grad_(False)
        self.still = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(self.still(self.frozen(x)).mean((2, 3)))


def user_model() -> nn.Module:
    """A model as a user leaves it in the middle of training: train mode, gradients, running statistics, a hook."""
    model = seeded(Everything)
    model.train()
    model.still.eval()
    F.cross_entropy(model(samples(2, 6, 6)[0]), samples()[1]).backward()
    model.head.register_forward_hook(hook)
    return model


def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
    """A hook that does nothing."""


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that must not change."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "memory": [value.data_ptr() for value in model.state_dict().values()],
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "hooks": [list(module._forward_hooks.values()) for module in model.modules()],
        "other hooks": [
            [len(getattr(module, name)) for name in vars(module) if name.endswith("_hooks")]
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "random numbers": torch.random.get_rng_state(),
    }


def assert_same(a: Any, b: Any) -> None:
    """Equality through tensors, dicts, lists and tuples."""
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


# -- the user's model stays as it was ------------------------------------------------------------------


def test_the_users_model_is_exactly_as_before() -> None:
    """Weights, mode of every part, gradients, hooks and the random state survive everything a target does."""
    model, (x, y) = user_model(), samples(2, 6, 6)
    before = state(model)
    target = Target(model, (x, y), heldout=(x + 1, y), train=lambda indices, seed: model)
    target.logits()
    target.logits(module=model)
    target.features(target.heldout)
    target.train([1, 2], 0)
    params = {name: value.clone().requires_grad_() for name, value in target.params.items()}
    target.call(params, target.to_device(x)).sum().backward()
    assert target.model_hash
    assert target.data_hash
    assert_same(state(model), before)


def test_the_target_does_not_follow_the_users_model() -> None:
    """Training the model on afterwards changes neither the target's answers nor its data."""
    model, (x, y) = user_model(), samples(2, 6, 6)
    target = Target(model, (x, y))
    logits, fingerprint = target.logits(), target.model_hash
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert torch.equal(target.logits(), logits)
    assert Target(model, (x, y)).model_hash != fingerprint


def test_a_models_own_random_numbers_are_not_the_callers() -> None:
    """A model that draws noise even in evaluation mode leaves the random state alone."""
    model = seeded(lambda: Custom(lambda m, h: m.head(h + torch.randn_like(h) * 0)))
    before = torch.random.get_rng_state()
    target = Target(model, samples(4), heldout=(samples(4)[0] + 1, samples(4)[1]))
    target.logits()
    target.features()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_hook_stays_on_the_targets_own_copy() -> None:
    """Watching ends with the pass that was watched, also when the model fails midway."""

    def moody(m: Custom, h: Tensor) -> Tensor:
        if len(h) < 4:
            raise RuntimeError("too few")
        return m.head(h)

    target = Target(seeded(lambda: Custom(moody)), samples(4, n=6), batch_size=4)
    with pytest.raises(ModelError, match="RuntimeError for samples 4 to 5 of the dataset: too few"):
        target.features()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in target.module.modules())


# -- evaluation mode -----------------------------------------------------------------------------------


def test_the_copy_is_frozen() -> None:
    """Every part in evaluation mode, no parameter with a gradient."""
    module = Target(user_model(), samples(2, 6, 6)).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_logits_are_those_of_the_evaluation_mode_for_any_batch_size() -> None:
    """Running statistics, no dropout; neither neighbours in the batch nor earlier calls matter."""
    model, (x, y) = user_model(), samples(2, 6, 6)
    expected = copy.deepcopy(model).eval()(x).detach()
    for batch_size in (1, 5, 64):
        target = Target(model, (x, y), batch_size=batch_size)
        assert torch.allclose(target.logits(), expected, atol=1e-6)
        target.call({name: value.clone().requires_grad_() for name, value in target.params.items()}, x)
        assert torch.allclose(target.logits(), expected, atol=1e-6)
    assert not target.logits().requires_grad


def test_a_train_method_of_the_users_own_is_obeyed_and_overruled() -> None:
    """A ``train`` that keeps a part in training mode and forgets to return the model: it is frozen all the same."""

    class Stubborn(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)
            self[1].train(True)

    model = seeded(lambda: Stubborn(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES)))
    target = Target(model, samples(4))
    assert not any(part.training for part in target.module.modules())
    assert torch.equal(target.logits(), target.logits())


def test_call_takes_other_parameters_and_buffers_and_is_differentiable() -> None:
    """The model under given parameters: the same answers for its own, gradients for each, buffers replaceable."""
    target = Target(user_model(), samples(2, 6, 6))
    x = target.to_device(target.data.fetch(range(12))[0])
    params = {name: value.clone().requires_grad_() for name, value in target.params.items()}
    out = target.call(params, x)
    assert torch.allclose(out, target.forward(x), atol=1e-6)
    gradients = torch.autograd.grad(out.square().sum(), list(params.values()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)
    shifted = {"norm.running_mean": target.buffers["norm.running_mean"] + 1}
    assert not torch.allclose(target.call({**target.params, **shifted}, x), out)
    assert torch.allclose(target.forward(x), out)


# -- inputs and outputs of every kind ------------------------------------------------------------------


class Words(nn.Module):
    """Token numbers and a mask, by keyword or position, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Output:
        weight = torch.ones_like(tokens) if mask is None else mask
        hidden = (self.words(tokens) * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return Output(self.head(hidden), hidden)


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (12, 6), a mask of as many and labels."""
    tokens = torch.randint(11, (12, 6), generator=torch.Generator().manual_seed(2))
    return tokens, (torch.arange(6) < 2 + tokens[:, :1] % 4).long(), torch.arange(12) % CLASSES


def pack(items: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
    """A collate function that cuts a batch to its longest sentence and names the inputs."""
    longest = max(int(mask.sum()) for _, mask, _ in items)
    tokens, masks, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return {"tokens": tokens[:, :longest], "mask": masks[:, :longest]}, labels


def test_token_numbers_dicts_tuples_and_loaders_give_the_same_logits() -> None:
    """Keywords, positions, a loader's collate function; integers stay integers; ``.logits`` is unwrapped."""
    model, (tokens, mask, y) = seeded(Words), sentences()
    expected = model(tokens, mask).logits.detach()
    loader = DataLoader(TensorDataset(tokens, mask, y), batch_size=4, shuffle=True, collate_fn=pack)
    for source in (({"mask": mask, "tokens": tokens}, y), ((tokens, mask), y), loader):
        target = Target(model, source, batch_size=5)
        assert torch.allclose(target.logits(), expected, atol=1e-6)
        assert torch.allclose(target.logits(Data(source)), expected, atol=1e-6)
        assert target.head is not None
        assert target.head.name == "head"
        assert torch.allclose(target.features(), model(tokens, mask).hidden, atol=1e-6)
    plain = Target(model, (tokens, y))
    assert torch.allclose(plain.logits(), model(tokens).logits, atol=1e-6)


def test_an_explicit_collate_function_serves_both_datasets() -> None:
    """Given to the target, it is used for training and held-out data."""
    tokens, *others = sentences()
    data, held = TensorDataset(tokens, *others), TensorDataset((tokens + 1) % 11, *others)
    target = Target(seeded(Words), data, heldout=held, collate_fn=pack)
    assert torch.equal(target.logits(target.heldout), Target(seeded(Words), held, collate_fn=pack).logits())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precision_work(dtype: torch.dtype) -> None:
    """Inputs take the model's type; answers come as float32 at least and hash to something of their own."""
    x, y = samples(4)
    model = seeded(mlp).to(dtype)
    for inputs in (x, x.double(), x.numpy()):
        target = Target(model, (inputs, y))
        assert target.dtype == dtype
        assert target.logits().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert target.features().dtype == torch.float32
        assert torch.allclose(target.logits().float(), seeded(mlp)(x), atol=0.05)
    assert target.head is not None
    logits = target.features().to(dtype) @ target.head.weight.T + target.head.bias
    assert torch.allclose(logits.float(), target.logits().float(), atol=0.05)
    assert target.model_hash == Target(copy.deepcopy(model), (x, y)).model_hash
    assert target.model_hash != Target(seeded(mlp), (x, y)).model_hash


def test_one_sample_is_enough() -> None:
    """A dataset of one sample is a dataset; batch norm takes it in evaluation mode."""
    target = Target(user_model(), samples(2, 6, 6, n=1))
    assert target.logits().shape == (1, CLASSES)
    assert target.features().shape == (1, 6)


def test_images_laid_out_channels_last_give_the_same_answers() -> None:
    """Whatever layout convolutions like best, logits are the model's; a model that calls ``view`` still works."""
    x, y = samples(3, 6, 6)
    for flatten in (lambda h: h.flatten(1), lambda h: h.view(len(h), -1)):
        model = seeded(lambda flatten=flatten: Viewing(flatten))
        assert torch.allclose(Target(model, (x, y)).logits(), model(x), atol=1e-6)


class Viewing(nn.Module):
    """A convolution on flattened-and-restored images."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.flatten = nn.Conv2d(3, 4, 3), nn.Linear(64, CLASSES), flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.flatten(x).reshape(x.shape)).flatten(1))


# -- the last linear layer -----------------------------------------------------------------------------


def vgg11() -> nn.Module:
    """VGG-11 with the wide layers of its classifier narrowed from 4096 to 64 units."""
    vgg = torchvision().models.vgg
    model = vgg.VGG(vgg.make_layers(vgg.cfgs["A"]), num_classes=CLASSES, init_weights=False)
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 7 * 7, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, CLASSES)
    return model


def vision_transformer() -> nn.Module:
    """The smallest sensible ViT; its head starts at zero and is given numbers here."""
    model = torchvision().models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )
    nn.init.normal_(model.heads.head.weight)
    return model


class Tied(nn.Module):
    """The output layer shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(CLASSES, 8)
        self.out = nn.Linear(8, CLASSES, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.words(tokens).mean(1)))


def weight_normed() -> nn.Module:
    """A head whose weight is computed from other parameters."""
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, CLASSES))
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), parametrized)


def twice(m: Custom, h: Tensor) -> Tensor:
    """An auxiliary call of the head before the one that counts."""
    return m.head(h) + 0 * m.head(h / 2) if m.training else (m.head(h / 2), m.head(h))[1]


def overwritten(m: Custom, h: Tensor) -> Tensor:
    """Features that are overwritten after the head has seen them."""
    out = m.head(h)
    h.zero_()
    return out


HEADS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "sequential": (mlp, (4,), "2"),
    "one layer": (lambda: nn.Linear(4, CLASSES), (4,), ""),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES, bias=False)), (4,), "2"),
    "dropout after the head": (lambda: nn.Sequential(mlp(), nn.Dropout(0.9), nn.Identity()), (4,), "0.2"),
    "square layers": (
        lambda: nn.Sequential(nn.Linear(4, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES)),
        (4,),
        "2",
    ),
    "defined first": (lambda: Custom(lambda m, h: m.head(h)), (4,), "head"),
    "called by keyword": (lambda: Custom(lambda m, h: m.head(input=h)), (4,), "head"),
    "log-softmax": (lambda: Custom(lambda m, h: m.head(h).log_softmax(1)), (4,), "head"),
    "called twice": (lambda: Custom(twice), (4,), "head"),
    "features overwritten": (lambda: Custom(overwritten), (4,), "head"),
    "output object": (lambda: Custom(lambda m, h: Output(m.head(h), h)), (4,), "head"),
    "weight norm": (weight_normed, (4,), "2"),
    "resnet-18": (lambda: torchvision().models.resnet18(num_classes=CLASSES), (3, 32, 32), "fc"),
    "vgg-11": (vgg11, (3, 32, 32), "classifier.6"),
    "mobilenet-v2": (lambda: torchvision().models.mobilenet_v2(num_classes=CLASSES), (3, 32, 32), "classifier.1"),
    "mobilenet-v3": (
        lambda: torchvision().models.mobilenet_v3_small(num_classes=CLASSES),
        (3, 32, 32),
        "classifier.3",
    ),
    "vision transformer": (vision_transformer, (3, 32, 32), "heads.head"),
}


def assert_head_explains_logits(target: Target) -> None:
    """features @ weight.T + bias are the logits, or their log-softmax is."""
    assert target.head is not None, target.head_missing
    assert target.head_missing == ""
    features, logits = target.features().double(), target.logits().double()
    expected = features @ target.head.weight.double().T
    if target.head.bias is not None:
        expected = expected + target.head.bias.double()
    assert features.shape == (len(target), target.head.weight.shape[1])
    if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4):
        assert torch.allclose(logits, expected.log_softmax(1), rtol=1e-4, atol=1e-4)
        assert torch.allclose(logits.exp().sum(1), torch.ones(len(target), dtype=torch.double))


@pytest.mark.parametrize("name", HEADS)
def test_the_last_linear_layer_is_found_and_explains_the_logits(name: str) -> None:
    """By itself, whatever it is called and wherever it stands."""
    make, shape, expected = HEADS[name]
    target = Target(seeded(make), samples(*shape, n=6), batch_size=4)
    assert_head_explains_logits(target)
    assert target.head.name == expected
    assert target.num_classes == CLASSES
    assert not target.head.weight.requires_grad


def test_a_head_tied_to_the_embedding_is_found() -> None:
    """Sharing a weight with another layer does not hide the head."""
    tokens, _, y = sentences()
    target = Target(seeded(Tied), (tokens % CLASSES, y))
    assert_head_explains_logits(target)
    assert target.head.name == "out"
    assert target.head.bias is None


class Cosine(nn.Linear):
    """A linear layer in name only: it compares directions."""

    def forward(self, input: Tensor) -> Tensor:
        return 9 * F.linear(F.normalize(input), F.normalize(self.weight))


def scaled_in_place(m: Custom, h: Tensor) -> Tensor:
    """Logits multiplied where they stand, so that the layer's output seems to be the model's."""
    return m.head(h).mul_(3.0)


def then_again(m: Custom, h: Tensor) -> Tensor:
    """The head is called once more after the call that counts."""
    return (m.head(h), m.head(-h))[0]


HEADLESS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (3, 6, 6),
        "calls no torch.nn.Linear layer",
    ),
    "functional": (
        lambda: Custom(lambda m, h: F.linear(h, m.head.weight)),
        (4,),
        r"no linear layer's output is the model's output \(the last one called is 'body'\)",
    ),
    "scaled": (lambda: Custom(lambda m, h: 3 * m.head(h)), (4,), "called is 'head'"),
    "scaled in place": (lambda: Custom(scaled_in_place), (4,), "called is 'head'"),
    "cosine": (lambda: nn.Sequential(nn.Linear(4, 8), Cosine(8, CLASSES)), (4,), "called is '1'"),
    "called again": (lambda: Custom(then_again), (4,), "called is 'head'"),
    "body last": (lambda: Custom(lambda m, h: (2 * m.head(h), m.body(h[:, :4]))[0]), (4,), "called is 'body'"),
    "pooled": (lambda: Custom(lambda m, h: m.head(h[:, None].repeat(1, 3, 1)).mean(1) * 2), (4,), "'head'"),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_model_without_a_last_linear_layer_says_so(name: str) -> None:
    """No head where features @ weight.T + bias would not be the logits; the reason is kept and raised."""
    make, shape, reason = HEADLESS[name]
    target = Target(seeded(make), samples(*shape))
    assert target.head is None
    with pytest.raises(NotApplicableError, match=reason) as caught:
        target.features()
    assert str(caught.value) == target.head_missing
    assert target.logits().shape == (12, CLASSES)


# -- hashes --------------------------------------------------------------------------------------------


class Buffers(nn.Module):
    """A scalar parameter, a complex one, and buffers that are and are not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.waves = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.nothing = nn.Parameter(torch.zeros(0))
        self.register_buffer("mask", torch.tensor([0.0, 1.0]))
        self.register_buffer("table", torch.arange(3), persistent=False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x) * self.scale)


PLACES = ["scale", "waves", "mask", "table", "norm.running_var", "norm.num_batches_tracked", "head.weight", "head.bias"]


@pytest.mark.parametrize("name", PLACES)
def test_the_model_hash_sees_every_weight_and_buffer(name: str) -> None:
    """Equal for equal content, another one as soon as any number of the model is another."""
    model, data = seeded(Buffers), samples(4)
    before = Target(model, data).model_hash
    assert Target(seeded(Buffers), data).model_hash == before
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    named[name].data.view(-1)[-1:] += 1
    assert Target(model, data).model_hash != before


def test_the_model_hash_keeps_its_definition() -> None:
    """Corpora keep it: names, shapes, types and bytes of the state dict, numbers without dimension in words."""
    model = user_model()
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.contiguous().numpy().tobytes() if value.ndim else str(value.item()).encode())
    assert Target(model, samples(2, 6, 6)).model_hash == sha.hexdigest()


def test_the_model_hash_does_not_see_data_mode_or_layout() -> None:
    """It belongs to the model's numbers alone."""
    model, (x, y) = user_model(), samples(2, 6, 6)
    before = Target(model, (x, y)).model_hash
    other = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    assert Target(other, (x + 1, y), name="other").model_hash == before


def test_the_data_hash_is_that_of_the_training_data() -> None:
    """An input or a label changes it, the held-out data does not."""
    (x, y), model = samples(4), seeded(mlp)
    before = Target(model, (x, y)).data_hash
    assert Target(model, TensorDataset(x, y), heldout=(x + 1, y)).data_hash == before
    assert Target(model, (x + torch.eye(12, 4) * 1e-3, y)).data_hash != before
    assert Target(model, (x, y.flip(0))).data_hash != before


# -- retraining ----------------------------------------------------------------------------------------


def test_train_passes_indices_and_seed_and_freezes_the_result() -> None:
    """The callable gets an array of its own and an int; the model comes back frozen, the callable's own untouched."""
    calls = []
    made = seeded(mlp).train()

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        calls.append((indices.dtype, indices.tolist(), type(seed), seed))
        indices[:] = 0
        return made

    target = Target(seeded(mlp), samples(4), train=train)
    kept = np.array([3, 1, 7])
    module = target.train(kept, np.int64(5))
    assert calls == [(np.int64, [3, 1, 7], int, 5)]
    assert kept.tolist() == [3, 1, 7]
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert made.training
    assert target.can_train
    assert torch.equal(target.logits(module=module), target.logits(module=made))


def test_a_target_that_cannot_train_says_how_it_could() -> None:
    """Without a callable, retraining does not apply."""
    target = Target(seeded(mlp), samples(4), name="mine")
    assert not target.can_train
    with pytest.raises(NotApplicableError, match=r"'mine' has no train callable: pass train=function\(indices, seed\)"):
        target.train([0], 0)


def with_weight(value: float) -> nn.Module:
    """The perceptron with one weight replaced."""
    model = seeded(mlp)
    model[0].weight.data[2, 1] = value
    return model


RETURNS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "got NoneType"),
    "a pair": (lambda: (seeded(mlp), 0.9), "got tuple"),
    "diverged": (lambda: with_weight(float("nan")), "not finite: 0.weight"),
    "other classes": (lambda: nn.Linear(4, 3), "3 classes; the target has 5"),
    "other inputs": (lambda: nn.Linear(3, CLASSES), "cannot take the dataset's inputs"),
    "probabilities": (lambda: nn.Sequential(mlp(), nn.Softmax(1)), "probabilities"),
}


@pytest.mark.parametrize("name", RETURNS)
def test_a_train_callable_that_returns_no_such_model_is_named(name: str) -> None:
    """The message says that it was the callable's return, and of which target."""
    make, message = RETURNS[name]
    target = Target(seeded(mlp), samples(4), train=lambda indices, seed: make(), name="mine")
    with pytest.raises(ModelError, match=rf"train callable of target 'mine'.*{message}") as caught:
        target.train([0, 1], 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("indices", [[], [12], [-1], [1.5], [2, 2]])
def test_train_refuses_indices_that_are_none(indices: list[Any]) -> None:
    """Nothing is trained on samples that do not exist, twice on one, or on none."""
    target = Target(seeded(mlp), samples(4), train=lambda indices, seed: pytest.fail("was called"))
    with pytest.raises(IndexRangeError):
        target.train(indices, 0)


# -- what is refused -----------------------------------------------------------------------------------


def uncopyable() -> nn.Module:
    """A model with a lock."""
    model = seeded(mlp)
    model.lock = threading.Lock()
    return model


class Overflow(nn.Module):
    """Infinite logits where the first input is above ``level``."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level, self.head = level, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).masked_fill(x[:, :1] > self.level, torch.inf)


BAD_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "not a module": (lambda: mlp, r"expected a torch.nn.Module classifier; got function"),
    "no parameters": (lambda: nn.Sequential(nn.Flatten()), "no parameters"),
    "uncopyable": (uncopyable, "cannot be copied .TypeError: cannot pickle.*locks kept as attributes"),
    "not initialised": (lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, CLASSES)), "0.weight.*initialised"),
    "nan weight": (lambda: with_weight(float("nan")), "weights are not finite: 0.weight holds NaN or infinity"),
    "infinite weight": (lambda: with_weight(float("-inf")), "weights are not finite: 0.weight"),
    "one column": (lambda: nn.Linear(4, 1), r"at least 2 classes; for 4 samples it returned \(4, 1\)"),
    "flat": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), r"returned \(4,\)"),
    "per pixel": (lambda: nn.Sequential(mlp(), nn.Unflatten(1, (CLASSES, 1, 1))), r"returned \(4, 5, 1, 1\)"),
    "rows lost": (lambda: Custom(lambda m, h: m.head(h)[:1]), r"for 4 samples it returned \(1, 5\)"),
    "classes only": (lambda: Custom(lambda m, h: m.head(h) > 0), r"of torch.bool"),
    "pair": (lambda: Custom(lambda m, h: (m.head(h), h)), "must return a tensor of logits.*returned tuple"),
    "dict": (lambda: Custom(lambda m, h: {"out": m.head(h)}), "returned dict"),
    "nothing": (lambda: Custom(lambda m, h: None), "returned NoneType"),
    "softmax": (lambda: nn.Sequential(mlp(), nn.Softmax(1)), "probabilities .each row sums to 1.*before softmax"),
    "softmax in half precision": (lambda: nn.Sequential(mlp(), nn.Softmax(1)).bfloat16(), "probabilities"),
    "nan logits": (lambda: Custom(lambda m, h: m.head(h) * torch.nan), "NaN or infinite logits"),
    "infinite logits": (lambda: Overflow(-9.0), "NaN or infinite logits"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused_in_one_line(name: str) -> None:
    """What was expected, what came and how to fix it, in a ModelError of one line."""
    make, message = BAD_MODELS[name]
    with pytest.raises(ModelError, match=message) as caught:
        Target(make(), samples(4))
    assert "\n" not in str(caught.value)


def test_infinite_logits_of_a_later_sample_are_found_when_it_is_asked() -> None:
    """The first samples are looked at at once, the others as they are run; the sample is named."""
    x, y = samples(4)
    x[9, 0] = 99.0
    target = Target(seeded(lambda: Overflow(50.0)), (x, y), batch_size=5)
    with pytest.raises(ModelError, match="NaN or infinite logits for sample 9 of the dataset"):
        target.logits()


class Counting(nn.Module):
    """A model with a state: a buffer or an attribute that grows, from some call on, and may shift its logits."""

    def __init__(self, *, buffer: bool, shifts: bool, after: int = 0) -> None:
        super().__init__()
        self.head, self.shifts, self.after, self.called = nn.Linear(4, CLASSES), shifts, after, 0
        if buffer:
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        if hasattr(self, "calls"):
            self.calls += 1
        late = max(self.called - self.after, 0)
        return self.head(x) + late * self.shifts * torch.arange(CLASSES)


UNSTEADY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout left on": (
        lambda: Custom(lambda m, h: m.head(F.dropout(h, 0.5, training=True))),
        r"other logits when it is asked again: .*F\.dropout without training=self\.training.*\(sample \d: logits",
    ),
    "noise": (lambda: Custom(lambda m, h: m.head(h + torch.randn_like(h))), "other logits when it is asked again"),
    "counter in a buffer": (lambda: Counting(buffer=True, shifts=False), "its buffer calls is another after a call"),
    "logits of a counter": (lambda: Counting(buffer=False, shifts=True), "keeps a state between calls"),
    "batch statistics": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, CLASSES)),
        "depend on the other samples of its batch: .*BatchNorm with track_running_stats=False",
    ),
    "batch norm in training": (
        lambda: Custom(lambda m, h: m.head(F.batch_norm(h, torch.zeros(8), torch.ones(8), training=True))),
        "depend on the other samples of its batch",
    ),
    "running statistics that run on": (lambda: Running(), "its buffer norm.running_mean is another after a call"),
    "centred on the batch": (lambda: Custom(lambda m, h: m.head(h - h.mean(0))), "depend on the other samples"),
}


class Running(nn.Module):
    """Batch normalisation that is always in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.training = True
        return self.head(self.norm(x))


@pytest.mark.parametrize("name", UNSTEADY)
def test_a_model_that_is_no_function_of_the_sample_is_refused(name: str) -> None:
    """Chance, state and company in the batch: each is named with what to do, before anything is measured."""
    make, message = UNSTEADY[name]
    model = seeded(make)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=message) as caught:
        Target(model, samples(4))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_model_that_changes_later_is_found_by_the_pass_that_it_changes_in() -> None:
    """A state that shows only after some calls: the first samples are asked again at the end of every pass."""
    for used in (
        lambda target: [target.logits() for _ in range(3)],
        lambda target: [factor_table(target, names=["margin"]) for _ in range(3)],
    ):
        target = Target(seeded(lambda: Counting(buffer=False, shifts=True, after=6)), samples(4), batch_size=3)
        with pytest.raises(ModelError, match="first samples of the dataset after it has run on all of them"):
            used(target)


def test_what_is_filled_in_at_the_first_call_is_no_state() -> None:
    """Tables of positions are often made when they are first needed."""

    def lazy(m: Custom, h: Tensor) -> Tensor:
        if not hasattr(m, "table"):
            m.register_buffer("table", torch.ones(8))
        return m.head(h * m.table)

    assert Target(seeded(lambda: Custom(lazy)), samples(4)).num_classes == CLASSES


@pytest.mark.parametrize("error", [ValueError("odd\nvalue"), MemoryError("too much")])
def test_a_batch_that_the_model_fails_on_is_named(error: Exception) -> None:
    """Also where factors are computed, in the order of content; memory has a remedy of its own."""

    def picky(m: Custom, h: Tensor) -> Tensor:
        if bool((h > 90).any()):
            raise error
        return m.head(h)

    x, y = samples(4)
    x[9] = 999.0
    for named, used in (
        ("5 to 9", lambda t: t.logits()),
        ("5 to 9", lambda t: t.features()),
        (r"[\d, ]*\b9\b[\w ,]*", lambda t: factor_table(t, names=["margin"])),
    ):
        target = Target(seeded(lambda: Custom(picky)), (x, y), batch_size=5)
        with pytest.raises(
            ModelError, match=f"raised {type(error).__name__} for samples {named} of the dataset"
        ) as caught:
            used(target)
        assert ("batch_size" in str(caught.value)) == isinstance(error, MemoryError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Custom(lambda m, h: torch.relu(m.head(h))),
        lambda: Custom(lambda m, h: m.head(h).sigmoid()),
        lambda: Custom(lambda m, h: m.head(h).log_softmax(1)),
        lambda: Custom(lambda m, h: m.head(h) - m.head(h).mean(1, keepdim=True) + 1 / CLASSES),
    ],
)
def test_outputs_that_only_look_like_probabilities_pass(make: Callable[[], nn.Module]) -> None:
    """Not negative, or rows that sum to one, but not both: these are used as logits."""
    assert Target(seeded(make), samples(4)).num_classes == CLASSES


def test_a_mask_of_minus_infinity_is_no_broken_weight() -> None:
    """Attention masks are kept as buffers with -inf in them; only NaN is refused there."""
    model = seeded(mlp)
    model.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    assert Target(model, samples(4)).num_classes == CLASSES
    model.mask[0, 0] = float("nan")
    with pytest.raises(ModelError, match="mask holds NaN"):
        Target(model, samples(4))


BAD_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "another width": (lambda: samples(3), r"cannot take the dataset's inputs: a batch of shape \(4, 3\).*RuntimeError"),
    "images": (lambda: samples(1, 4, 4), r"a batch of shape \(4, 1, 4, 4\)|returned"),
    "bytes": (lambda: (torch.zeros(5, 4, dtype=torch.uint8), samples(n=5)[1]), r"shape \(4, 4\) of torch.uint8"),
    "two inputs": (lambda: ((samples(4)[0], samples(4)[0]), samples()[1]), r"shape \(4, 4\) of .* and \(4, 4\) of"),
    "unknown keyword": (lambda: ({"pixels": samples(4)[0]}, samples()[1]), "unexpected keyword argument 'pixels'"),
    "label too high": (
        lambda: (samples(4)[0], samples()[1] + 3),
        "the dataset: labels must be below the model's 5 classes; item 2 has label 5",
    ),
    "empty": (lambda: samples(4, n=0), "is empty"),
    "nan": (lambda: (samples(4)[0] * torch.nan, samples()[1]), r"NaN or infinite inputs in 12 item\(s\)"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_does_not_fit_the_model_is_refused_in_one_line(name: str) -> None:
    """Shape, type, structure and labels, for training and held-out data alike."""
    make, message = BAD_DATA[name]
    with pytest.raises((DatasetError, ModelError), match=message) as caught:
        Target(seeded(mlp), make())
    assert "\n" not in str(caught.value)
    with pytest.raises((DatasetError, ModelError), match=message.replace("the dataset", "the held-out dataset")):
        Target(seeded(mlp), samples(4), heldout=make())


def test_the_error_of_a_model_is_quoted_in_one_line() -> None:
    """Whatever the model raises on the first batch, its first line is passed on."""

    def fails(m: Custom, h: Tensor) -> Tensor:
        raise ValueError("\nno such layer\nat all")

    with pytest.raises(DatasetError, match="raised ValueError: no such layer") as caught:
        Target(seeded(lambda: Custom(fails)), samples(4))
    assert "\n" not in str(caught.value)


def test_the_batch_size_must_be_positive() -> None:
    """No batch holds less than one sample."""
    for size in (0, -3, 2.5):
        with pytest.raises(ValueError, match="batch_size"):
            Target(seeded(mlp), samples(4), batch_size=size)


def test_frozen_copies_share_nothing_with_the_model() -> None:
    """A copy of its own, also of the buffers."""
    model = user_model()
    copied = frozen_copy(model)
    pointers = {value.data_ptr() for value in model.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in copied.state_dict().values()}
    assert_same(
        [value for _, value in sorted(copied.state_dict().items())],
        [value for _, value in sorted(model.state_dict().items())],
    )


def test_logits_of_any_data() -> None:
    """Other data than the training data may be asked about, in its own order."""
    target = Target(seeded(mlp), samples(4))
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(target.logits(Data((x, torch.zeros(7).long()))), seeded(mlp)(x), atol=1e-6)


@pytest.fixture(autouse=True)
def _no_gradients_left_on() -> Iterator[None]:
    """No test or target leaves gradients switched off."""
    yield
    assert torch.is_grad_enabled()


def test_a_sent_target_is_the_same_and_has_its_weights_once() -> None:
    """Parameters and head of the copy are views of its module, as those of the original are."""
    x, y = torch.randn(12, 300), torch.arange(12) % 3
    made = Target(nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 3)), (x, y))
    weights = sum(value.nbytes for value in made.params.values())
    assert len(pickle.dumps(made)) < 1.1 * weights
    sent = copy.deepcopy(made)
    assert sent.model_hash == made.model_hash
    assert torch.equal(sent.logits(), made.logits())
    assert sent.head is not None
    assert sent.head.name == "2"
    for name, value in sent.module.named_parameters():
        assert sent.params[name].data_ptr() == value.data_ptr() != made.params[name].data_ptr()
    assert sent.head.weight.data_ptr() == sent.params["2.weight"].data_ptr()
    convolution = nn.Sequential(nn.Conv1d(1, 3, 4), nn.Flatten())
    assert copy.deepcopy(Target(convolution, (torch.randn(5, 1, 4), torch.arange(5) % 3))).head is None
