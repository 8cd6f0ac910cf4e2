"""What the tests of the pages read in Markdown: result tables, commands, links, blocks of code."""

import math
import re
from pathlib import Path

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
ALONE = rf"(?<![\w.,]){NUMBER}(?![\w.]*[A-Za-z_])"  # not a part of a word such as 4x64, bf16 or 0.1.2
GROUP = re.compile(rf"({ALONE})(?: ± ({NUMBER})| \[({NUMBER}), ({NUMBER})\])?( ?%)?")
RESULT = re.compile(r"\]\(([^)]*results/[^)]*\.txt)\)")
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:python train\.py |python -m |torchrun .*train\.py |make \w|wandb sweep )")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def groups(text):
    """The numbers of a text that belong together: mean and deviation, median and range, or one alone.

    Returns:
        Each a list of numbers as they are written, and whether a percent sign follows.
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    return [
        ([number for number in found.groups()[:4] if number], found[5] is not None) for found in GROUP.finditer(text)
    ]


def rounds_to(value, written, scale=1.0):
    """Whether a value is the written one, rounded to as many decimals as are written."""
    mantissa, _, exponent = written.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return math.isclose(scale * value, float(written), rel_tol=0, abs_tol=unit * (0.5 + 1e-6))


def stands_in(group, percent, results):
    """Whether a group of numbers of a page stands in the results, as it is or, with a percent sign, as a share."""
    scales = (1.0, 100.0) if percent else (1.0,)
    return any(
        all(rounds_to(float(value), written, scale) for value, written in zip(values, group, strict=False))
        for values, _ in results
        for scale in scales
        if len(values) >= len(group)
    )


def is_the_papers(head):
    """Whether a column or a row is the paper's own: its title says so, or it names authors or a year."""
    return bool(re.search(r"\bpaper\b|\bpaper's\b|et al\.|\b(19|20)\d\d\b", head))


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def result_tables(text):
    """The tables of a page that give results.

    A results table links the files in ``results/`` that its numbers are read from: in the paragraph above it, or in its
    rows.

    Returns:
        Each a pair: the links of the paragraph above, and the rows as lists of cells, the head first.
    """
    above = []
    for paragraph in re.split(r"\n\s*\n", FENCE.sub("", text)):
        lines = paragraph.strip().splitlines()
        if len(lines) > 2 and all(line.startswith("|") for line in lines):  # a second table has the first one's files
            if above or RESULT.search(paragraph):
                yield above, [cells(lines[0]), *map(cells, lines[2:])]
        else:
            above = RESULT.findall(paragraph)


def wrong_numbers(text, folder):
    """The numbers of a page's results tables that are not in the named files.

    All cells are read but those of the first column, those of columns and rows that are the paper's own, and cells with
    a link to results, which say what was run.

    Args:
        text: The page.
        folder: Where its links start.
    """
    wrong = []
    for links, (head, *rows) in result_tables(text):
        for row in rows:
            files = [*links, *RESULT.findall(" ".join(row))]
            results = [group for file in files for group in groups((Path(folder) / file).read_text(encoding="utf-8"))]
            if not is_the_papers(row[0]):
                read = [
                    cell
                    for title, cell in list(zip(head, row, strict=True))[1:]
                    if not is_the_papers(title) and not RESULT.search(cell) and "](http" not in cell
                ]
                wrong += [
                    f"{' ± '.join(group)} in the row {row[0]!r}"
                    for cell in read
                    for group, percent in groups(cell.replace("**", ""))
                    if not stands_in(group, percent, results)
                ]
    return wrong


def commands(text):
    """The commands of a page as lists of words: in blocks without a language, and in code within a sentence."""
    lines = []
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            lines += block.replace("\\\n", " ").splitlines()
    lines += re.findall(r"`([^`]+)`", FENCE.sub("", text))
    for line in lines:
        line = re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
        if COMMAND.match(line):
            yield line


def links(text):
    """The relative links of a page, without their fragments."""
    every = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    return [link.partition("#")[0] for link in every if not re.match(r"https?:|mailto:|#", link)]
