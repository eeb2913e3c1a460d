"""The paper's named variants: the configs with their fields can run, and reports know them by the same names."""

import pytest

from configs import common, gso, imagenet
from soda_jax.config import validate
from soda_jax.config.variants import VARIANTS, table_rows
from soda_jax.reporting import paper

NAMED = {variant.name: variant for variant in VARIANTS}


def with_variant(config, variant):
    """The config, locked, with the fields set as the command line would: an unknown one or another type raises."""
    config.data.root = "somewhere"
    config.lock().update_from_flattened_dict(variant.fields)
    return config


@pytest.mark.parametrize("name", NAMED)
def test_it_is_of_fields_that_exist_and_can_run(name):
    variant = NAMED[name]
    bases = (gso,) if "cameras" in variant.needs else (imagenet, common)
    for base in bases:
        validate(with_variant(base.get_config(), variant), 8)


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
    row = next(row for row in table_rows() if row[0] == "w/o bottleneck")
    assert row[1] == "Tables 1, 3, 11"
    assert row[2] == "`--config.model.bottleneck=False --config.model.modulation.kind=cross_attention`"
