"""The report's section on domain adaptation: validators, which use no target labels, beside the oracle, which does."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ..shared.html import Figures, Record, Runs, gallery, number, per_run, picture, section, table
from ..shared.sections import Section, add_section
from .figures import domains_figure

NOTE = (
    "Validators say how good a model may be on the target without looking at a label of it; larger is better. Metrics "
    "of the oracle use the target's labels and are there to judge the validators by. Proxy A-distance: how well a "
    "freshly trained linear classifier tells the domains apart by their features, from 0 (not at all) to 2 "
    "(perfectly). Pictures: a sample of both domains' features, the labels only for colours."
)
REGIONS = "label regions, principal components, domain regions and hidden units"
# title, key of the validation, key of the test
METRICS = (
    ("Source accuracy", "validator/source_accuracy", "source_accuracy"),
    ("Target accuracy (oracle)", "oracle/val_acc", "acc"),
    ("Target NLL (oracle)", "oracle/val_nll", "nll"),
    ("Source accuracy + information / log K", "validator/accuracy_and_information", None),
    ("Information maximisation", "validator/information_maximisation", None),
    ("Minus the mean entropy", "validator/entropy", None),
    ("Diversity", "validator/diversity", None),
    ("Soft neighbourhood density", "validator/snd", None),
    ("Deep embedded validation", "validator/dev", None),
    ("Largest density ratio of it", "validator/dev_max_weight", None),
)


def adaptation_section(runs: Runs, draw: Figures) -> str:
    """For each run a table of validators and oracle, the figures of the features, and the decision regions."""

    def adaptation(record: Record) -> str:
        results = record.get("adaptation") or {}
        judged = _table(results) + _choice(results) if results else ""
        figures = [
            draw(domains_figure(results[key], title), f"{title} of the features of both domains")
            for key, title in (("pca", "PCA"), ("tsne", "t-SNE"))
            if results.get(key)
        ]
        regions = record.get("decision_regions")
        return judged + gallery(figures, "pairs") + (picture(regions, REGIONS, kind="wide") if regions else "")

    return section("Domain adaptation", NOTE, per_run(runs, adaptation))


def _table(results: Mapping[str, Any]) -> str:
    validation, test = results["validation"], results["test"]
    rows = [
        f"<th>{title}</th><td>{number(validation.get(key), 4)}</td><td>{number(test.get(tested), 4)}</td>"
        for title, key, tested in METRICS
        if validation.get(key) is not None or test.get(tested) is not None
    ]
    if distance := results.get("proxy_a_distance"):
        rows.append(f"<th>Proxy A-distance</th><td>{number(None)}</td><td>{number(distance['value'], 3)}</td>")
    return table(["", "validation", "test"], rows)


def _choice(results: Mapping[str, Any]) -> str:
    source, target = results["names"]
    samples = "{:,} and {:,} test samples".format(*results["samples"])
    monitors = results["monitors"]
    if oracles := [name for name in monitors if name.startswith("oracle/")]:
        choice = f"Careful: the training went by {', '.join(oracles)}, so labels of the target were used for a choice"
    else:
        choice = "The oracle was not used for any choice in the training"
        choice += f", which went by {', '.join(monitors)}" if monitors else ""
    return f'<p class="note">Source {escape(source)}, target {escape(target)}; {samples}. {escape(choice)}.</p>'


add_section(Section(20, ("adaptation", "decision_regions"), adaptation_section))
