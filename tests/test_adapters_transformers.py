"""Models of transformers, made small and not downloaded, become targets that are forecast, unlearned and retrained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from forgetcast import predict_difficulty
from forgetcast._torchvision import torchvision
from forgetcast.adapters import from_transformers
from forgetcast.errors import DatasetError, InputError, ModelError, NotApplicableError
from forgetcast.generate import measure
from forgetcast.target import Target

torchvision()
transformers = import_module("transformers")

WORDS = ("<pad>", "<unk>", "good", "bad", "odd", "film", "book", "song", "very", "quite", "a", "the")
LABELS = ("good", "bad", "odd")
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3,
}  # fmt: skip
TEXT: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 0}


def bert() -> Any:
    """An encoder with a pooled first token."""
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **TEXT))


def distilbert() -> Any:
    """An encoder that takes no token types."""
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "num_labels": 3}
    return transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**sizes, **TEXT))


def gpt2() -> Any:
    """A decoder that reads the class off the last token."""
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config)


def llama() -> Any:
    """Another one, with rotary positions."""
    return transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**SIZES, **TEXT, num_key_value_heads=2))


def vit() -> Any:
    """Attention over patches."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=4, **SIZES))


def resnet() -> Any:
    """Convolutions with batch normalisation."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))


def tokenizer() -> Any:
    """A fast tokenizer that knows the words above."""
    from tokenizers import Tokenizer as Made
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Made(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")


def texts(n: int = 60) -> list[dict[str, Any]]:
    """Sentences of several lengths with the word that decides; the first labels are wrong."""
    rows = []
    for number in range(n):
        label = number % 3
        words = ["the", "quite", *["very"] * (number % 4), LABELS[label], WORDS[5 + number % 3]]
        rows.append({"text": " ".join(words), "label": (label + (number < 3)) % 3, "source": "made up"})
    return rows


def images(n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise around a brightness that decides, (n, 16, 16, 3) in 0-255."""
    y = np.arange(n) % 3
    x = np.random.default_rng(0).integers(0, 60, (n, 16, 16, 3)) + 80 * y[:, None, None, None]
    return x.astype(np.uint8), y


def fitted(model: Any, x: dict[str, Tensor], y: Tensor, steps: int = 20) -> Any:
    """The model after a few steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**x, labels=y).loss.backward()
        optimizer.step()
    return model


def sentence_model(make: Callable[[], Any]) -> Any:
    """A text model fitted to the sentences."""
    torch.manual_seed(0)
    rows, model = texts(), make()
    x = dict(tokenizer()([row["text"] for row in rows], padding=True, return_tensors="pt"))
    if make is distilbert:
        x.pop("token_type_ids", None)
    return fitted(model, x, torch.tensor([row["label"] for row in rows]))


@pytest.fixture(autouse=True)
def _no_batching_rule_is_missing(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Attention runs in a form that torch differentiates for many samples at once."""
    yield
    assert not [one for one in recwarn if "batching rule" in str(one.message)]


@pytest.mark.parametrize("make", [bert, distilbert, gpt2, llama], ids=lambda make: make.__name__)
def test_a_sequence_classifier_is_forecast(make: Callable[[], Any]) -> None:
    """Logits are the model's own, the last layer is found, every sample is forecast, and the model stays as it was."""
    model = sentence_model(make)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, words = texts(), tokenizer()
    target = from_transformers(model, rows, tokenizer=words, heldout=texts(12))
    assert (len(target), target.num_classes, target.name) == (60, 3, model.config.model_type)
    assert target.info["architecture"] == model.config.model_type
    assert target.head is not None
    assert set(target.params) <= set(dict(model.named_parameters()))
    model.eval()
    alone = words([rows[7]["text"]], return_tensors="pt")  # without padding
    with torch.no_grad():
        own = model(**{name: value for name, value in alone.items() if name != "token_type_ids"}).logits
    torch.testing.assert_close(target.logits()[7:8], own, rtol=1e-3, atol=1e-3)
    report = predict_difficulty(target)
    assert report.table["index"].nunique() == 60
    assert not {"gradient_norm", "entanglement", "self_influence"} & set(report.factors.not_applicable)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("make", [vit, resnet], ids=lambda make: make.__name__)
def test_an_image_classifier_is_forecast(make: Callable[[], Any]) -> None:
    """With inputs made by hand, as (inputs, labels); image factors apply."""
    torch.manual_seed(0)
    x, y = images()
    pixels = {"pixel_values": torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255}
    model = fitted(make(), pixels, torch.from_numpy(y))
    target = from_transformers(model, (pixels, y))
    report = predict_difficulty(target)
    assert report.table["index"].nunique() == len(y)
    assert not {"boundary_distance", "entanglement"} & set(report.factors.not_applicable)


def test_an_image_processor_makes_the_inputs() -> None:
    """Rows with pictures, as image datasets have them."""
    from PIL import Image

    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    x, y = images(12)
    rows = [{"image": Image.fromarray(one), "label": int(label)} for one, label in zip(x, y, strict=True)]
    model = vit()
    target = from_transformers(model, rows, image_processor=processor, heldout=rows[:3])
    made = processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(target.data.fetch([5])[0]["pixel_values"], made[5:6])
    assert target.labels.tolist() == y.tolist()


class Rows(Dataset):
    """Map-style rows, as ``datasets.Dataset`` has them: by number, not iterable beyond their end."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def test_rows_come_in_any_container() -> None:
    """A list, a dataset, a table, columns; labels as numbers or as names; pairs of sentences."""
    torch.manual_seed(0)
    model, words, rows = bert(), tokenizer(), texts(9)
    model.config.label2id = {name: number for number, name in enumerate(LABELS)}
    named = [row | {"label": LABELS[row["label"]]} for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    expected = from_transformers(model, rows, tokenizer=words)
    for data in (Rows(rows), pd.DataFrame(rows), columns, named):
        other = from_transformers(model, data, tokenizer=words)
        assert other.data_hash == expected.data_hash
    pairs = [{"a": row["text"], "b": "a film", "y": row["label"]} for row in rows]
    both = from_transformers(model, pairs, tokenizer=words, text=("a", "b"), label="y", max_length=9)
    assert both.data.fetch([0])[0]["input_ids"].shape == (1, 9)


def test_rows_that_are_inputs_already_are_read_as_needed() -> None:
    """Without a tokenizer the columns that the model takes are used, whatever else there is."""
    torch.manual_seed(0)
    rows = [
        {"input_ids": [2 + k % 3, 5, 9], "attention_mask": [1, 1, 1], "label": k % 3, "text": "?"} for k in range(9)
    ]
    target = from_transformers(distilbert(), Rows(rows))
    x, _ = target.data.fetch([1])
    assert {name: value.tolist() for name, value in x.items()} == {
        "input_ids": [[3, 5, 9]],
        "attention_mask": [[1] * 3],
    }
    with pytest.raises(DatasetError, match="no column of text, label is an input of the model"):
        from_transformers(distilbert(), Rows([{"text": "a film", "label": 0}]))


def train_again(indices: np.ndarray, seed: int) -> nn.Module:
    """A decoder trained on some of the sentences."""
    torch.manual_seed(seed)
    rows = [texts()[index] for index in indices.tolist()]
    x = dict(tokenizer()([row["text"] for row in rows], padding=True, return_tensors="pt"))
    x.pop("token_type_ids", None)
    return fitted(gpt2(), x, torch.tensor([row["label"] for row in rows]), steps=5)


def test_it_is_unlearned_and_retrained() -> None:
    """Measured like any other; models that train() returns are taken in the same form."""
    target = from_transformers(
        sentence_model(gpt2), texts(), tokenizer=tokenizer(), heldout=texts(12), train=train_again
    )
    outcomes, _ = measure(target, [0, 7], unlearners=["gradient_ascent"], objectives=["erase"], progress=False)
    assert outcomes["reached"].all()
    again = target.train(np.arange(30), seed=1)
    assert set(dict(again.named_parameters())) == set(target.params)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was expected."""
    model, words = bert(), tokenizer()
    with pytest.raises(ModelError, match=r"expected a transformers\.PreTrainedModel; got Linear"):
        from_transformers(nn.Linear(2, 2), texts(), tokenizer=words)
    with pytest.raises(InputError, match="got both"):
        from_transformers(model, texts(), tokenizer=words, image_processor=words)
    with pytest.raises(DatasetError, match="a column 'sentence'; got text, label, source"):
        from_transformers(model, texts(), tokenizer=words, text="sentence")
    with pytest.raises(DatasetError, match="label 'fine': expected one of LABEL_0"):
        from_transformers(model, [{"text": "a film", "label": "fine"}], tokenizer=words)
    with pytest.raises(DatasetError, match="columns of one length"):
        from_transformers(model, {"text": ["a"], "label": [0, 1]}, tokenizer=words)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ModelError, match="for multi label classification"):
        from_transformers(model, texts(), tokenizer=words)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NotApplicableError, match=r"pip install 'forgetcast\[transformers\]'"):
        from_transformers(model, texts(), tokenizer=words)


def test_a_target_needs_no_adapter() -> None:
    """The model by itself is taken by Target too, on inputs that are made already."""
    torch.manual_seed(0)
    model = bert()
    model.set_attn_implementation("eager")
    x = {"input_ids": torch.randint(1, len(WORDS), (9, 5))}
    assert Target(model, (x, torch.arange(9) % 3)).head is not None
