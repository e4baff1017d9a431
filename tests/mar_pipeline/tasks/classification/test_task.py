"""Laws of the task classification: what a batch is, what is scored, and what one training step does."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.tasks.classification.digits import load_part
from mar_pipeline.tasks.classification.samples import TrainingImages
from mar_pipeline.tasks.classification.settings import (
    ClassificationData,
    ClassificationSet,
    check_classification_data,
)
from mar_pipeline.tasks.classification.task import accuracy, classification_task, classification_test
from mar_pipeline.tasks.task import Task, TaskContext
from simulation.errors import UsageError

SMALL = ClassificationData(train_images=40, val_images=5, batch_size=10)


def small_task(data: ClassificationData = SMALL, name: str = "mar_pipeline.networks.classifiers.RotationCNN") -> Task:
    torch.manual_seed(0)
    return classification_task(TaskContext(name, {"groups": 2}, data, seed=0))


def batches(task: Task, epoch: int) -> list[dict[str, torch.Tensor]]:
    task.loaders.train.set_epoch(epoch)
    return list(task.loaders.train)


def test_a_batch_holds_images_and_labels() -> None:
    for batch in batches(small_task(), 1):
        assert batch["image"].shape == (10, 1, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert batch["label"].shape == (10,)
        assert batch["label"].dtype == torch.int64


def test_an_epoch_shows_every_image_once_upright() -> None:
    shown = torch.cat([batch["image"] for batch in batches(small_task(), 1)])
    images = torch.from_numpy(load_part("digits", "train", 40).images)[:, None]
    assert {own.numpy().tobytes() for own in shown} == {own.numpy().tobytes() for own in images}


def test_rotations_turn_images_by_all_quarters_and_leave_labels() -> None:
    digits = load_part("digits", "train", 40)
    samples, seen = TrainingImages(digits, rotations=True, seed=0), set()
    for number in range(40):
        sample = samples[1, number, number]
        assert sample["label"] == digits.labels[number]
        turned = [np.rot90(digits.images[number], turns) for turns in range(4)]
        seen |= {turns for turns in range(4) if np.array_equal(sample["image"][0], turned[turns])}
    assert seen == {0, 1, 2, 3}


def test_turns_follow_the_seed_and_the_epoch() -> None:
    digits = load_part("digits", "train", 40)

    def epoch_of(seed: int, epoch: int) -> bytes:
        samples = TrainingImages(digits, rotations=True, seed=seed)
        return b"".join(samples[epoch, number, number]["image"].numpy().tobytes() for number in range(40))

    assert epoch_of(0, 1) == epoch_of(0, 1)
    assert len({epoch_of(0, 1), epoch_of(0, 2), epoch_of(1, 1)}) == 3


def test_batches_do_not_depend_on_the_workers() -> None:
    data = ClassificationData(train_images=20, val_images=1, batch_size=10, rotations=True, workers=1)
    alone = ClassificationData(train_images=20, val_images=1, batch_size=10, rotations=True)
    for one, other in zip(batches(small_task(data), 2), batches(small_task(alone), 2), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


def test_validation_sees_every_image_at_all_quarter_turns() -> None:
    (batch,) = small_task().loaders.validation
    assert len(batch["image"]) == 4 * 5
    for turns in range(4):
        assert torch.equal(batch["image"][turns::4], torch.rot90(batch["image"][::4], turns, (-2, -1)))
        assert torch.equal(batch["label"][turns::4], batch["label"][::4])


def test_accuracy_counts_the_right_classes() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert accuracy(logits, {"label": torch.tensor([1, 2, 2])}) == {"accuracy": [1.0, 0.0, 1.0]}


def test_the_loss_of_an_undecided_answer_is_log_of_the_classes() -> None:
    task, labels = small_task(), torch.arange(10)
    assert float(task.loss(torch.zeros(10, 10), {"label": labels})) == pytest.approx(np.log(10))
    assert float(task.loss(50 * torch.eye(10), {"label": labels})) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wrong", [torch.zeros(10, 5), torch.zeros(10, 10, 1), (torch.zeros(10, 10),)])
def test_wrong_answers_are_refused_by_loss_and_score(wrong: object) -> None:
    task, batch = small_task(), {"label": torch.arange(10)}
    for use in (task.loss, task.turning_output, lambda answer, _: task.prediction(answer)):
        with pytest.raises(UsageError, match=r"^network: answers .*, expected \[batch, 10\]; give it"):
            use(wrong, batch)


def test_another_number_of_classes_is_refused() -> None:
    task = classification_task(TaskContext("cnn", {"groups": 1, "classes": 5}, SMALL, seed=0))
    batch = next(iter(task.loaders.train))
    with pytest.raises(UsageError, match=r"answers \[10, 5\], expected \[batch, 10\]"):
        task.loss(task.network(batch["image"]), batch)


def test_facts_tell_the_digits() -> None:
    assert small_task().facts == {"source": "scikit-learn's digits"}


def test_eq_reg_pairs_images_and_keeps_labels_and_its_steps_lower_the_penalty() -> None:
    task = small_task()
    ends, _ = task.network.typed_ends(4)
    fields = {name: after for name, (_, after) in ends.items()}
    regularizer = EquivarianceRegularizer(task.network, fields=fields, output_weight=1.0, batch_fraction=1.0)
    optimizer = torch.optim.Adam(task.network.parameters(), 1e-2)
    (first, *_) = batches(task, 1)
    penalties = []
    for _ in range(15):
        image, label = regularizer.prepare(first["image"], first["label"], fields=tuple(task.fields.values()))
        assert torch.equal(label, torch.cat((first["label"], first["label"])))
        assert torch.equal(image[10:], torch.rot90(image[:10], regularizer.n, (-2, -1)))
        output, batch = task.network(image), {"image": image, "label": label}
        penalty = regularizer.loss(task.turning_output(output, batch))
        penalties.append(float(penalty.detach()))
        optimizer.zero_grad()
        (task.loss(output, batch) + penalty).backward()
        optimizer.step()
    assert np.mean(penalties[-3:]) < 0.8 * np.mean(penalties[:3])


def test_the_test_set_holds_the_digits_that_no_training_sees() -> None:
    test = classification_test(ClassificationSet())
    assert len(test.samples) == 997
    assert not set(test.samples) & {n for part in ("train", "val") for n in load_part("digits", part).names}
    assert set(test.angles_deg) >= {0.0, 90.0, 180.0, 270.0}
    assert {round(b - a) for a, b in pairwise(test.angles_deg)} == {30}
    shown = list(test.loader)
    assert np.array_equal(torch.cat([b["label"] for b in shown]), load_part("digits", "test").labels)
    assert np.array_equal(torch.cat([b["image"] for b in shown])[:, 0], load_part("digits", "test").images)
    assert set(test.scores) == set(test.score(torch.zeros(200, 10), shown[0])) == {"accuracy"}


def test_fewer_test_images() -> None:
    test = classification_test(ClassificationSet(test_images=12))
    assert len(test.samples) == len(test.loader.dataset) == 12
    assert test.angle_figure is not None
    assert "12 test images" in test.angle_figure({"one": {0.0: [0.5]}}).axes[0].get_title()


@pytest.mark.parametrize("key", ["train_images", "val_images", "test_images", "batch_size", "batches_per_epoch"])
def test_numbers_below_one_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=rf"--data.{key}: got 0, expected 1 or more"):
        check_classification_data(ClassificationData(**{key: 0}))


def test_negative_workers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--data.workers: got -1, expected 0 or more"):
        small_task(ClassificationData(workers=-1))


def test_more_test_images_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--data.test_images: got 998, but this part of the source has 997 images"):
        classification_test(ClassificationSet(test_images=998))
