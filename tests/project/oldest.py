"""Print each dependency of pyproject.toml pinned to its lower bound, as constraints for pip."""

import re
import tomllib
from pathlib import Path


def lowest(project: dict) -> dict[str, str]:
    """Name and lowest version of all dependencies; of a package that is named twice, the higher bound."""
    bounds: dict[str, str] = {}
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        name, version = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        bounds[name] = max(bounds.get(name, "0"), version, key=lambda text: [*map(int, text.split("."))])
    return bounds


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for name, version in lowest(tomllib.loads(text)["project"]).items():
        print(f"{name}=={version}")
