"""The pages: their numbers stand in the stored results, their commands and links lead somewhere."""

import argparse
import ast
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from page_tables import FENCE, commands, links, result_tables, wrong_numbers

import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "zoo/*/README.md")
    for path in sorted(ROOT.glob(pattern))
}
EVERY = {command: page for page, text in PAGES.items() for command in commands(text)}
# without those that another one goes on from: what is understood with more flags is understood with fewer
COMMANDS = [command for command in EVERY if not any(other.startswith(f"{command} -") for other in EVERY)]


def test_the_first_page_is_read_to_the_end():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_a_results_table_stands_in_the_named_results(page):
    assert wrong_numbers(PAGES[page], (ROOT / page).parent) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_table_with_deviations_names_its_results(page):
    number = sum(bool(re.search("^[|].* ± ", table, re.MULTILINE)) for table in re.split(r"\n\s*\n", PAGES[page]))
    assert number <= len(list(result_tables(PAGES[page])))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    assert [link for link in links(PAGES[page]) if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"CONTRIBUTING.md"}))  # test_adding_a_paper.py runs its examples
def test_every_python_example_is_python_and_imports_what_there_is(page):
    for language, block in FENCE.findall(PAGES[page]):
        for node in ast.walk(ast.parse(block)) if language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


class Parsed(BaseException):
    """Raised in the place of what a command would do after its arguments were read."""


def parse(words, monkeypatch):
    """Read the arguments of a command, and do nothing else.

    Raises:
        SystemExit: With another status than 0 if they are not understood.
    """

    place = next(number for number, word in enumerate(words) if word in ("train.py", "-m", "make", "wandb"))
    program, *arguments = words[place:]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert [word for word in arguments if "=" not in word and word not in targets] == []
    elif program == "wandb":
        assert arguments[0] == "sweep"
        assert "parameters" in yaml.safe_load((ROOT / arguments[1]).read_text(encoding="utf-8"))
    elif program == "train.py":
        if "--ckpt_path" in arguments and arguments[arguments.index("--ckpt_path") + 1] != "last":
            place = arguments.index("--ckpt_path")
            del arguments[place : place + 2]  # nobody has trained it here
        with pytest.raises(SystemExit) as end:
            train.main(arguments if "--model.help" in arguments else [*arguments, "--print_config"])
        if end.value.code:
            raise end.value
    else:
        name, *options = arguments
        if not options:
            assert find_spec(name)
            return
        read = argparse.ArgumentParser.parse_known_args

        def stop(self, given=None, namespace=None):
            read(self, given, namespace)
            raise Parsed

        def stop_if_known(self, given=None, namespace=None):
            unknown = read(self, given, namespace)[1]
            if unknown:
                self.error(f"unrecognized arguments: {unknown}")
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_if_known)
        monkeypatch.setattr(sys, "argv", [name, *options])
        with pytest.raises(Parsed):
            import_module(f"{name}.__main__" if name == "callbacks.report" else name).main()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if re.search(r"-m (pytest|build) ", f"{command} "):
        return
    try:
        parse(words, monkeypatch)
    except SystemExit:
        pytest.fail(f"{command!r} in {EVERY[command]}: {capsys.readouterr().err}")


# ---------------------------------------------------------------- the rules themselves

RESULTS = """$ python -m benchmarks.toy
accuracy  0.8934 ± 0.0436   0.8200 ± 0.0170
share     37.1%  -48.9%   12,345
ratio 0.940 [0.924, 0.951]   1.21e-03
"""
PAGE = """Read from [toy.txt](results/toy.txt), made by `python -m benchmarks.toy`:

| 5 seeds | ours | Toy et al. 2016 |
| --- | --- | --- |
| row 7 | {} | .7666 |
| the paper's | .9999 | |
"""


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "toy.txt").write_text(RESULTS, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "cell",
    [
        *("0.893 ± 0.044", "**0.8934** ", "89.3 ± 4.4 %", "0.82 ± 0.02", "37 % of the gap", "\N{MINUS SIGN}49 %"),
        *("0.940 [0.924, 0.951]", "0.00121", "0.893 ± 0.044 (37 %), 0.82", "4x64 units of bf16", ""),
    ],
)  # fmt: skip
def test_a_number_that_is_a_rounded_result_is_right(cell, results):
    assert wrong_numbers(PAGE.format(cell), results) == []


@pytest.mark.parametrize(
    "cell",
    ["0.894 ± 0.044", "0.893 ± 0.017", "0.892", "89.3", "38 %", "0.044", "0.940 [0.924, 0.952]", "0.94, 7", "0.00122"],
)
def test_a_number_that_is_in_no_result_is_named(cell, results):
    (wrong,) = wrong_numbers(PAGE.format(cell), results)
    assert "in the row 'row 7'" in wrong


def test_a_link_in_a_row_names_the_results_of_that_row(results):
    page = "text\n\n| | data | ours |\n| --- | --- | --- |\n| a | [7 rows](results/toy.txt) | {} |\n"
    assert wrong_numbers(page.format("0.82"), results) == []
    assert len(wrong_numbers(page.format("0.81"), results)) == 1


def test_a_second_table_has_the_results_of_the_first(results):
    page = PAGE.format("0.82") + "\n| | ours |\n| --- | --- |\n| a | {} |\n"
    assert wrong_numbers(page.format("0.893"), results) == []
    assert len(wrong_numbers(page.format("0.9"), results)) == 0
    assert len(wrong_numbers(page.format("0.91"), results)) == 1


@pytest.mark.parametrize(
    "command",
    [
        *("python train.py fit --model Nothing", "python train.py fit --model JEM --model.nothing 3", "make nothing"),
        *("python -m benchmarks.jem.digits --nothing", "python -m benchmarks.dann.digits --pair nothing"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_understood_is_noticed(command, monkeypatch, capsys):
    with pytest.raises((SystemExit, AssertionError)):
        parse(command.split(), monkeypatch)
