"""The command line: finds the command and runs it. Only the module of the command that is asked for is loaded."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from lwd.errors import LWDError, LWDWarning

COMMANDS = {  # name -> module in lwd.commands, class, sentence
    "data": ("data", "Data", "List, show, convert and collect demonstrations."),
    "train": ("train", "Train", "Train on demonstrations; the same command again continues."),
    "improve": ("improve", "Improve", "Improve the policies of a run in imagination, without robot or simulator."),
    "eval": ("evaluate", "Eval", "Run a trained model in its simulator and print scores with intervals."),
    "diagnose": ("diagnose", "Diagnose", "Find the link of the chain that breaks, on held-out demonstrations."),
    "decode": ("decode", "Decode", "Run policies that are decoded from held-out demonstrations."),
    "generate": ("generate", "Generate", "Write policies for an observation into files that run without torch."),
    "export": ("export", "Export", "Take a policy to C or numpy, or a run to ONNX."),
    "serve": ("serve", "Serve", "Answer observations with policies or actions, over the network."),
    "play": ("play", "Play", "Run a trained model in its simulator in real time, in a window or to video."),
    "explore": ("explore", "Explore", "Show a model at work on a page: push the block, look into its latent space."),
    "report": ("report", "Report", "Write report.html of a run, with or without a simulator."),
    "info": ("info", "Info", "Print settings, data, sizes, progress and results of a run."),
    "demo": ("demo", "Demo", "Train on the shipped demonstrations, evaluate, and write a report with videos."),
    "study": ("study", "Study", "Answer a question with several trainings: tables and figures of the paper."),
}
MANUAL = """usage: lwd COMMAND [OPTIONS]

Latent Weight Diffusion: train a generator of small closed-loop policies, evaluate it, look inside.

commands:
{}

lwd COMMAND --help is the manual of a command. Begin with: lwd explore, lwd demo, or lwd train --data my_demos.npz"""
INTERRUPTED = "interrupted; the same command continues a training, a study or a collection, and starts anything else anew"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 2 bad input, 130 interrupted, 141 whoever read the output has closed it)."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads spin while they wait: two commands at once would stop each other
    try:
        try:
            if name in ("-h", "--help", "help"):
                verbs = "\n".join(f"  {verb:<10}{sentence}" for verb, (_, _, sentence) in COMMANDS.items())
                print(MANUAL.format(verbs))
            else:
                with _warnings_as_lines():
                    command(name, rest)()
        except LWDError as error:
            print(f"lwd: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"lwd: {INTERRUPTED}", file=sys.stderr)
            return 130
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `lwd ... | head`: nobody is left to be told (those of workers are answered where they arise)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our own warnings are shown as one line each, without the place in the code; others as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", LWDWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, LWDWarning):
                print(f"lwd: {message}", file=sys.stderr)
            else:
                shown(message, category, *place, **more)

        warnings.showwarning = show
        yield


def command(name: str, words: Sequence[str]) -> Any:
    """A command with its options. tyro makes parser and manual from the dataclass; a class with `parse` reads the words by itself."""
    if name not in COMMANDS:
        meant = "".join(f"did you mean {close}? " for close in get_close_matches(name, COMMANDS, 1))
        raise LWDError(f"there is no command {name!r}: {meant}the commands are {', '.join(COMMANDS)}")
    module, kind, sentence = COMMANDS[name]
    own = getattr(importlib.import_module(f"lwd.commands.{module}"), kind)
    if hasattr(own, "parse"):
        return own.parse(words)
    import tyro

    about, style = None if isinstance(own, type) else sentence, (tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    return tyro.cli(own, prog=f"lwd {name}", description=about, args=words, config=style)


if __name__ == "__main__":
    sys.exit(main())
