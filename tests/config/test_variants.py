"""The paper's named variants: the configs with their fields can run, and reports know them by the same names."""

import importlib
import inspect

import pytest

from soda_jax.config import from_dict, validate
from soda_jax.config.variants import NEEDS, VARIANTS, Variant, apply, chosen, find, table_rows
from soda_jax.configs import cifar10, common, gso
from soda_jax.models.capabilities import LATENT
from soda_jax.models.families import FAMILIES
from soda_jax.reporting import paper

NAMED = {variant.name: variant for variant in VARIANTS}
CONFIGS = (
    *("afhq", "celeba_hq", "cifar10", "common", "cub", "folder", "gso", "imagenet", "lsun", "mpi3d", "multiview"),
    *("quickstart", "shapes3d"),
)


def known(variant: Variant) -> bool:
    """Whether any config can be of it here: of an encoder that needs no files, read by the usual evaluators."""
    family = FAMILIES.get(variant.fields.get("model.family", "soda"))
    return family is not None and LATENT in family.capabilities and "pretrained" not in variant.needs


def cases():
    """Each config with each of its arguments."""
    for name in CONFIGS:
        module = importlib.import_module(f"soda_jax.configs.{name}")
        takes_one = bool(inspect.signature(module.get_config).parameters)
        for argument in module.ARGUMENTS if takes_one else (None,):
            config = module.get_config(*[argument][:takes_one])
            config.data.root = config.data.root or "somewhere"
            yield f"{name}:{argument}" if takes_one else name, config.lock()


CASES = dict(cases())


@pytest.mark.parametrize("name", [name for name, variant in NAMED.items() if known(variant)])
def test_it_is_of_fields_that_exist_and_can_run(name):
    """With every config whose data it is for."""
    fitting = [case for case, config in CASES.items() if not NAMED[name].unfit(config)]
    assert fitting
    for case in fitting:
        config = CASES[case].copy_and_resolve_references()
        apply(config.lock(), name)
        validate(config, 8)
        assert config.variant == name


@pytest.mark.parametrize("name", NAMED)
def test_its_fields_exist_whatever_its_family(name):
    config = (gso if "cameras" in NAMED[name].needs else common).get_config().lock()
    before = config.to_dict()
    apply(config, name)
    assert set(NAMED[name].needs) <= set(NEEDS)
    assert config.to_dict().keys() == before.keys()


def test_fields_that_are_given_stay():
    config = gso.get_config()
    config.data.num_sources = 2
    apply(config.lock(), "w/o bottleneck", given={"data.num_sources", "train.batch_size"})
    assert (config.model.bottleneck, config.data.num_sources) == (False, 2)
    assert config.eval.novel_view_sources == (1,)


def test_without_cameras_nothing_of_theirs_changes():
    config = cifar10.get_config().lock()
    apply(config, "w/o bottleneck")
    assert config.eval.novel_view_sources == common.get_config().eval.novel_view_sources


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("w/o layer modulation", "w/o layer modulation"),
        ("W/O Layer Mod.", "w/o layer modulation"),
        ("without layer mask", "w/o layer mask"),
        ("w/o scale", "w/o scale modulation"),
        ("sum mod.", "sum modulation"),
        ("w/o noise sched.", "w/o noise schedule"),
        ("uncond", "Uncond"),
        ("palette", "Palette"),
        ("encdec", "EncDec"),
        ("factorvae", "FactorVAE"),
        ("latent masking", "latent masking"),
        ("pose  masking", "pose masking"),
        ("latent+pose masking", "latent+pose masking"),
    ],
)
def test_names_as_people_write_them(written, name):
    assert find(written).name == name


@pytest.mark.parametrize(("written", "nearest"), [("w/o bottlneck", "w/o bottleneck"), ("FactorVEA", "FactorVAE")])
def test_an_unknown_name_is_answered_with_all_of_them_the_nearest_first(written, nearest):
    with pytest.raises(ValueError) as error:
        find(written)
    message = str(error.value)
    assert message.startswith(f"no variant is called {written!r}; they are {nearest}; ") and "\n" not in message
    assert all(name in message for name in NAMED) and message.count(nearest) == 1


def test_a_variant_of_other_data_is_refused():
    for config, name, said in (
        (cifar10.get_config(), "sphere rays, polar", "with cameras: .* config.data.view_policy='augment'"),
        (gso.get_config(), "EncDec", "without cameras: .* config.data.view_policy='camera'"),
    ):
        with pytest.raises(ValueError, match=f"the variant {name!r} is for data {said}"):
            apply(config.lock(), name)
        assert config.variant == ""


def test_the_command_line_chooses():
    assert chosen(cifar10.get_config().lock(), None).variant == ""
    by_flag = chosen(cifar10.get_config().lock(), "w/o layer mod.", {"seed"})
    labelled = cifar10.get_config()
    labelled.variant = "w/o layer modulation"
    by_field = chosen(labelled.lock(), None, {"variant"})
    assert by_flag.to_dict() == by_field.to_dict()
    assert (by_flag.model.modulation.kind, by_flag.variant) == ("full", "w/o layer modulation")


def test_configs_of_earlier_releases_name_none():
    tree = common.get_config().to_dict()
    del tree["variant"]
    assert from_dict(tree).variant == ""


def test_none_is_another_by_a_second_name():
    assert len(NAMED) == len(VARIANTS)
    assert len({tuple(sorted(variant.fields.items())) for variant in VARIANTS}) == len(VARIANTS)


def test_every_row_of_the_papers_tables_is_one():
    rows = {figure.variant for dataset in paper.DATASETS.values() for figure in dataset.figures}
    assert rows - {paper.SODA} <= set(NAMED)
    tables = {(figure.variant, figure.table) for data in paper.DATASETS.values() for figure in data.figures}
    for name, table in tables - {(paper.SODA, table) for _, table in tables}:
        numbers = NAMED[name].where.removeprefix("Tables ").removeprefix("Table ").split(", ")
        assert table.removeprefix("Table ") in numbers, name


def test_table_8_has_six_forms_of_rays_and_three_of_vectors():
    """Typed from the paper; its last row, "2D Grid", is "Sphere, Polar" again."""
    poses = [variant.fields for variant in VARIANTS if variant.where == "Table 8"]
    forms = [
        (fields["model.pose.rays"], fields["model.pose.coordinates"]) for fields in poses if "model.pose.rays" in fields
    ]
    assert sorted(forms) == [
        ("concat", "cartesian"),
        ("concat", "polar"),
        ("normalized", "cartesian"),
        ("plane", "cartesian"),
        ("sphere", "cartesian"),
        ("sphere", "polar"),
    ]
    vectors = [(fields["model.pose.grid"], fields["model.pose.vector"]) for fields in poses]
    assert set(vectors) == {("rays", "none"), ("none", "absolute"), ("rays", "relative"), ("rays", "absolute")}


def test_rows_for_the_docs_hold_flags():
    row = next(row for row in table_rows() if row[0] == "`w/o bottleneck`")
    assert row[1:3] == ("Tables 1, 3, 11", "of any kind")
    assert row[3] == "`--config.model.bottleneck=False --config.model.modulation.kind=cross_attention`"
