"""The wheel: what it holds, and that it works where the repository is not."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "datamodules", "callbacks")
pytestmark = pytest.mark.slow

CHECK = """
import sys
from pathlib import Path

import callbacks, datamodules, zoo

installed = Path(sys.prefix).resolve()
for package in (zoo, datamodules, callbacks):
    assert installed in Path(package.__file__).resolve().parents, package.__file__
assert Path(zoo.__file__).with_name("jem").joinpath("recipe.yaml").exists()
module = zoo.Classifier(network_args={"width": 4})
data = datamodules.DigitsDataModule(batch_size=8)
data.setup("fit")
images, labels = next(iter(data.train_dataloader()))
print(tuple(module(data.transform(images)).shape), callbacks.Report.__name__)
"""


def run(*args: str, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(args, cwd=cwd, env=clean, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"  # a copy, so that nothing is built into the repository
    project.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(project), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_three_packages_with_recipes_and_type_markers_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_works_in_another_environment_from_another_folder(wheel, tmp_path):
    """An environment of its own, which borrows only the dependencies, which no index is at hand to deliver."""
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env"), cwd=tmp_path)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    offline = ["--isolated", "install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", *offline, "--target", str(site), str(wheel), cwd=tmp_path)
    # A line of a .pth file is added to sys.path, but the .pth files there are not read: an editable install of this
    # repository stays out.
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    (tmp_path / "check.py").write_text(CHECK)
    assert run(str(python), "check.py", cwd=tmp_path) == "(8, 10) Report\n"
    found = run(str(python), "-c", "import importlib.util as u; print(u.find_spec('train'))", cwd=tmp_path)
    assert found == "None\n"
