"""Learners on the Hugging Face Hub, or in a folder with the same layout: the two files of a learner and a model card.

Pushing to and loading from the Hub need the extra ``hub``. A folder needs nothing.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from innerloop.evaluation.evaluate import Evaluation
from innerloop.extras import extra
from innerloop.learner.learner import Learner

__all__ = ["HubError", "load", "model_card", "push", "write"]

FILES = ["learner.json", "learner.safetensors"]
CARD = "README.md"


class HubError(ValueError):
    """A repository of the Hub cannot be read or written. The message says why."""


def write(
    learner: Learner,
    folder: str | Path,
    *,
    name: str | None = None,
    evaluation: Evaluation | None = None,
    data: str | None = None,
) -> None:
    """Write a learner and its model card into a folder, with the layout of a repository of the Hub.

    Args:
        learner: the learner.
        folder: the folder. It is made if it does not exist.
        name: the name in the card's title and in its example. None means the folder's.
        evaluation: what was measured, for the card, such as the result of :meth:`innerloop.Learner.evaluate`.
        data: what the learner was trained and measured on, in a few words.

    Raises:
        ValueError: as for :meth:`innerloop.Learner.save`.

    Example:
        >>> import tempfile
        >>> import innerloop as il
        >>> spec = {"name": "mlp", "arguments": {"inputs": 2, "outputs": 3}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(il.Learner(il.nets.mlp(2, 3), il.maml(), net_spec=spec), folder, data="three toy classes")
        ...     learner = load(folder)
        >>> learner.method == il.maml()
        True
    """
    folder = Path(folder)
    learner.save(folder)
    card = model_card(learner, name or str(folder), evaluation=evaluation, data=data)
    (folder / CARD).write_text(card, encoding="utf-8")


def push(
    learner: Learner,
    repository: str,
    *,
    evaluation: Evaluation | None = None,
    data: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Write a learner and its model card to a repository of the Hub. The repository is made if it does not exist.

    Args:
        learner: the learner.
        repository: its name, ``user/name``.
        evaluation: as for :func:`write`.
        data: as for :func:`write`.
        private: whether a new repository is private. None leaves it to the Hub.
        token: the token of an account. None means the one that ``hf auth login`` has stored.

    Returns:
        The address of the commit.

    Raises:
        HubError: the Hub cannot be reached or refuses.
        MissingExtraError: huggingface_hub is not installed.
    """
    with extra("hub"):
        from huggingface_hub import HfApi
    with TemporaryDirectory() as folder:
        write(learner, folder, name=repository, evaluation=evaluation, data=data)
        try:
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            message = "A meta-learned start, with the method that adapts it"
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except (OSError, ValueError) as error:  # the errors of HTTP, and of names that are none
            raise HubError(f"{repository} cannot be written to the Hub: {error}") from error
    return str(commit.commit_url)


def load(repository: str | Path, *, revision: str | None = None, token: str | None = None, **options: Any) -> Learner:
    """Load a learner from a repository of the Hub, or from a folder.

    No code of the repository is run: a learner is a JSON file and a safetensors file.

    Args:
        repository: ``user/name``, or a folder. If there is such a folder, it is used.
        revision: a branch, tag or commit. None means the main branch.
        token: the token of an account, for a private repository.
        options: further arguments of :meth:`innerloop.Learner.load`.

    Raises:
        HubError: there is no such repository, or the Hub cannot be reached.
        CheckpointError: it holds no learner, or a damaged one.
        MissingExtraError: huggingface_hub is not installed.
    """
    if Path(repository).is_dir():
        return Learner.load(repository, **options)
    with extra("hub"):
        from huggingface_hub import snapshot_download
    try:
        folder = snapshot_download(str(repository), revision=revision, token=token, allow_patterns=FILES)
    except (OSError, ValueError) as error:
        reason = "there is no such folder, and it cannot be read from the Hub"
        raise HubError(f"{repository}: {reason}: {error}") from error
    return Learner.load(folder, **options)


def model_card(learner: Learner, name: str, *, evaluation: Evaluation | None = None, data: str | None = None) -> str:
    """The text of a model card: what the learner is, what was measured, and how it is used.

    Args:
        learner: the learner.
        name: the name of the repository or folder.
        evaluation: what was measured. None says that nothing was.
        data: what the learner was trained and measured on.

    Example:
        >>> import innerloop as il
        >>> print(model_card(il.Learner(il.nets.mlp(2, 3), il.maml()), "me/toy").splitlines()[8])
        # me/toy
    """
    facts = learner.facts()
    if data is not None or "recipe" in learner.about:
        facts["data"] = data or f"recipe {learner.about['recipe']}"
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in facts.items())
    return CARD_TEXT.format(
        title=name.replace("\n", " "),
        rows=rows,
        measured=_measured(learner, evaluation),
        name=name,
        inputs=_inputs(learner),
    )


CARD_TEXT = """\
---
library_name: innerloop
tags:
- meta-learning
- few-shot-learning
- innerloop
---

# {title}

A meta-learned start: a network that adapts to a new task from a few examples, in a few gradient steps.

| | |
|---|---|
{rows}

## Measured

{measured}

## How to use it

```
pip install 'innerloop[hub,images]'
```

```python
import innerloop as il

learner = il.hub.load("{name}")
predictor = learner.adapt(x, y)  # x: {inputs}; y: one label for each
predictor.predict(queries), predictor.predict_proba(queries)
```

The learner itself never changes, and adapting is deterministic.
"""


def _measured(learner: Learner, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        scores = {key: value for key, value in learner.about.items() if key.startswith("val_")}
        said = "".join(f" In validation during training, {key[4:]} was {value:.4g}." for key, value in scores.items())
        return f"No result on test tasks was given.{said}"
    return f"{evaluation.summary()}. An interval is 95 %, over tasks."


def _inputs(learner: Learner) -> str:
    if learner.preprocessing is None:
        return "a tensor as the network takes it"
    return f"what {type(learner.preprocessing).__name__} takes, such as paths, images or rows"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
