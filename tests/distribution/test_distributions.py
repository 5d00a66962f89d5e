"""The wheel and the sdist hold what they must and no more. `.ci/run` installs them into an empty environment."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="pip install -e '.[test]' has it")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "transformers", "peft", "accelerate", "deepspeed", "trl"}
LIMIT = 2_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel, built without the network."""
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_is_small(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.stat().st_size < LIMIT


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"ckpt_inspect"}
    package = ROOT / "ckpt_inspect"
    wanted = {
        f"ckpt_inspect/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == wanted
    assert "ckpt_inspect/py.typed" in names
    assert "ckpt_inspect/knowledge/artifacts.toml" in names


def test_the_console_script_and_the_licence_are_in(wheel: zipfile.ZipFile) -> None:
    (scripts,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "ckpt-inspect = ckpt_inspect.__main__:main" in wheel.read(scripts).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_base_install_asks_for_no_training_library(metadata: Message) -> None:
    base = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert not {text.split(">")[0].split("=")[0].split("<")[0].strip() for text in base} & HEAVY


def test_every_extra_is_there(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert {"deepspeed", "docs", "test", "judges"} == set(PROJECT["optional-dependencies"])


def test_the_readme_is_the_description_and_its_version_that_of_the_package(metadata: Message) -> None:
    import ckpt_inspect

    assert metadata["Version"] == ckpt_inspect.__version__
    assert "What people come for" in str(metadata.get_payload())
    assert f"## {ckpt_inspect.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_sdist_can_build_the_documentation(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"mkdocs.yml", "docs/index.md", "docs/make/site.py", "CHANGELOG.md", "fixtures/README.md"} <= names
    assert "ckpt_inspect/py.typed" in names
