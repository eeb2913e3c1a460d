"""What the documentation names exists: files and what they define, fields of the config, modules and their flags."""

import ast
import fnmatch
import importlib.util
import pathlib
import re

import pytest

from tests.docs import generator, pages

PACKAGE = pages.ROOT / "soda_jax"
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
FIELDS = {field.name for field in generator.common_fields()}
SECTIONS = {name.rsplit(".", depth)[0] for name in FIELDS for depth in range(1, name.count(".") + 1)}
# Of docs/generate.py and of XLA.
OTHER_FLAGS = {"check", "xla_force_host_platform_device_count"}
ABSL = {"help", "helpshort"}
ROOTED = re.compile(r"(?<![\w/.-])(?:soda_jax|configs|tests|launch|docs)/(?:[\w./-]*\w/?)?")


def is_placeholder(path: str) -> bool:
    """Whether a part of a path is in capitals: NAME, X, VARIANT."""
    return any(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", pathlib.PurePath(part).stem) for part in path.split("/"))


def exists(path: str) -> bool:
    """Whether the checkout or the package has a file or folder; of a bare name, whether any folder has it."""
    if "/" not in path:
        return any(pages.ROOT.glob(f"*/**/{path}")) or (pages.ROOT / path).exists()
    return any((folder / path).exists() for folder in (pages.ROOT, PACKAGE))


def paths(text: str) -> set[str]:
    """Paths from the checkout's root anywhere in a page; in inline code also those from the package, and file names."""
    found = set(ROOTED.findall(text))
    for code in pages.inline_code(text):
        in_room = code.split("/")[0] in ROOMS and "/" in code and re.fullmatch(r"[\w./]+", code)
        if in_room or re.fullmatch(r"[\w./]+\.py", code):
            found.add(code)
    return {path for path in found if not is_placeholder(path)}


def config_fields(text: str) -> set[str]:
    """`train.num_steps` of every `config.train.num_steps` in a page; `*` stands for any end."""
    found = re.findall(r"(?<![\w./])config\.([a-z]\w*(?:\.[a-z]\w*)*\*?)", text)
    return {field for field in found if not field.endswith(".py") and field not in ("py", "json")}


def short_fields(text: str) -> set[str]:
    """Fields in inline code without the `config.` before them."""
    sections = "|".join(sorted(name for name in SECTIONS if "." not in name))
    matches = (re.fullmatch(rf"((?:{sections})\.[\w.]+\*?)(=.*)?", code) for code in pages.inline_code(text))
    return {match[1] for match in matches if match and not match[1].endswith(".py")}


def symbols(text: str) -> set[tuple[str, str]]:
    """(name, file) of what a page says that a file has, as "`a` and `b` in `models/x.py`" or "`c` in `x.py`"."""
    names = r"`(?:\w+`(?:, | and )`)*\w+`"
    found = re.findall(rf"({names}) in `([\w./]+\.py)`", " ".join(pages.prose(text).split()))
    return {(name, file) for listed, file in found for name in re.findall(r"`(\w+)`", listed)}


def definitions(source: str) -> set[str]:
    """Names of functions, classes, methods, their arguments, and what is assigned outside of functions."""
    found = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found.add(child.name)
            if isinstance(child, ast.FunctionDef):
                found.update(argument.arg for argument in ast.walk(child.args) if isinstance(argument, ast.arg))
            elif isinstance(child, (ast.Assign, ast.AnnAssign)):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(target.id for target in targets if isinstance(target, ast.Name))
            else:
                walk(child)

    walk(ast.parse(source))
    return found


def flags_of(module: str) -> set[str]:
    """Names of the flags that a module's source defines; `config.FIELD` needs `config`."""
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    source = pathlib.Path(spec.origin).read_text(encoding="utf-8")
    config = {"config"} if "define_config_flag()" in source or 'startswith("--config.")' in source else set()
    return set(re.findall(r'(?:DEFINE_\w+|add_argument)\(\s*"(?:--)?(\w+)"', source)) | ABSL | config


def calls(text: str) -> set[tuple[str, frozenset[str]]]:
    """(module, its flags) of every `python -m soda_jax...` in a page."""
    found = set()
    for command in pages.commands(text):
        for module, rest in re.findall(r"-m (soda_jax[\w.]*)(.*)", command):
            if is_placeholder(module.replace(".", "/")):
                continue
            found.add((module, frozenset(re.findall(r"(?<!\S)[\"'\[]?--(\w+)", rest))))
    return found


@pytest.mark.parametrize("page", pages.PRESENT, ids=pages.name)
class TestPage:
    def test_paths_exist(self, page):
        missing = {path for path in paths(pages.read(page)) if not exists(path)}
        assert not missing

    def test_fields_exist(self, page):
        text = pages.read(page)
        named = config_fields(text)
        if page.name == "REPRODUCTION.md":
            named |= short_fields(text)
        assert not {name for name in named if not fnmatch.filter(FIELDS | SECTIONS, name)}

    def test_files_define_what_the_page_says(self, page):
        missing = []
        for name, file in symbols(pages.read(page)):
            sources = [folder / file for folder in (PACKAGE, pages.ROOT) if (folder / file).exists()]
            if not any(name in definitions(source.read_text(encoding="utf-8")) for source in sources):
                missing.append(f"{name} in {file}")
        assert not missing

    def test_modules_and_their_flags_exist(self, page):
        for module, flags in calls(pages.read(page)):
            try:
                defined = flags_of(module)
            except (AttributeError, ModuleNotFoundError):
                pytest.fail(f"there is no module {module}")
            assert flags <= defined, f"{module} has no {', '.join(flags - defined)}"

    def test_flags_by_themselves_exist(self, page):
        """In inline code that names no module."""
        defined = set(OTHER_FLAGS)
        for file in [PACKAGE / "main.py", *PACKAGE.glob("tools/*.py"), *PACKAGE.glob("tools/*/__main__.py")]:
            defined |= flags_of(".".join(file.relative_to(pages.ROOT).with_suffix("").parts))
        lone = [code for code in pages.inline_code(pages.read(page)) if code.startswith("--")]
        assert {re.match(r"--(\w+)", code)[1] for code in lone} <= defined


def test_symbols_are_found():
    text = "| `a` and `b_c` in `models/x.py` | `D`,\n`_e` in `x.py`, `f` in `y.md`; `g` in words |\n"
    assert symbols(text) == {("a", "models/x.py"), ("b_c", "models/x.py"), ("D", "x.py"), ("_e", "x.py")}
    source = "A: int = 1\nB = C = 2\nimport x\nclass D:\n    e: int\n    def f(self, g, *, h=i):\n        j = 1\n"
    assert definitions(source) == {"A", "B", "C", "D", "e", "f", "self", "g", "h"}
    assert {file for _, file in symbols(pages.read(pages.ROOT / "docs" / "paper_map.md"))} >= {"models/encoding.py"}


def test_names_are_found():
    text = (
        "`models/soda.py` in `soda_jax/`, tests/tiny.py; `configs/NAME.py`, `configs/cifar10.py:small`\n"
        "`config.train.num_steps` and `config.eval.novel_view_*`, tests/drill_config.py\n"
        "`data.root=DIR`, `unet.py`, `my.txt`\n"
        "`python -m soda_jax.main\n--config=x --mode=plan`\n"
        "```bash\npython -m soda_jax.tools.dci --codes=z.npy \\\n  --sections=16\n```\n"
    )
    assert paths(text) == {
        *("models/soda.py", "soda_jax/", "tests/tiny.py", "configs/cifar10.py", "tests/drill_config.py", "unet.py"),
    }
    assert exists("unet.py") and exists("models/soda.py") and not exists("soda.txt") and not exists("models/uent.py")
    assert config_fields(text) == {"train.num_steps", "eval.novel_view_*"}
    assert short_fields(text) == {"data.root"}
    assert calls(text) == {
        ("soda_jax.main", frozenset({"config", "mode"})),
        ("soda_jax.tools.dci", frozenset({"codes", "sections"})),
    }
    assert {"codes", "sections"} <= flags_of("soda_jax.tools.dci") and "codes" not in flags_of("soda_jax.main")
    assert {"kills", "stops"} <= flags_of("soda_jax.tools.drill")
