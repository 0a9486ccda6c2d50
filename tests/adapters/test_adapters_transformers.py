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
from forgetcast.adapters import from_transformers
from forgetcast.corpus.measuring import measure
from forgetcast.errors import DatasetError, InputError, ModelError, NotApplicableError
from forgetcast.target.target import Target

pytestmark = pytest.mark.slow

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
    others = [{"image": Image.fromarray(255 - one), "label": 0} for one in x[:3]]
    model = vit()
    target = from_transformers(model, rows, image_processor=processor, heldout=others)
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


# -- what is checked -----------------------------------------------------------------------------------------

NO_TEXT: dict[str, tuple[Any, str]] = {
    "None": (None, "is missing"),
    "NaN": (float("nan"), "is missing"),
    "NA": (pd.NA, "is missing"),
    "NaT": (pd.NaT, "is missing"),
    "a list of words": (["good", "film"], r"is a list, not a string: join its words"),
    "a tuple of words": (("good", "film"), r"is a tuple, not a string"),
    "an array of words": (np.array(["good", "film"]), r"is a ndarray, not a string"),
    "a number": (7, r"is a int, not a string"),
    "bytes": (b"good", r"is a bytes, not a string"),
    "a dict": ({"en": "good"}, r"is a dict, not a string"),
}
FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "rows": lambda rows: rows,
    "dataset": lambda rows: Rows(rows),
    "table": pd.DataFrame,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_refused_by_row(name: str, form: str) -> None:
    """In a single column, in either of a pair, and in held-out rows; never read as 'None' or as a list's print."""
    value, message = NO_TEXT[name]
    rows = texts(5)
    bad = [row | {"text": value} if k == 3 else row for k, row in enumerate(rows)]
    model, words, made = bert(), tokenizer(), FORMS[form]
    with pytest.raises(DatasetError, match=f"row 3 of the dataset: the text in column 'text' {message}") as caught:
        from_transformers(model, made(bad), tokenizer=words)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="row 3 of the held-out dataset: the text in column 'text'"):
        from_transformers(model, made(rows), tokenizer=words, heldout=made(bad))
    pairs = [row | {"title": "a film"} for row in bad]
    for columns in (("title", "text"), ("text", "title")):
        with pytest.raises(DatasetError, match=f"row 3 of the dataset: the text in column 'text' {message}"):
            from_transformers(model, made(pairs), tokenizer=words, text=columns)


LABELS_BAD: dict[str, tuple[Any, str]] = {
    "None": (None, r"the label is missing \(column 'label' holds None\)"),
    "NaN": (float("nan"), "the label is missing"),
    "NA": (pd.NA, "the label is missing"),
    "half": (1.5, r"expected a whole class number in column 'label'; got .*1\.5"),
    "infinity": (float("inf"), "a whole class number"),
    "a truth value": (True, "a whole class number.*True"),
    "a list": ([0, 1], r"a whole class number.*\[0, 1\]"),
    "a number as text": ("1", "label '1': expected one of LABEL_0"),
}


@pytest.mark.parametrize("ready", [False, True], ids=["texts", "inputs"])
@pytest.mark.parametrize("name", LABELS_BAD)
def test_a_label_that_is_no_class_number_is_refused_by_row(name: str, ready: bool) -> None:
    """Cut to an integer it would be another class; whole numbers of any type are taken."""
    value, message = LABELS_BAD[name]
    rows = [{"input_ids": [2 + k, 5], "label": k % 3} if ready else row for k, row in enumerate(texts(6))]
    words = None if ready else tokenizer()
    bad = [row | {"label": value} if k == 4 else row for k, row in enumerate(rows)]
    with pytest.raises(DatasetError, match=f"row 4 of the dataset: .*{message}") as caught:
        from_transformers(bert(), bad, tokenizer=words)
    assert "\n" not in str(caught.value)
    kinds = [int, float, np.int8, np.float32, torch.tensor, np.array]
    whole = [row | {"label": kind(row["label"])} for kind, row in zip(kinds, rows, strict=True)]
    expected = [row["label"] for row in rows]
    assert from_transformers(bert(), whole, tokenizer=words).labels.tolist() == expected


def test_the_column_of_labels_that_is_named_is_the_one_read() -> None:
    """A mistyped name is an error, never another column; without a name 'label' or 'labels' is, if there is one."""
    model, words = bert(), tokenizer()
    rows = [{"text": row["text"], "labels": row["label"], "stars": (row["label"] + 1) % 3} for row in texts(6)]
    assert from_transformers(model, rows, tokenizer=words).labels.tolist() == [row["labels"] for row in rows]
    assert from_transformers(model, rows, tokenizer=words, label="stars").labels.tolist() == [
        row["stars"] for row in rows
    ]
    for label in ("star", "label"):
        with pytest.raises(DatasetError, match=f"a column '{label}'; got text, labels, stars"):
            from_transformers(model, rows, tokenizer=words, label=label)
    both = [row | {"label": 0} for row in rows]
    with pytest.raises(
        DatasetError, match=r"row 0 of the dataset: expected one column of labels; got labels and label"
    ):
        from_transformers(model, both, tokenizer=words)
    assert from_transformers(model, both, tokenizer=words, label="label").labels.tolist() == [0] * 6


# -- lengths -------------------------------------------------------------------------------------------------


def roberta() -> Any:
    """Two of its positions are reserved."""
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SIZES, **TEXT))


def xlm() -> Any:
    """Positions start behind a padding token of another number."""
    sizes = SIZES | TEXT | {"pad_token_id": 3}
    return transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**sizes))


def opt() -> Any:
    """Its table of positions is longer than it says."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "num_labels": 3}
    return transformers.OPTForSequenceClassification(transformers.OPTConfig(**sizes, **TEXT, word_embed_proj_dim=16))


def t5() -> Any:
    """Relative positions: no limit."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "num_labels": 3, "vocab_size": 12}
    return transformers.T5ForSequenceClassification(
        transformers.T5Config(**sizes, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    )


MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "bert": (bert, 16),
    "distilbert": (distilbert, 16),
    "gpt2": (gpt2, 16),
    "llama": (llama, 16),
    "roberta": (roberta, 15),
    "xlm-roberta": (xlm, 12),
    "opt": (opt, 16),
}
"""Each with the most tokens that it takes: rotary positions have no limit but the one that the model was made with."""


@pytest.mark.parametrize("name", MODELS)
def test_texts_are_cut_to_what_the_model_takes(name: str) -> None:
    """Its logits are then its own for the text cut by hand; how many are cut is noted; more cannot be asked for."""
    make, most = MODELS[name]
    torch.manual_seed(0)
    model, words = make().eval(), tokenizer()
    if name == "xlm-roberta":
        words.pad_token = "bad"  # number 3 of the words, as the model has it
    rows = [{"text": " ".join(["good", "film"] * (20 if k in (4, 5) else 1 + k)), "label": k % 3} for k in range(9)]
    target = from_transformers(model, rows, tokenizer=words)
    long = sum(len(row["text"].split()) > most for row in rows)
    assert target.notes == [f"{long} of 9 texts are longer than {most} tokens and cut there"]
    cut = words([" ".join(rows[4]["text"].split()[:most])], return_tensors="pt")
    with torch.no_grad():
        own = model(**{key: value for key, value in cut.items() if key != "token_type_ids"}).logits
    torch.testing.assert_close(target.logits()[4:5], own, rtol=1e-3, atol=1e-4)
    assert (
        from_transformers(model, rows, tokenizer=words, max_length=7)
        .notes[0]
        .endswith("longer than 7 tokens and cut there")
    )
    if name not in ("llama",):
        for rows_of in (rows, rows[:2]):
            with pytest.raises(
                InputError, match=f"max_length: the model takes at most {most} tokens; got 500"
            ) as caught:
                from_transformers(model, rows_of, tokenizer=words, max_length=500)
            assert "\n" not in str(caught.value)
    assert from_transformers(model, rows[:3], tokenizer=words).notes == []


def test_relative_positions_have_no_limit() -> None:
    """Nothing is cut of what the model takes whole."""
    torch.manual_seed(0)
    words = tokenizer()
    rows = [{"text": " ".join(["good", "film"] * (1 + 30 * k)) + " <unk>", "label": k} for k in range(3)]
    target = from_transformers(t5(), rows, tokenizer=words)
    assert target.data.fetch([2])[0]["input_ids"].shape == (1, 123)
    assert target.notes == []


def test_inputs_of_unequal_lengths_are_padded_by_a_collate_function() -> None:
    """The message names it, and it is an argument: the logits are the model's own for each row alone."""
    torch.manual_seed(0)
    model, words = bert().eval(), tokenizer()
    rows = [{**words("good " * (1 + k)), "label": k % 3, "text": "?"} for k in range(9)]
    with pytest.raises(DatasetError, match=r"cannot be made into a batch.*give a collate_fn"):
        from_transformers(model, rows)
    target = from_transformers(
        model, rows[:6], heldout=rows[6:], collate_fn=transformers.DataCollatorWithPadding(words)
    )
    for k, row in enumerate(rows[:6]):
        with torch.no_grad():
            own = model(**words(["good " * (1 + k)], return_tensors="pt")).logits
        torch.testing.assert_close(target.logits()[k : k + 1], own, rtol=1e-3, atol=1e-4)
        assert row["label"] == int(target.labels[k])
    with pytest.raises(InputError, match="collate_fn is for rows that are inputs already"):
        from_transformers(model, texts(), tokenizer=words, collate_fn=list)


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
    model.config.problem_type = None
    for length in (0, -3, 2.5, True):
        with pytest.raises(InputError, match="max_length: expected a positive integer"):
            from_transformers(model, texts(), tokenizer=words, max_length=length)
    with pytest.raises(DatasetError, match="row 1 of the dataset: the tokenizer makes no token of its text"):
        from_transformers(model, [{"text": "film", "label": 0}, {"text": " ", "label": 1}], tokenizer=words)
    with pytest.raises(DatasetError, match=r"rows with a length, by number .*; got generator: make it a list"):
        from_transformers(model, (row for row in texts()), tokenizer=words)
    words.pad_token = None
    with pytest.raises(InputError, match="has no padding token"):
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
