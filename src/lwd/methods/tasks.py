"""What a condition says about the task: one-hot, a learned vector, or the meaning of its name. With one task there is nothing to say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from lwd.config import MethodConfig
from lwd.errors import LWDError


class TaskCode(nn.Module):
    """(B,) task indices -> (B, dim).

    Attributes:
        dim: numbers that the condition has for the task.
    """

    dim: int

    def fit(self) -> None:
        """Once, when a training starts afresh: what is taken from elsewhere and then kept in the checkpoint."""


class OneHot(TaskCode):
    """One number per task; the first layer that reads the condition learns what it means.

    Args:
        tasks: number of tasks.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.dim = tasks

    def forward(self, index: Tensor) -> Tensor:
        return nn.functional.one_hot(index, self.dim).float()


class Learned(TaskCode):
    """A table of vectors, trained together with what reads the condition.

    Args:
        tasks: number of tasks.
        dim: of a vector.
    """

    def __init__(self, tasks: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Embedding(tasks, dim)

    def forward(self, index: Tensor) -> Tensor:
        return self.table(index)


class Language(TaskCode):
    """Fixed vectors of the tasks' names, by a sentence encoder, and a learned projection: tasks that read alike start close together.

    Only the differences between n names matter, and n vectors span at most n dimensions: kept are their coordinates there, (n, n). No
    distance is lost, and neither the encoder nor the size of its vectors is needed to load a model.

    Args:
        names: of the tasks.
        dim: of the projection.
        model: name or directory of the sentence encoder.
    """

    def __init__(self, names: Sequence[str], dim: int, model: str) -> None:
        super().__init__()
        self.names, self.dim, self.model = tuple(names), dim, model
        self.register_buffer("sentences", torch.full((len(names), len(names)), torch.nan))
        self.sentences: Tensor
        self.projection = nn.Linear(len(names), dim)

    def fit(self) -> None:
        """Encode the names.

        Raises:
            LWDError: the encoder is not installed or not there, or cannot tell two names apart.
        """
        self.sentences.copy_(coordinates(encode(self.model, [sentence(name) for name in self.names])))
        for a, b in combinations(range(len(self.names)), 2):
            if torch.allclose(self.sentences[a], self.sentences[b], atol=1e-4):
                raise LWDError(
                    f"{self.model} reads the task names {self.names[a]!r} and {self.names[b]!r} as the same: "
                    "rename one, or choose another task_embedding"
                )

    def forward(self, index: Tensor) -> Tensor:
        return self.projection(self.sentences[index])


def make_task_code(config: MethodConfig, tasks: Sequence[str]) -> TaskCode | None:
    """The code that a config asks for; None where there are not two tasks to tell apart."""
    if len(tasks) < 2:
        return None
    if config.task_embedding == "learned":
        return Learned(len(tasks), config.task_dim)
    if config.task_embedding == "language":
        return Language(tasks, config.task_dim, config.language_model)
    return OneHot(len(tasks))


def sentence(name: str) -> str:
    """A task's name in words: `door-open`, `door_open` and `DoorOpen` are "door open"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-_\s]+", " ", name).strip().lower()


def encode(model: str, sentences: Sequence[str]) -> Tensor:
    """Sentence vectors, (n, D) float32 on the CPU.

    Args:
        model: name of a model on the Hugging Face Hub, or a directory that holds one.
        sentences: n texts.

    Raises:
        LWDError: the extra is not installed, or the model cannot be had.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        command = 'pip install "latent-weight-diffusion[language]"'
        raise LWDError(f"task_embedding=language needs sentence-transformers, which is not installed ({error}): run  {command}") from error
    logging.disable_progress_bar()
    try:
        encoder = SentenceTransformer(model, device="cpu")
    except Exception as error:  # of the network, of files, of the Hub's client: the list is long and not ours
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LWDError(
            f"the language model {model!r} cannot be loaded ({reason}): give language_model the directory of a copy, or connect once"
        ) from error
    with torch.no_grad():
        return encoder.encode(list(sentences), convert_to_tensor=True, show_progress_bar=False).float().cpu()


def coordinates(vectors: Tensor) -> Tensor:
    """(n, D) vectors -> (n, n): centred, in an orthonormal basis of their span, with a mean squared length of n."""
    n = len(vectors)
    u, s, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    own = nn.functional.pad((u * s)[:, :n], (0, max(0, n - len(s))))
    return own * (n / own.square().sum(1).mean().clamp_min(1e-12)).sqrt()


def unknown_task(names: Collection[str], known: Sequence[str]) -> LWDError:
    """The error for names that a model does not know: what they may have meant first, then all that it knows."""
    wrong = sorted(set(names) - set(known))
    close = [match for name in wrong for match in difflib.get_close_matches(name, known, 3)]
    meant = f"did you mean {' or '.join(dict.fromkeys(close))}? " if close else ""
    return LWDError(f"this model does not know the task {', '.join(wrong)}: {meant}it knows {', '.join(known)}")
