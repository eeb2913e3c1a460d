"""Fills the blocks of docs/*.md that come from the code, or says which are stale.

    python docs/generate.py          # writes them
    python docs/generate.py --check  # writes nothing; ends with 1 and their names where one is stale

A page holds `<!-- generated: NAME -->` and `<!-- end of generated: NAME -->`, each on a line of its own; what stands
between them is what `BLOCKS[NAME]` returns.
"""

import argparse
import ast
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's own package, installed or not
# Where the paper's defaults stand: in the package, or beside it.
COMMON = ("soda_jax/configs/common.py", "configs/common.py")
BLOCK = re.compile(r"<!-- generated: (?P<name>\w+) -->\n.*?<!-- end of generated: (?P=name) -->", re.DOTALL)
SECTIONS = {
    "": "The whole run",
    "train": "Training",
    "optim": "Optimiser",
    "model": "Model",
    "diffusion": "Diffusion",
    "sampling": "Sampling",
    "data": "Data and views",
    "probe": "Online probe",
    "eval": "Evaluation",
}


class Field(NamedTuple):
    """A field of the config: its name without `config.`, the default as the source has it, and what comments say."""

    name: str
    default: str
    description: str


def read_fields(source: str) -> Iterator[Field]:
    """The fields that `get_config` in `source` assigns, in its order.

    A field's description is the comment lines directly above it, then the comment at its line's end.
    """
    comments, alone = _comments(source)
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "get_config")
    for node in function.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        default = ast.get_source_segment(source, node.value)
        if default == "ConfigDict()":
            continue
        above = node.lineno - 1
        while above in alone:
            above -= 1
        lines = [comments[line] for line in range(above + 1, node.lineno)]
        lines += [comments[node.end_lineno]] if node.end_lineno in comments else []
        yield Field(ast.unparse(node.targets[0]).removeprefix("config."), default, " ".join(lines))


def section_notes(source: str) -> dict[str, str]:
    """What the comments behind `config.SECTION = ConfigDict()` say, by the section's name."""
    comments, _ = _comments(source)
    sections = re.compile(r"\s*config\.([\w.]+) = ConfigDict\(\)")
    lines = enumerate(source.splitlines(), start=1)
    found = [(match.group(1), number) for number, line in lines if (match := sections.match(line))]
    return {name: comments[number] for name, number in found if number in comments}


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """(text of each comment by its line, lines that hold nothing but a comment)."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").rstrip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return comments, alone


def common_path() -> pathlib.Path:
    """The file with the defaults of every field."""
    return next(ROOT / name for name in COMMON if (ROOT / name).exists())


def common_fields() -> list[Field]:
    """Every field of the config."""
    return list(read_fields(common_path().read_text(encoding="utf-8")))


def fields() -> str:
    """A table of the config's fields for each of its sections."""
    notes = section_notes(common_path().read_text(encoding="utf-8"))
    tables: dict[str, list[str]] = {}
    for field in common_fields():
        section = field.name.partition(".")[0] if "." in field.name else ""
        default = re.sub(r"placeholder\(\w+\)", "None", " ".join(field.default.split()))
        description = field.description.replace("|", "\\|")
        tables.setdefault(section, []).append(f"| `{field.name}` | `{default}` | {description} |")
    blocks = []
    for section, rows in tables.items():
        note = f"\n{notes[section][:1].upper()}{notes[section][1:]}.\n" if section in notes else ""
        table = "\n".join(["| field | default | what |", "| --- | --- | --- |", *rows])
        blocks.append(f"### {SECTIONS.get(section, section)}\n{note}\n{table}")
    return "\n\n".join(blocks)


def datasets() -> str:
    """A table of the datasets by name."""
    from soda_jax.data.datasets import table_rows

    return _table(("`config.data.name`", "what"), table_rows())


def evaluators() -> str:
    """A table of what --mode=evaluate can measure."""
    from soda_jax.config.evaluators import table_rows

    return _table(("evaluator", "gives", "fields"), table_rows())


def image_metrics() -> str:
    """A table of the image metrics that an evaluation may name."""
    from soda_jax.metrics.registry import IMAGE_METRICS

    rows = [
        (
            f"`{name}`",
            f"{metric.label} ({metric.unit})" if metric.unit else metric.label,
            "pairs of images" if metric.network is None else "two sets of images",
            {"up": "higher", "down": "lower"}[metric.direction],
        )
        for name, metric in IMAGE_METRICS.items()
    ]
    return _table(("metric", "what", "compares", "better"), rows)


def pictures() -> str:
    """A table of what --mode=sample can draw."""
    from soda_jax.config.pictures import table_rows

    return _table(("picture", "shows"), table_rows())


def variants() -> str:
    """A table of the paper's named variants."""
    from soda_jax.config.variants import table_rows

    return _table(("`--variant`", "in the paper", "data", "sets"), table_rows())


def studies() -> str:
    """A table of the package's studies."""
    from soda_jax.studies.catalogue import table_rows

    return _table(("`--study`", "in the paper", "rows", "columns", "claims"), table_rows())


def study_sizes() -> str:
    """A table of the studies' sizes."""
    from soda_jax.studies.catalogue import size_rows

    return _table(("`--study`", "`--size`", "config", "seeds", "needs"), size_rows())


def study_claims() -> str:
    """A table of what the studies test."""
    from soda_jax.studies.catalogue import claim_rows

    return _table(("`--study`", "claim", "tested", "in the paper"), claim_rows())


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "fields": fields,
    "datasets": datasets,
    "evaluators": evaluators,
    "image_metrics": image_metrics,
    "pictures": pictures,
    "variants": variants,
    "studies": studies,
    "study_sizes": study_sizes,
    "study_claims": study_claims,
}


def filled(page: str) -> str:
    """`page` with every block as the code has it now.

    Raises:
      ValueError: a block's name is in no entry of `BLOCKS`.
    """

    def block(match: re.Match[str]) -> str:
        name = match.group("name")
        if name not in BLOCKS:
            raise ValueError(f"generated block {name!r} is unknown; known are {', '.join(BLOCKS)}")
        return f"<!-- generated: {name} -->\n\n{BLOCKS[name]()}\n\n<!-- end of generated: {name} -->"

    return BLOCK.sub(block, page)


def stale_pages() -> dict[pathlib.Path, str]:
    """What the pages that are not up to date should hold."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
    new = {path: filled(text) for path, text in pages.items()}
    return {path: text for path, text in new.items() if text != pages[path]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a block is stale")
    options = parser.parse_args(argv)
    stale = stale_pages()
    if options.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"stale: {names}; run python docs/generate.py")
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
