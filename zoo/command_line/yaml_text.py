"""Configurations as texts that anybody may have mistyped: read strictly, and looked at before anything is built.

YAML lets the last of two equal keys win, and a few lines of aliases grow to gigabytes; jsonargparse does not say which
item of a list is wrong, nor what an entry for a class looks like.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

MOST_LEVELS = 50  # of lists in lists, more than any class takes; parsers recurse
MOST_NODES = 10_000  # of what aliases repeat
ENTRY = "the name of a class, or class_path with init_args"
KEYS = ("class_path", "init_args", "dict_kwargs")  # of a class with its arguments
CLASSES = {  # what takes classes: whether without one, too, or several
    "model": (str, dict, type(None)),
    "data": (str, dict, type(None)),
    "trainer.callbacks": (str, dict, list, type(None)),
    "trainer.logger": (str, dict, list, type(None), bool),
}
EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
jsonargparse_loader = get_loader("yaml")  # reads 1e-3 as a number


class NotMeant(yaml.YAMLError):
    """Correct YAML that means something else than it says, or would not end."""


def load(text: str) -> Any:
    """The value of a text in YAML or JSON.

    Raises:
        yaml.YAMLError: It is none, has a key twice, contains itself, or is too deep or too large.
    """
    check_yaml(text)
    try:
        return jsonargparse_loader(text)
    except (ValueError, TypeError, OverflowError) as error:  # of a scalar that its own tag does not fit
        raise yaml.YAMLError(str(error)) from error


def check_yaml(text: str) -> None:
    """Refuse a text that would be read as something else than it says, or would not end.

    Raises:
        yaml.YAMLError: It is no YAML, has a key twice, contains itself, or is too deep or too large.
    """
    root = _Open(None, False)
    stack, sizes = [root], {}
    for event in yaml.parse(text, Loader=EVENTS):
        where = f"in line {event.start_mark.line + 1}, column {event.start_mark.column + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(stack) > MOST_LEVELS:
                raise NotMeant(f"more than {MOST_LEVELS} levels {where}")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            stack[-1].add(closed.size, None)
            sizes[closed.anchor] = closed.size
        elif isinstance(event, yaml.ScalarEvent):
            if not stack[-1].add(1, event.value):
                raise NotMeant(f"{event.value!r} stands there twice {where}")
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in {each.anchor for each in stack}:
                raise NotMeant(f"{event.anchor!r} contains itself {where}")
            stack[-1].add(sizes.get(event.anchor, 1), None)
            if sum(each.size for each in stack) > MOST_NODES:
                raise NotMeant(f"aliases make more than {MOST_NODES} values {where}")


class _Open:
    """A list or dictionary of which the end has not been read.

    Args:
        anchor: By what name the rest of the text may repeat it.
        is_mapping: Whether it is a dictionary.
    """

    def __init__(self, anchor: str | None, is_mapping: bool) -> None:
        self.anchor, self.is_mapping = anchor, is_mapping
        self.size = 1
        self.entries = 0
        self.keys: set[str] = set()

    def add(self, size: int, scalar: str | None) -> bool:
        """Take one more entry; whether it is not a key that was there already."""
        is_key = self.is_mapping and self.entries % 2 == 0 and scalar is not None
        new = not is_key or scalar not in self.keys
        if is_key and scalar is not None:
            self.keys.add(scalar)
        self.entries += 1
        self.size += size
        return new


# ---------------------------------------------------------------- what it says


def check_flag(flag: str, value: str) -> None:
    """Refuse a value on the command line that cannot be meant, before parsers of YAML recurse into it.

    Args:
        flag: With its dashes.
        value: Its text.

    Raises:
        ValueError: It would not end, or an entry in it describes no class.
    """
    name = flag.lstrip("-").removesuffix("+")
    if name in CLASSES and not value.strip():
        raise ValueError(f"--{name}: expected {ENTRY}, got nothing")
    try:
        loaded = load(value)
    except NotMeant as error:
        raise ValueError(f"--{name}: {error}") from error
    except yaml.YAMLError:  # for jsonargparse to tell, or no YAML at all
        return
    if name not in ("c", "config"):  # which `check_config` looks at
        check_value(name, loaded, "--")


def check_config(config: Any, options: Collection[str]) -> None:
    """Refuse a configuration that cannot be meant, and name the entry.

    Args:
        config: What was read.
        options: All options, with dots.

    Raises:
        ValueError: It is no dictionary, has an option that there is not, or an entry that describes no class.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"expected options such as `model:`, got {shown(config)}")
    if "subcommand" in options:  # a configuration of several, each with options of its own
        if "subcommand" in config:
            raise ValueError("subcommand: expected on the command line, not in a configuration")
        return
    _check_options(config, "", options)
    for name, value in _flat(config, ""):
        check_value(name, value)


def check_value(name: str, value: Any, dashes: str = "") -> None:
    """Refuse a value that cannot be meant.

    Args:
        name: Its option, or the place of a part of it.
        value: What was read.
        dashes: Before the name of an option of the command line.

    Raises:
        ValueError: An entry describes no class, a text has a character that ends it in C, or a number is too large.
    """
    kinds, called = CLASSES.get(name), dashes + name
    if kinds and not isinstance(value, kinds):
        raise ValueError(f"{called}: expected {ENTRY}{', or a list of them' * (list in kinds)}, got {shown(value)}")
    if kinds and isinstance(value, list):
        for i, item in enumerate(value):
            if not isinstance(item, str) and not (isinstance(item, Mapping) and "class_path" in item):
                raise ValueError(f"{called}[{i}]: expected {ENTRY}, got {shown(item)}")
    if isinstance(value, Mapping) and not {"class_path", "init_args"}.isdisjoint(value):
        _check_class(called, value)
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{called}: a text with the character NUL, {shown(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{called}: expected a number of 64 bits, got {shown(value)}")
    if isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            check_value(f"{name}[{key}]" if isinstance(value, list) else f"{name}.{key}", part, dashes)


def _check_class(name: str, entry: Mapping[Any, Any]) -> None:
    path = entry.get("class_path", ".")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{name}.class_path: expected the name of a class, got {shown(path)}")
    for key in KEYS[1:]:
        if not isinstance(entry.get(key, {}), Mapping):
            raise ValueError(f"{name}.{key}: expected a dictionary of arguments, got {shown(entry[key])}")
    if other := [key for key in entry if key not in KEYS]:
        hint = closest(other[0], KEYS) or "; arguments of a class belong below its init_args"
        raise ValueError(f"{name}.{other[0]}: no key of a class, which has class_path and init_args{hint}")


def _check_options(config: Mapping[Any, Any], prefix: str, options: Collection[str]) -> None:
    for key, value in config.items():
        name = f"{prefix}{key}".removesuffix("+")  # which appends
        inside = [option for option in options if option.startswith(name + ".")]
        if name in options or any(name.startswith(option + ".") for option in options):
            continue
        if not inside:
            groups = {option.partition(".")[0] for option in options}
            raise ValueError(f"{name}: no such option{closest(name, [*options, *groups.difference(options)])}")
        if isinstance(value, Mapping):
            _check_options(value, name + ".", options)
        elif not isinstance(value, str) or not Path(value).is_file():  # which may hold them
            raise ValueError(f"{name}: expected a dictionary of its options, got {shown(value)}")


def _flat(config: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The options in a configuration, with dots; a class stays whole."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in CLASSES and "class_path" not in value:
            yield from _flat(value, name + ".")
        else:
            yield name, value


def closest(name: object, known: Collection[str]) -> str:
    """A question with the names that are like a misspelt one; nothing if there is none."""
    found = difflib.get_close_matches(str(name), known, 3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def shown(value: object) -> str:
    """A value for a message, in one short line."""
    text = "a very large number" if isinstance(value, int) and abs(value) >= 10**80 else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
