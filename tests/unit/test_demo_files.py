"""The parts of the page without a server that need no browser: the script of modules, and the files of the runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from innerloop.cli.main import main
from innerloop.demo import opened, web_runtime
from innerloop.demo.bundle import BundleError, bundled
from innerloop.demo.static import write_static
from innerloop.learner.files import CheckpointError


def test_modules_become_one_script_in_the_order_in_which_they_need_each_other() -> None:
    sources = {
        "main.js": 'import { a, b as c } from "./one.js";\nawait a(c);\n',
        "one.js": 'import { d } from "./two.js";\nexport async function a() {}\nexport const b = d;\n',
        "two.js": "export class d {}\n",
        "unused.js": "export const e = 1;\n",
    }
    script = bundled(sources, "main.js")
    assert script.index('modules["two.js"]') < script.index('modules["one.js"]') < script.index("(async () =>")
    assert 'const { a, b: c } = modules["one.js"];' in script
    assert "return { a, b };" in script
    assert "unused" not in script


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"main.js": "import x from 'y';\n"}, "main.js has the line"),
        ({"main.js": 'import { a } from "./gone.js";\n'}, "imports gone.js, which does not exist"),
        ({"main.js": 'import { a } from "./b.js";\n', "b.js": 'import { c } from "./main.js";\n'}, "main.js -> b.js"),
    ],
)
def test_modules_that_cannot_become_one_script_are_refused(sources: dict[str, str], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        bundled(sources, "main.js")


def test_files_of_the_runtime_are_those_that_were_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dist").mkdir()
    for name in web_runtime.FILES:
        tmp_path.joinpath("dist", name).write_bytes(b"")
    with pytest.raises(web_runtime.RuntimeFilesError, match="is not the file of onnxruntime-web@.*--runtime DIR"):
        web_runtime.web_runtime(tmp_path)
    with pytest.raises(web_runtime.RuntimeFilesError, match="cannot be read"):
        web_runtime.web_runtime(tmp_path / "gone")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    monkeypatch.setattr(web_runtime, "FILES", dict.fromkeys(web_runtime.FILES, empty))
    assert set(web_runtime.web_runtime(tmp_path).values()) == {b""}


def test_a_missing_program_or_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(web_runtime.shutil, "which", lambda _: None)
    with pytest.raises(web_runtime.RuntimeFilesError, match="npm.*is not installed.*--runtime DIR"):
        web_runtime.web_runtime()
    monkeypatch.setattr(web_runtime.shutil, "which", lambda _: "npm")

    def npm(fetched: bytes | None) -> Any:
        def run(command: list[str], **_: Any) -> SimpleNamespace:
            if fetched is not None:
                Path(command[-1], "it.tgz").write_bytes(fetched)
            return SimpleNamespace(returncode=int(fetched is None), stderr="npm error network down\n")

        return run

    monkeypatch.setattr(web_runtime.subprocess, "run", npm(None))
    with pytest.raises(web_runtime.RuntimeFilesError, match="network down.*--runtime DIR"):
        web_runtime.web_runtime()
    monkeypatch.setattr(web_runtime.subprocess, "run", npm(b"something else"))
    with pytest.raises(web_runtime.RuntimeFilesError, match="fetched another file"):
        web_runtime.web_runtime()
    assert not list(tmp_path.rglob("*.wasm"))


def test_what_cannot_run_in_a_browser_is_refused(tmp_path: Path) -> None:
    shown = opened()
    learner = shown.contenders[0].learner
    own = SimpleNamespace(preprocessing=print, **{name: getattr(learner, name) for name in ("method", "norm")})
    photographs = replace(shown.contenders[0], learner=own, photographs=True)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="photographs"):
        write_static(replace(shown, contenders=(photographs,), ink=None), tmp_path)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--runtime", str(tmp_path)]) == 2
    assert "add --static DIR" in capsys.readouterr().err
    assert main(["demo", "--static", str(tmp_path / "site"), "--runtime", str(tmp_path)]) == 2
    assert "ort.wasm.min.mjs cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
