"""Learners in a folder with the layout of the Hub, and what is asked of the Hub's own client."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

import innerloop as il


def learner() -> il.Learner:
    spec = {"name": "conv4", "arguments": {"ways": 3, "filters": 2}}
    prepare = il.data.ImagePreprocessing(size=(28, 28), channels=1)
    net = il.nets.conv4(3, filters=2)
    return il.Learner(net, il.maml(0.1), net_spec=spec, preprocessing=prepare, about={"val_accuracy": 0.75})


def outputs(one: il.Learner) -> torch.Tensor:
    x = torch.linspace(0, 1, 3 * 784).reshape(3, 1, 28, 28)
    return one.adapt(x, torch.arange(3)).outputs(x)


def test_a_folder_has_the_learner_and_its_card(tmp_path: Path) -> None:
    one = learner()
    tasks = il.data.glyphs("test").episodes(3, 1, 1, 2)
    result = one.evaluate(tasks, tasks=2)
    il.hub.write(one, tmp_path, name="me/characters", evaluation=result, data="glyphs | test")
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "learner.json", "learner.safetensors"}
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: innerloop\n")
    for part in ("# me/characters", "SGD(lr=0.1)", "conv4", "glyphs \\| test", result.summary(), 'hub.load("me/char'):
        assert part in card, part
    assert torch.equal(outputs(il.hub.load(tmp_path)), outputs(one))


def test_a_card_without_a_test_says_so() -> None:
    card = il.hub.model_card(learner(), "me/characters")
    assert "No result on test tasks was given. In validation during training, accuracy was 0.75." in card


def test_pushing_and_loading_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    kept = tmp_path / "hub"
    api = create_autospec(hub.HfApi, instance=True)

    def upload(*, folder_path: str, **_: Any) -> SimpleNamespace:
        Path(folder_path).rename(kept)
        Path(folder_path).mkdir()  # for its owner to remove
        return SimpleNamespace(commit_url="https://hub/commit/1")

    api.upload_folder.side_effect = upload
    monkeypatch.setattr(hub, "HfApi", lambda token: api)
    assert il.hub.push(learner(), "me/characters", private=True) == "https://hub/commit/1"
    api.create_repo.assert_called_once_with("me/characters", private=True, exist_ok=True)
    assert (kept / "README.md").exists()

    download = create_autospec(hub.snapshot_download, return_value=str(kept))
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert il.hub.load("me/characters", revision="v1").about == {"val_accuracy": 0.75}
    assert download.call_args.kwargs["revision"] == "v1"
    assert "learner.json" in download.call_args.kwargs["allow_patterns"]


def test_what_the_hub_refuses_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("no/such/repository/at/all", "not a name"):  # refused before anything is asked
        with pytest.raises(il.hub.HubError, match="there is no such folder, and it cannot be read from the Hub"):
            il.hub.load(name)
        with pytest.raises(il.hub.HubError, match="cannot be written to the Hub"):
            il.hub.push(learner(), name)
