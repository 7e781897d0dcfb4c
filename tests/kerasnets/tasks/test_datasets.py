"""Checks that a dataset belongs to a task."""

import pytest

from kerasnets.data.splits import SPLITS, DataError, PairSplits, TextSplits
from kerasnets.tasks import TASKS, make_task
from kerasnets.tasks.datasets import check_dataset


@pytest.mark.parametrize(
    ("task_name", "dataset", "message"),
    [
        ("image_classification", "pydocs", "'pydocs' is for text_generation; .* digits"),
        ("text_generation", "folder:x", "'folder:' is not for text_generation; .* file:PATH"),
        ("image_classification", "file:x", "'file:' is not for image_classification; .* folder:PATH"),
        ("translation", "", "no dataset is named; it must be cldr, file:PATH"),
        ("translation", "file:", "no dataset is named"),
    ],
)
def test_datasets_that_do_not_fit_the_task_are_rejected(task_name, dataset, message):
    with pytest.raises(DataError, match=message):
        check_dataset(TASKS[task_name], dataset)
    task = make_task(task_name, TASKS[task_name].config(dataset))
    with pytest.raises(DataError, match=message):
        task.split_sizes()


@pytest.mark.parametrize(
    ("task_name", "dataset"), [(name, dataset) for name in TASKS for dataset in TASKS[name].bundled]
)
def test_bundled_datasets_load(task_name, dataset):
    data = make_task(task_name, TASKS[task_name].config(dataset)).data
    assert data.description and all(data.count(split) > 100 for split in SPLITS)


def test_first_keeps_the_first_examples_of_each_split():
    pairs = (["a", "b", "c"], ["x", "y", "z"])
    data = PairSplits(pairs, pairs, (["a"], ["x"]), "pairs")
    assert data.first(2).train == (["a", "b"], ["x", "y"]) and data.first(2).test == (["a"], ["x"])
    text = TextSplits("abc", "de", "f", "a text")
    assert text.first(2).train == "ab" and [text.first(2).count(split) for split in SPLITS] == [2, 2, 1]
    assert data.classes == text.classes == ()
