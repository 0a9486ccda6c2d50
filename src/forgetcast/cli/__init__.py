"""The command ``forgetcast``: parse, call, print. One file per command, heavy imports inside it.

Progress goes to standard error, results to standard output or to a file. Exit codes: 0 done; 1 a plugin cannot be
used or breaks a law (``plugins``); 2 bad input (one line on standard error, nothing half-written); 3 the predictor in
place was kept, 4 the new one is worse than one it was compared with (both ``train``); 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from forgetcast.cli.demo import demo
from forgetcast.cli.evaluate import evaluate
from forgetcast.cli.explain import explain
from forgetcast.cli.generate import generate
from forgetcast.cli.inspect import inspect
from forgetcast.cli.plugins import plugins
from forgetcast.cli.predict import predict
from forgetcast.cli.prescreen import prescreen
from forgetcast.cli.streams import AnyText, any_text
from forgetcast.cli.train import train
from forgetcast.cli.verify import verify
from forgetcast.errors import ForgetcastError, ForgetcastWarning

__all__ = ["main"]

BAD_INPUT = 2
INTERRUPTED = 130


class Commands(click.Group):
    """A group that turns every error meant for the user into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit; takes what ``click.Group.main`` takes."""
        kwargs["standalone_mode"] = False
        with any_text() as output:
            code = self._run(*args, **kwargs)
            if output is not None:
                code = _report_lost_output(output, code)
        sys.exit(code)

    def _run(self, *args: Any, **kwargs: Any) -> int:
        """Run a command, report its errors, and return its exit code."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _shown_as(warnings.showwarning)
                code = super().main(*args, **kwargs)
        except click.Abort as abort:
            _say(f"interrupted: {str(abort) or 'nothing was written'}; run the same command again to resume")
            return INTERRUPTED
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                _say(f"error: {error.format_message()}{_where_to_look(error)}")
            return BAD_INPUT
        except (ForgetcastError, OSError) as error:
            _say(f"error: {error}")
            return BAD_INPUT
        return code if isinstance(code, int) else 0


def _report_lost_output(output: AnyText, code: int) -> int:
    """The exit code, after a word on what standard output could not hold."""
    output.flush()
    if output.narrowed:
        _say(f"note: {output.encoding} cannot hold some letters, which are printed as \\u...; files are in UTF-8")
    if output.lost and not code:
        _say(
            f"error: standard output cannot be written: {output.lost}; everything else is done: files are written, and "
            "decisions recorded where that was asked for"
        )
        return BAD_INPUT
    return code


def _shown_as(usual: Callable[..., None]) -> Callable[..., None]:
    """Warnings of ours in one line, without the place in our code that found them; others as usual."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, ForgetcastWarning):
            _say(f"warning: {message}")
        else:
            usual(message, category, *rest, **more)

    return show


def _say(message: str) -> None:
    click.echo(" ".join(message.split()), err=True)


def _where_to_look(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


@click.group(
    cls=Commands,
    commands=[demo, predict, explain, prescreen, verify, generate, train, evaluate, inspect, plugins],
    context_settings={"max_content_width": 110},
)
@click.version_option(package_name="forgetcast", message="%(prog)s %(version)s")
def main() -> None:
    """Forecast how hard each training sample is to unlearn, and say why.

    \b
    EXAMPLES
      forgetcast demo
      forgetcast predict --model mymodels:resnet --weights resnet.safetensors --dataset train.npz
      forgetcast explain --model mymodels:resnet --weights resnet.safetensors --dataset train.npz --index 17
      forgetcast prescreen --model mymodels:resnet --weights resnet.safetensors --dataset train.npz \\
          --requests requests.csv

    Every command has its own --help with examples.
    """
