"""The command line under fuzz: whatever is typed or written, it runs or says in one line what is wrong."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bounded_command_line import QUIET, Bounded, Built, few, outcome, refused
from hypothesis import given
from hypothesis import strategies as st

from zoo.command_line.parser import load

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*ROOT.glob("zoo/**/recipe*.yaml"), *ROOT.glob("zoo/**/paper_*.yaml")])
CONFIGS = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in RECIPES}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- mutated configurations

NUMBERS = [-1, 0, 1, 2**70, -0.5, 0.5, 1e30, float("inf"), float("-inf"), float("nan")]
WORDS = ["", "x", "nan", "1e-3x", "../..", "/", "\n", "ü☃", "a: b", "\x1b[31m", "${HOME}", "!!python/name:os.system"]
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *WORDS])
ENTRIES = st.sampled_from(
    [
        {"class_path": "JEM"},
        {"class_path": "zoo.JEMM"},
        {"class_path": 3},
        {"class_path": None},
        {"class_path": ""},
        {"class_path": "callbacks.Report"},
        {"class_path": "callbacks.Report", "init_args": 3},
        {"class_path": "callbacks.Report", "init_args": {"foldr": "x"}},
        {"class_path": "callbacks.Report", "folder": "x"},
        {"class_path": "lightning.pytorch.LightningModule"},
        {"class_path": "torch.nn.Linear"},
        {"class_path": "os.system", "init_args": {"command": "touch planted"}},
        {"init_args": {}},
        {"a": 1},
        {},
        {1: 2},
    ]
)
VALUES = SCALARS | ENTRIES | st.lists(SCALARS | ENTRIES, max_size=2) | st.just([[[]]])
MISSPELT: list[Callable[[str], str]] = [
    lambda key: key[1:],
    lambda key: key[:-1],
    lambda key: key + "x",
    lambda key: key[:1] + key[2:],
    lambda key: key.upper(),
    lambda key: key + " ",
    lambda key: key.replace("_", "-") + "_",
]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each part of a configuration."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(part, (*place, key))


def at(config: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        config = config[key]
    return config


def fit(config: dict[str, Any], kind: type[Bounded] = Built) -> tuple[int, str]:
    """The outcome of a fit with a configuration in a file."""
    file = Path("mutated.yaml").resolve()
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return outcome(["fit", f"--config={file}", *QUIET], kind)


@st.composite
def mutated_values(draw: st.DrawFn, configs: list[Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    config = copy.deepcopy(draw(st.sampled_from(configs)))
    place = draw(st.sampled_from(list(places(config))))
    at(config, place[:-1])[place[-1]] = draw(VALUES)
    return config, place


@pytest.mark.parametrize("kind", ["recipe", "paper"])
@given(data=st.data())
@few(12)
def test_a_value_of_another_kind_anywhere_runs_or_is_one_line_that_names_it(kind, data):
    configs = [config for path, config in CONFIGS.items() if path.name.startswith(kind)]
    config, place = data.draw(mutated_values(configs))
    status, line = fit(config)
    names = [str(key) for key in place if isinstance(key, str) and key not in ("class_path", "init_args")]
    # what jsonargparse or a constructor says may name the value, the class or the kind of the error instead
    named = [*names[-2:], repr(at(config, place))[1:-1], "cannot be built", "Error: "]
    assert status == 0 or any(name in line for name in named), line


@pytest.mark.parametrize("how", ["drop", "misspell", "move"])
@given(data=st.data())
@few(8)
def test_a_key_dropped_misspelt_or_moved_anywhere_runs_or_is_one_line(how, data):
    config = copy.deepcopy(data.draw(st.sampled_from(list(CONFIGS.values()))))
    place = data.draw(
        st.sampled_from([place for place in places(config) if how == "drop" or isinstance(place[-1], str)])
    )
    parent = at(config, place[:-1])
    value, key = parent.pop(place[-1]), place[-1]
    if how == "misspell":
        key = data.draw(st.sampled_from(MISSPELT))(key)
        parent[key] = value
    elif how == "move":
        dictionaries = [(), *(other for other in places(config) if isinstance(at(config, other), dict))]
        at(config, data.draw(st.sampled_from(dictionaries)))[key] = value
    status, line = fit(config)
    if how == "misspell" and status:
        assert key.strip() in line, line


@given(
    recipe=st.sampled_from(RECIPES), line=st.integers(0, 40), text=st.sampled_from(["\t", "]", "- x", ": :", "twice"])
)
@few(10)
def test_a_line_twice_or_broken_anywhere_runs_or_is_one_line(recipe, line, text):
    lines = recipe.read_text(encoding="utf-8").splitlines()
    line %= len(lines)
    lines.insert(line, lines[line] if text == "twice" else text)
    file = Path("mutated.yaml").resolve()
    file.write_text("\n".join(lines), encoding="utf-8")
    outcome(["fit", f"--config={file}", *QUIET], Built)


# ---------------------------------------------------------------- texts that are no configuration

RECIPE = (ROOT / "zoo" / "classifier" / "recipe.yaml").read_text(encoding="utf-8")
TEXTS: dict[str, tuple[bytes, list[str]]] = {  # and what a line says of each, in words of ours
    "empty": (b"", ["mutated.yaml"]),
    "a word": (b"fit", ["mutated.yaml", "fit"]),
    "a list": (b"[1, 2]", ["mutated.yaml", "[1, 2]"]),
    "all bytes": (bytes(range(256)), ["mutated.yaml"]),
    "Latin-1": ("model: Café".encode("latin-1"), ["mutated.yaml"]),
    "UTF-16": (RECIPE.encode("utf-16"), ["mutated.yaml"]),
    "NUL": (b"model: a\0b", ["mutated.yaml"]),
    "a planted call": (b"model: !!python/object/apply:os.system [touch planted]", ["mutated.yaml", "line 1"]),
    "an unknown tag": (b"model: !JEM {}", ["mutated.yaml", "!JEM"]),
    "a list in itself": (b"model: &a [*a]", ["mutated.yaml", "contains itself, in line 1"]),
    "a dictionary in itself": (b"model: &a {x: [*a]}", ["mutated.yaml", "contains itself, in line 1"]),
    "an unknown alias": (b"model: *a", ["mutated.yaml", "line 1"]),
    "deep": (b"model: " + b"[" * 100_000, ["mutated.yaml"]),
    "deep dictionaries": (b"model: " + b"{a: " * 3000 + b"}" * 3000, ["mutated.yaml"]),
    "a section twice": (RECIPE.encode() + b"trainer: {max_epochs: 3}", ["mutated.yaml", "'trainer' is there twice"]),
    "an argument twice": (
        RECIPE.replace("lr: 0.1", "lr: 0.1\n    lr: 0.2").encode(),
        ["mutated.yaml", "'lr' is there twice, in line 9"],
    ),
    "two documents": (RECIPE.encode() + b"---\na: 1", ["mutated.yaml"]),
    "no string as a key": (b"[1, 2]: 3", ["mutated.yaml"]),
    "a number as a key": (b"1: 2", ["mutated.yaml", "1"]),
    "no number": (b"seed_everything: !!float x", ["mutated.yaml", "'x'"]),
    "tabs": (b"model:\n\tclass_path: JEM", ["mutated.yaml", "line 2"]),
    "a list in a list": (b"trainer: {callbacks: [[Report]]}", ["mutated.yaml", "trainer.callbacks", "['Report']"]),
    "arguments beside a class": (
        b"model: {class_path: JEM, lr: 1}",
        ["mutated.yaml", "--model", "with its arguments below init_args"],
    ),
    "arguments of nothing": (b"model: {lr: 1}", ["mutated.yaml", "--model.lr", "--model NAME"]),
    "a class that is a list": (b"data: {class_path: [1]}", ["mutated.yaml", "--data", "[1]"]),
    "a class deep inside": (
        b"data: {class_path: AdaptationDataModule, init_args: {source: {class_path: null}}}",
        ["mutated.yaml", "--data.source"],
    ),
    "a misspelt section": (RECIPE.encode() + b"trianer: {max_epochs: 1}", ["trianer", "did you mean trainer"]),
    "a misspelt option": (
        RECIPE.replace("max_epochs", "max_epoch").encode(),
        ["trainer.max_epoch", "did you mean trainer.max_epochs"],
    ),
    "an escape sequence": (b'model: "\\e[31m"', ["mutated.yaml", "\\x1b[31m"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_configuration_is_one_line_that_says_where(name):
    content, words = TEXTS[name]
    Path("mutated.yaml").write_bytes(content)
    refused(["fit", f"--config={Path('mutated.yaml').resolve()}", *QUIET], *words)


@given(content=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
@few(10)
def test_any_bytes_as_a_configuration_are_one_line(content):
    file = Path("mutated.yaml").resolve()
    file.write_bytes(content)
    assert outcome(["fit", f"--config={file}", *QUIET])[0] == 2


def test_a_byte_order_mark_does_no_harm():
    Path("mutated.yaml").write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert outcome(["fit", f"--config={Path('mutated.yaml').resolve()}", *QUIET], Built) == (0, "")


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.text(st.characters(max_codepoint=0xD7FF), max_size=9),
        lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text("abc", max_size=3), part, max_size=4),
        max_leaves=30,
    )
)
def test_what_is_meant_is_read_as_it_was_written(value):
    assert load(json.dumps([value])) == [value]
