"""Models whose gradients are easily mistaken: what computes, shares, moves, hides or freezes parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

WIDTH, CLASSES = 6, 3


class Block(nn.Module):
    """A hidden layer with something of interest in it, between two plain ones."""

    def __init__(self, inner: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.enter, self.inner, self.head = nn.Linear(WIDTH, 8), inner, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.enter(x)))))


def changed(change: Callable[[nn.Module], object]) -> nn.Module:
    """A block whose inner linear layer was changed."""
    layer = nn.Linear(8, 8)
    change(layer)
    return Block(layer)


def pruned_everywhere() -> nn.Module:
    model = Block(nn.Linear(8, 8))
    for layer in (model.enter, model.inner, model.head):
        prune.random_unstructured(layer, "weight", 0.5)
    prune.l1_unstructured(model.inner, "bias", 0.5)
    return model


class Softplus(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return F.softplus(w)


class Reused(Block):
    """A weight that is used again by plain matrix product."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        return self.head(torch.tanh(self.inner(h) + F.linear(h, self.inner.weight.T)))


class TiedTable(nn.Module):
    """A table of tokens that also makes scores (b, t, vocabulary), as language models do."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(9, 8, sparse=sparse), nn.Linear(8, 8), nn.Linear(9, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.tanh(self.mix(self.words(tokens)))
        return self.head((h @ self.words.weight.T).mean(1))


class Shared(nn.Module):
    """One parameter registered under two modules of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH), nn.Linear(8, CLASSES)
        self.norm = nn.LayerNorm(8)
        self.norm.bias = self.enter.bias

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.enter(x)))
        return self.head(torch.tanh(self.enter(self.again(h))))


class Keyword(Block):
    """A layer that is called by position and then by keyword."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(torch.tanh(self.enter(x))))
        return self.head(torch.tanh(self.inner(input=h)))


class Sorted(nn.Module):
    """Rows are sorted by expert, run through a layer that all share and their expert's, and put back."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.router, self.common = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 8)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)
        with torch.no_grad():
            self.router.bias[0] += bias

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(1)
        chosen = gate.argmax(1)
        order = chosen.argsort(stable=True)
        h = torch.tanh(self.common(x[order]))
        parts = h.split(torch.bincount(chosen, minlength=3).tolist())
        out = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return self.head(torch.tanh(out[order.argsort()]) * gate.amax(1, keepdim=True))


class Masked(Sorted):
    """Every expert sees the rows that chose it."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.common(x))
        chosen = self.router(x).argmax(1)
        out = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                out[mine] = expert(h[mine])
        return self.head(torch.tanh(out))


class Slots(nn.Module):
    """Rows go to slots of experts by one-hot products; an expert has as many slots as the batch has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(WIDTH, 2), nn.Linear(8, CLASSES)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(1)
        mine = F.one_hot(gate.argmax(1), 2).to(x)
        slot = F.one_hot((mine.cumsum(0) - 1).clamp(min=0).long(), len(x)).to(x) * mine[..., None]
        sent = torch.einsum("bes,bd->esd", slot, x)
        back = torch.stack([expert(part) for expert, part in zip(self.experts, sent, strict=True)])
        return self.head(torch.tanh(torch.einsum("bes,esd->bd", slot * gate[..., None], back)))


class Packed(nn.Module):
    """Padding (0) is dropped before the layer and put back behind it; the shortest text has one token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 8, padding_idx=0), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        there = tokens != 0
        out = torch.zeros(*tokens.shape, 8, dtype=self.inner.weight.dtype)
        out[there] = torch.tanh(self.inner(self.words(tokens[there])))
        return self.head(out.sum(1))


class Windows(nn.Module):
    """Positions are folded into the batch; with one position that is the batch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows, positions, _ = x.shape
        h = torch.tanh(self.inner(x.reshape(-1, WIDTH)))
        return self.head(h.reshape(positions, rows, 8).mean(0) if positions == 1 else h.reshape(rows, -1, 8).mean(1))


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.head = layer(WIDTH, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(0, 1))[0][-1])


class TimeFirst(nn.Module):
    """Layers that see (t, b, width) and, in another call, (b, t, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.inner(x.transpose(0, 1)))).transpose(0, 1)
        return self.head(torch.tanh(self.inner(h)).mean(1))


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(WIDTH, WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pair(x, x.flip(1))))


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 8), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(tokens)))


class Shapes(Block):
    """Parameters of shape (), (0,), (1,) and (3, 0), one that is not used and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8))
        self.gain, self.shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor([0.1]))
        self.none, self.empty = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(3, 0))
        self.idle = nn.Parameter(torch.ones(2, 2))
        self.count = nn.Parameter(torch.tensor([2]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        h = h + self.gain * torch.tanh(self.inner(h)) + self.shift + self.none.sum() + self.empty.sum()
        return self.head(h * self.count)


class LowRank(nn.Module):
    """A frozen linear layer with two small trainable ones beside it (LoRA, Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 2, modules: bool = True) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        if modules:
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        else:
            self.a = nn.Parameter(torch.randn(rank, base.in_features) / 2)
            self.b = nn.Parameter(torch.randn(base.out_features, rank) / 2)
        self.modular = modules

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (self.up(self.down(x)) if self.modular else x @ self.a.T @ self.b.T)


def adapted(modules: bool) -> nn.Module:
    model = Block(LowRank(nn.Linear(8, 8), modules=modules))
    model.enter.requires_grad_(False)
    return model


class Cut(Block):
    """A branch without gradient, by detaching or by running it without gradients."""

    def __init__(self, how: str) -> None:
        super().__init__(nn.Linear(8, 8))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        if self.how == "detached":
            side = self.inner(h).detach()
        else:
            with torch.no_grad():
                side = self.inner(h)
        return self.head(torch.tanh(h + side))


def bias_only() -> nn.Module:
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, CLASSES)
    )
    for name, value in model.named_parameters():
        value.requires_grad_(name.endswith("bias"))
    return nn.Sequential(nn.Unflatten(1, (1, WIDTH)), model)


def weight_only() -> nn.Module:
    model = Block(nn.LayerNorm(8))
    for name, value in model.named_parameters():
        value.requires_grad_(name.endswith("weight"))
    return model


def frozen(model: nn.Module, part: str) -> nn.Module:
    """The model with one part frozen."""
    model.get_submodule(part).requires_grad_(False)
    return model


class Straight(nn.Module):
    """A layer whose forward hook or pre-hook does more than look."""

    def __new__(cls, before: bool) -> nn.Module:  # type: ignore[misc]
        def change(layer: nn.Module) -> None:
            if before:
                layer.register_forward_pre_hook(lambda self, args: (args[0] * self.weight.mean(0),))
            else:
                layer.register_forward_hook(lambda _m, _args, out: out * out)

        return changed(change)


def old(norm: Callable[[nn.Module], object]) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return changed(norm)


SEQUENCES = ("recurrent", "time first", "windows", "attention", "one position")

HAZARDS: dict[str, Callable[[], nn.Module]] = {
    "pruned": lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.6)),
    "pruned everywhere": pruned_everywhere,
    "weight norm": lambda: changed(parametrizations.weight_norm),
    "spectral norm": lambda: changed(parametrizations.spectral_norm),
    "orthogonal": lambda: changed(parametrizations.orthogonal),
    "parametrization of one's own": lambda: changed(
        lambda layer: parametrize.register_parametrization(layer, "bias", Softplus())
    ),
    "older weight norm": lambda: old(nn.utils.weight_norm),
    "older spectral norm": lambda: old(nn.utils.spectral_norm),
    "weight used again": Reused,
    "tokens: tied table": TiedTable,
    "tokens: sparse tied table": lambda: TiedTable(sparse=True),
    "parameter of two modules": Shared,
    "called by keyword": Keyword,
    "rows sorted by expert": Sorted,
    "rows sorted, one expert rare": lambda: Sorted(1.0),
    "rows chosen by mask": Masked,
    "rows chosen by mask, one expert rare": lambda: Masked(1.0),
    "rows sent to slots": Slots,
    "tokens: packed": Packed,
    "windows": Windows,
    "one position": Windows,
    "recurrent": lambda: Recurrent(nn.GRU),
    "recurrent, LSTM": lambda: Recurrent(nn.LSTM),
    "time first": TimeFirst,
    "bilinear": Pairs,
    "tokens: bags": Bags,
    "transposed convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.ConvTranspose1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES)
    ),
    "shapes": Shapes,
    "hook changes the output": lambda: Straight(before=False),
    "hook changes the input": lambda: Straight(before=True),
    "low rank, as layers": lambda: adapted(modules=True),
    "low rank, as parameters": lambda: adapted(modules=False),
    "detached": lambda: Cut("detached"),
    "without gradients": lambda: Cut("without"),
    "biases alone": bias_only,
    "weights alone": weight_only,
    "frozen body": lambda: frozen(frozen(Block(nn.LayerNorm(8)), "enter"), "inner"),
    "frozen head": lambda: frozen(Block(nn.Linear(8, 8)), "head"),
    "tokens: frozen table": lambda: frozen(Packed(), "words"),
}


def inputs(case: str, n: int) -> Tensor:
    """Inputs (n, ...) of the case."""
    generator = torch.Generator().manual_seed(7)
    if case.startswith("tokens"):
        tokens = torch.randint(1, 9, (n, 5), generator=generator)
        length = torch.randint(1, 6, (n,), generator=generator)
        return tokens.masked_fill(torch.arange(5) >= length[:, None], 0) if "packed" in case else tokens
    if case.startswith(SEQUENCES):
        return torch.randn(n, 1 if case == "one position" else 4, WIDTH, generator=generator)
    return torch.randn(n, WIDTH, generator=generator)
