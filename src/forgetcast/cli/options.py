"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from forgetcast.errors import FileFormatError, IndexRangeError, InputError

if TYPE_CHECKING:
    from forgetcast.corpus.corpus import Corpus
    from forgetcast.predict import DifficultyReport
    from forgetcast.predictor.predictor import DifficultyPredictor

__all__ = [
    "FILE",
    "FOLDER",
    "OBJECTIVES",
    "corpus_option",
    "forecast",
    "forecast_inputs",
    "forecast_options",
    "parse_indices",
    "queue_options",
    "quiet_option",
    "read_corpora",
    "read_predictor",
]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
OBJECTIVES = click.Choice(["retrain", "erase", "both"])
MOST_INDICES = 10_000_000

quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress bars.")

PUBLISHED = "published"

corpus_option = click.option(
    "--corpus",
    "corpora",
    metavar="FOLDER",
    multiple=True,
    required=True,
    help="A folder or URL filled by 'forgetcast generate', or the word 'published'; may be repeated.",
)


def read_corpora(names: Sequence[str]) -> list[Corpus]:
    """The corpora in these folders, and the published one for its word (a folder of that name is ``./published``)."""
    from forgetcast.corpus.corpus import Corpus

    found = [Corpus.published() if name == PUBLISHED else Corpus.read(name) for name in names]
    for name, corpus in zip(names, found, strict=True):
        if "partial" in corpus.manifest:
            click.echo(f"note: {name} is partial, {corpus.manifest['partial']}", err=True)
    return found


def read_predictor(name: str) -> DifficultyPredictor:
    """The predictor in this folder, or the published one for its word."""
    from forgetcast.predictor.predictor import DifficultyPredictor

    return DifficultyPredictor.published() if name == PUBLISHED else DifficultyPredictor.load(name)


_OBJECTIVE_HELP = "retrain: as if never trained on it; erase: no longer recognised."

_FORECAST = (
    click.option("--model", metavar="MODULE:FACTORY", help="Makes the model; takes no arguments."),
    click.option("--weights", type=FILE, help="A .safetensors file, or a state dict saved by torch.save."),
    click.option(
        "--dataset",
        metavar="DATASET",
        help="Training data: MODULE:FACTORY, a .npz, .parquet or .csv file, or a built-in name.",
    ),
    click.option("--heldout", metavar="DATASET", help="Data of the same kind that the model was not trained on."),
    click.option(
        "--target",
        metavar="MODULE:FACTORY",
        help="Makes a forgetcast.Target, which has model and data, in place of the options above.",
    ),
    click.option(
        "--checkpoints",
        metavar="PATTERN",
        help="Weights saved during training, such as 'run/epoch-*.safetensors'; 2 comes before 10.",
    ),
    click.option("--predictor", type=FOLDER, help="Made by 'forgetcast train'; default: the shipped one."),
    click.option(
        "--factors",
        type=FOLDER,
        help="Keep the factors of all samples in this folder, or use them if it has those of this model and data.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True),
    click.option("--seed", type=int, default=0, show_default=True),
    quiet_option,
)


def _with_forecast(command: Command, objectives: click.Choice[str]) -> Command:
    for option in reversed(_FORECAST):
        command = option(command)
    wanted = click.option("--objective", type=objectives, default="retrain", show_default=True, help=_OBJECTIVE_HELP)
    return wanted(command)


def forecast_options(command: Command) -> Command:
    """Add the options that :func:`forecast` and :func:`forecast_inputs` read."""
    return _with_forecast(command, OBJECTIVES)


def queue_options(command: Command) -> Command:
    """The same for a queue of requests, which is screened for one objective."""
    return _with_forecast(command, click.Choice(["retrain", "erase"]))


def forecast(
    *,
    objective: Literal["retrain", "erase", "both"],
    indices: list[int] | None,
    calibrate: int = 0,
    jobs: int | None = None,
    **inputs: Any,
) -> DifficultyReport:
    """Load what the options name and predict; every error is a ForgetcastError."""
    from forgetcast.predict import predict_difficulty

    loaded = forecast_inputs(**inputs)
    subject = loaded.pop("model")
    return predict_difficulty(subject, **loaded, indices=indices, objective=objective, calibrate=calibrate, n_jobs=jobs)


def forecast_inputs(
    *,
    model: str | None,
    weights: Path | None,
    dataset: str | None,
    heldout: str | None,
    target: str | None,
    checkpoints: str | None,
    predictor: Path | None,
    factors: Path | None,
    batch_size: int,
    seed: int,
    quiet: bool,
) -> dict[str, Any]:
    """What the options name, loaded: keyword arguments of ``predict_difficulty`` and ``triage``.

    With ``--factors`` the model is a ``Target`` and its factor table is there, read from the folder or computed.
    """
    from forgetcast.adapters.loading import load_checkpoints, load_dataset, load_model, load_target
    from forgetcast.predict import needed_factors, target_of
    from forgetcast.predictor.predictor import DifficultyPredictor

    pieces = {"--model": model, "--weights": weights, "--dataset": dataset, "--heldout": heldout}
    given = [name for name, value in {**pieces, "--checkpoints": checkpoints}.items() if value is not None]
    if target is not None:
        if given:
            raise InputError(f"--target brings its model and data: leave out {', '.join(given)}")
        subject: Any = load_target(target)
    elif model is not None and dataset is not None:
        subject = load_model(model, weights)
    else:
        raise InputError("expected --model and --dataset, or --target")
    fitted = DifficultyPredictor.published() if predictor is None else DifficultyPredictor.load(predictor)
    inputs: dict[str, Any] = {
        "model": subject,
        "dataset": None if dataset is None else load_dataset(dataset),
        "heldout": None if heldout is None else load_dataset(heldout, heldout=True),
        "trajectory": None if checkpoints is None else load_checkpoints(checkpoints),
        "batch_size": batch_size,
    }
    if factors is not None:
        from forgetcast.factors.store import factors_of

        whole = target_of(**inputs, collate_fn=None)
        table = factors_of(
            whole,
            needed_factors(fitted),
            factors,
            seed=seed,
            progress=not quiet,
            say=lambda text: click.echo(f"note: {text}", err=True),
        )
        inputs = {"model": whole, "factors": table}
    return inputs | {"predictor": fitted, "seed": seed, "progress": not quiet}


def _names_file(text: str) -> bool:
    """Whether text names a file; a long list of numbers is no name that could."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def parse_indices(text: str) -> list[int]:
    """Sample indices from ``3,17,100-120``, or from a file of such text (commas or white space between).

    Raises:
        IndexRangeError: not numbers and ranges, a range that runs backwards, or too many.
        FileFormatError: the file is not text.

    >>> parse_indices("3,17,100-102")
    [3, 17, 100, 101, 102]
    """
    from forgetcast.files.foreign import read_bytes

    source = repr(text)
    if _names_file(text):
        source = text
        try:
            text = read_bytes(Path(text), "indices").decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFormatError(f"{source}: expected a text file of sample indices") from error
    indices: list[int] = []
    for part in re.split(r"[,\s]+", text.strip(", \t\r\n")):
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part, re.ASCII)
        if match is None:
            raise IndexRangeError(
                f"indices {source}: expected numbers and ranges such as 3,17,100-120, or a file; got {part!r}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise IndexRangeError(f"indices {source}: the range {part} runs backwards")
        if len(indices) + last - first >= MOST_INDICES:
            raise IndexRangeError(f"indices {source}: more than {MOST_INDICES:,} samples")
        indices.extend(range(first, last + 1))
    return indices
