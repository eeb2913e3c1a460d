"""The whole page: self-contained, with every figure, interval and reason; and its Markdown twin."""

import html.parser
import re
import types

import pytest

from soda_jax.configs import imagenet
from soda_jax.reporting import page
from soda_jax.tools import report
from tests import tiny
from tests.reporting import made_runs

LINKS = ("src", "href", "srcset", "action", "data", "poster")


class Parsed(html.parser.HTMLParser):
    """Tags, links and text of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "br", "hr", "input", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self._open = [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.rpartition(":")[2] in LINKS]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.rpartition(":")[2] in LINKS]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def made(workdir, **options):
    """(HTML parsed, Markdown) of a workdir."""
    paths = page.write(str(workdir), **options)
    texts = [path.read_text() for path in paths]
    return Parsed(texts[0]), texts[1]


def plain(markdown):
    return re.sub(r"\\(.)", r"\1", markdown)


@pytest.fixture(scope="module")
def small_imagenet(tmp_path_factory):
    """A run of 1,000 steps of ImageNet at half the resolution, with an evaluation of today's format."""
    folder = tmp_path_factory.mktemp("runs") / "small_imagenet"
    config = imagenet.get_config()
    config.data.resolution = 64
    config.train.num_steps = 2000
    made_runs.record(folder, config, (0, 400), (400, 1000))
    rows = [{"step": step, "loss": 1 / step, "images_per_second": 100} for step in range(100, 1001, 100)]
    made_runs.metrics(folder, *rows, {"step": 1000, "eval/loss": 0.01, "probe/label": 0.5, "probe/mean": 0.5})
    made_runs.evaluation(folder, 500, {"SODA": {"linear_probe/label": 0.61}})
    made_runs.evaluation(
        folder,
        1000,
        made_runs.NEW_RESULTS,
        format_version=2,
        date="2026-01-02T03:04:05+00:00",
        evaluators=["linear_probe"],
        num_images={"linear_probe": 700},
        earlier=[
            {
                "evaluators": ["reconstruction"],
                "date": "2025-12-31T01:02:03+00:00",
                "settings": {"sampling": config.sampling.to_dict() | {"num_steps": 20}},
            }
        ],
        settings={"eval": {"test_examples": 700}, "sampling": config.sampling.to_dict()},
        hardware={"platform": "gpu", "device_kind": "Test GPU", "device_count": 4, "process_count": 1},
        git={"revision": "0123456789abcdef" * 2 + "01234567", "modified": True},
    )
    made_runs.picture(folder, "images/reconstructions_00000500.png")
    made_runs.picture(folder, "images/reconstructions_00001000.png")
    made_runs.picture(folder, "samples/turntable_00001000_seed0.gif")
    return folder


@pytest.fixture(scope="module")
def pages(small_imagenet):
    return made(small_imagenet)


def test_needs_nothing_beside_it(pages):
    parsed, _ = pages
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert parsed.links and all(link.startswith(("#", "data:")) for link in parsed.links)
    assert parsed.tags.count("img") == 3


def test_figures_intervals_and_the_papers_numbers(pages):
    for text in (pages[0].text, plain(pages[1])):
        assert "70.12" in text and "[69.71, 70.55]" in text
        assert "21.50" in text and "[21.25, 21.75]" in text
        assert "72.24" in text and "Table 9" in text and "90.5" in text and "23.63" in text
        assert text.count("not comparable") >= 4 and "comparable</span>" not in text
        assert "resolution 64 (paper 128)" in text
        assert "1,000 steps x batch = 4.1 million images" in text
        assert "at most 700 test examples" in text
        assert "95 % intervals over 50,000 images" in text
        assert "4 x Test GPU" in text and "0123456789ab + changes" in text


def test_settings_are_those_of_the_evaluator(pages):
    """The probe and the reconstructions were measured on different days, in different ways."""
    for text in (pages[0].text, plain(pages[1])):
        assert "linear_probe (700)" in text and "2026-01-02 03:04" in text and "2025-12-31 01:02" in text
        assert re.search(r"sampling\.num_steps[ |]+100[ |]+20[ |]+reconstruction", text)
        assert re.search(r"eval\.test_examples[ |]+0[ |]+700[ |]+linear_probe", text)
        assert "20 steps (paper 75-250)" in text and "at most 700 test examples" in text
        assert "at most 64 test examples" in text  # of the reconstructions, by the run's config


def test_what_was_trained(pages):
    for text in (pages[0].text, plain(pages[1])):
        assert "1,000 steps" in text and "x batch 4,096 = 4.1 million images; 2,000 steps planned" in text
        assert re.search(r"data\.resolution[ |]+128[ |]+64", text)
        assert "0 to 400" in text and "400 to 1,000" in text
    fields = re.findall(r"^\| (data\.\w+)", plain(pages[1]).split("## What was trained")[1], re.M)
    changed = {"num_workers", "randaugment_rate", "resolution", "source_resolution"}  # the recipe's, and one of the run
    changed |= {"eval_crop", "train_split", "eval_split", "test_split"}
    assert {field.removeprefix("data.") for field in fields} == changed


def test_curves_online_probe_and_earlier_evaluations(pages):
    parsed, markdown = pages
    assert parsed.tags.count("svg") >= 3
    for text in (parsed.text, plain(markdown)):
        assert "Online probe" in text and "50.00" in text
        assert "Earlier evaluations" in text and "61.00" in text


def test_markdown_tables_are_whole(pages):
    lines = pages[1].splitlines()
    rows = [(number, line) for number, line in enumerate(lines) if line.startswith("|")]
    widths = {}
    for number, line in rows:
        start = number
        while lines[start - 1].startswith("|"):
            start -= 1
        widths.setdefault(start, set()).add(len(re.findall(r"(?<!\\)\|", line)))
        assert lines[start + 1].startswith("| ---") and lines[start - 1] == ""
    assert len(widths) >= 6 and all(len(counts) == 1 for counts in widths.values())


def test_elsewhere_pictures_are_found_from_the_page(small_imagenet, tmp_path):
    _, markdown = made(small_imagenet, output=str(tmp_path / "out"))
    links = re.findall(r"!\[.*?\]\(<(.*?)>\)", markdown)
    assert len(links) == 2 and all((tmp_path / "out" / link).is_file() for link in links)


def test_pictures_that_move_are_shown_moving(tmp_path):
    made_runs.record(tmp_path / "run", tiny.get_config(), (0, 5))
    for suffix in ("png", "gif"):
        made_runs.picture(tmp_path / "run", f"samples/interpolation_00000005_seed0.{suffix}")
    (tmp_path / "run" / "samples" / "interpolation_00000005_seed0.mp4").write_bytes(b"film")
    parsed, markdown = made(tmp_path / "run", output=str(tmp_path / "out"))
    assert parsed.tags.count("img") == 2 and "interpolation seed0, step 5, moving" in parsed.text
    links = re.findall(r"\]\(<(.*?)>\)", markdown)
    assert [link.rpartition(".")[2] for link in links] == ["png", "gif", "mp4"]
    assert all((tmp_path / "out" / link).is_file() for link in links)


def test_text_of_a_run_is_never_markup(tmp_path):
    config = tiny.get_config(data__name="<script>alert(1)</script>|x")
    folder = tmp_path / "a<b>&`c|"
    made_runs.record(folder, config, (0, 5))
    results = {"SODA": {"<i>own</i>/a|b": 0.5}, "<b>row</b>|": {"<i>own</i>/a|b": 0.25}}
    made_runs.evaluation(folder, 5, results, date="<u>now</u>")
    parsed, markdown = made(folder)
    assert not {"script", "i", "u"} & set(parsed.tags)
    assert "<script>alert(1)</script>|x" in parsed.text
    assert not re.search(r"(?<!\\)<(script|i|u|b)>", markdown)


def test_a_run_that_has_only_begun(tmp_path):
    made_runs.record(tmp_path / "run", tiny.get_config(), (0, 0))
    parsed, markdown = made(tmp_path / "run")
    assert "Not evaluated yet" in parsed.text and "Not evaluated yet" in markdown


def test_a_run_older_than_its_record(tmp_path):
    made_runs.metrics(tmp_path, {"step": 10, "loss": 1.0, "images_per_second": 0.0})
    made_runs.evaluation(tmp_path, 10, {"SODA": {"knn20/label": 0.5}, "raw pixels": {}})
    text = made(tmp_path)[0].text
    assert "No config was found" in text and "No intervals: no spread was measured." in text


def test_many_targets_are_folded_away(tmp_path):
    names = [f"attribute_{number}" for number in range(40)]
    row = {f"linear_probe/{name}{end}": 0.5 for name in (*names, "mean") for end in ("", "_f1")}
    made_runs.evaluation(tmp_path, 10, {"SODA": row})
    parsed, _ = made(tmp_path)
    before, _, folded = parsed.text.partition("80 more")
    assert "accuracy, mean of the labels" in before and "attribute 7" not in before and "F1, attribute 7" in folded


def test_charts_along_an_axis(tmp_path):
    def figure(value):
        return {"value": value, "low": value - 1, "high": value + 1, "count": 9, "over": "objects"}

    row = {f"novel_view{count}/psnr": figure(20.0 + count) for count in (9, 1, 3)}
    made_runs.evaluation(tmp_path, 10, {"SODA": row, "nearest source": {"novel_view1/psnr": 15.0}})
    parsed, _ = made(tmp_path)
    assert "Novel views: PSNR" in parsed.text and "SODA 21 at sources 1, 29 at 9" in parsed.text


def test_the_papers_dataset_by_hand(tmp_path):
    made_runs.record(tmp_path, tiny.get_config(data__name="multiview"), (0, 10))
    made_runs.evaluation(tmp_path, 10, {"SODA": {"novel_view1/psnr": 14.0}})
    assert "--dataset=gso" in made(tmp_path)[0].text
    named = made(tmp_path, dataset="gso")[0].text
    assert "24.97" in named and "renderings are its own" in named and "--dataset=gso" not in named
    with pytest.raises(ValueError, match="dataset='gos' is not among the paper's: imagenet2012, celeba_hq, gso"):
        page.write(str(tmp_path), "gos")


def test_command_line(small_imagenet, tmp_path, capsys):
    options = types.SimpleNamespace(workdir=str(small_imagenet), dataset="", output=str(tmp_path))
    report.main(options)
    assert capsys.readouterr().out.splitlines() == [
        f"written to {tmp_path / name}" for name in ("report.html", "report.md")
    ]
    options.workdir = str(tmp_path / "missing")
    with pytest.raises(SystemExit, match="error: workdir=.*missing: there is no such folder"):
        report.main(options)
