"""What every detector promises, one function a promise; each raises AssertionError when it is broken."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectors import Case
from PIL import Image
from tiny import SIDE, SQUARE

from adlearn.data.base import AnomalyDataset, Benchmark, Sample
from adlearn.detector import Detector, Prediction
from adlearn.errors import DataError

CHECKS: list[Callable[["Subject"], None]] = []


class Subject:
    """A case, the tiny data, a folder to write to, and one fitted detector shared by all checks."""

    def __init__(self, case: Case, tiny: Benchmark, folder: Path):
        self.case, self.tiny, self.folder = case, tiny, folder
        self.training = case.training_set(tiny)
        self.images = tiny.test.images()
        self._fitted: Detector | None = None

    @property
    def detector(self) -> Detector:
        if self._fitted is None:
            self._fitted = self.case.fitted(self.training)
        return self._fitted

    def predict(self, images: torch.Tensor) -> Prediction:
        return self.detector.predict(images)


def promise(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    CHECKS.append(check)
    return check


@promise
def fit_returns_the_detector(subject: Subject) -> None:
    detector = subject.case.build()
    assert detector.fit(subject.training) is detector


@promise
def prediction_has_the_images_shape(subject: Subject) -> None:
    for count in (1, 3):
        found = subject.predict(subject.images[:count])
        assert found.score.shape == (count,)
        assert found.map is None or found.map.shape == (count, SIDE, SIDE)


@promise
def prediction_is_finite_float_without_gradient(subject: Subject) -> None:
    found = subject.predict(subject.images)
    for values in (found.score, found.map):
        if values is not None:
            assert values.is_floating_point() and torch.isfinite(values).all() and not values.requires_grad


@promise
def predict_leaves_the_images_alone(subject: Subject) -> None:
    images = subject.images.clone()
    subject.predict(images)
    assert torch.equal(images, subject.images)


@promise
def no_score_depends_on_the_batch(subject: Subject) -> None:
    together = subject.predict(subject.images)
    alone = Prediction.cat([subject.predict(image[None]) for image in subject.images])
    backwards = subject.predict(subject.images.flip(0))
    _assert_close(alone, together)
    _assert_close(Prediction(backwards.score.flip(0)), Prediction(together.score))


@promise
def predict_gives_the_same_twice(subject: Subject) -> None:
    _assert_equal(subject.predict(subject.images), subject.predict(subject.images))


@promise
def two_fits_with_one_seed_are_equal(subject: Subject) -> None:
    again = subject.case.fitted(subject.training)
    _assert_equal(again.predict(subject.images), subject.predict(subject.images))


@promise
def a_saved_detector_predicts_the_same(subject: Subject) -> None:
    path = subject.folder / "detector.pt"
    subject.detector.save(path)
    assert set(torch.load(path, weights_only=True)) == {"class", "config", "state"}
    loaded = Detector.load(path)
    assert type(loaded) is subject.case.cls
    _assert_equal(loaded.predict(subject.images), subject.predict(subject.images))


@promise
def a_new_instance_with_the_state_predicts_the_same(subject: Subject) -> None:
    other = subject.case.build()
    other.load_state_dict(subject.detector.state_dict())
    _assert_equal(other.eval().predict(subject.images), subject.predict(subject.images))


@promise
def a_dataset_is_scored_like_its_images(subject: Subject) -> None:
    _assert_close(
        subject.detector.predict_dataset(subject.tiny.test, batch_size=3), subject.predict(subject.images)
    )


@promise
def a_bright_square_is_more_anomalous(subject: Subject) -> None:
    labels = subject.tiny.test.labels.bool()
    found = subject.predict(subject.images)
    assert found.score[labels].min() > found.score[~labels].max()
    if found.map is not None:
        defective = found.map[labels]
        inside = defective[(slice(None), *SQUARE)].mean(dim=(1, 2))
        assert (inside > defective.mean(dim=(1, 2))).all()


@promise
def one_training_image_gives_finite_scores(subject: Subject) -> None:
    _assert_finite_after_fit(subject, _with_defect(subject, subject.tiny.train.samples[:1]))


@promise
def duplicates_give_finite_scores(subject: Subject) -> None:
    _assert_finite_after_fit(subject, _with_defect(subject, subject.tiny.train.samples[:1] * 6))


@promise
def constant_images_give_finite_scores(subject: Subject) -> None:
    path = subject.folder / "constant.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), 128, np.uint8)).save(path)
    _assert_finite_after_fit(subject, _with_defect(subject, [Sample(path, 0)] * 4))
    flat = torch.stack([torch.full((3, SIDE, SIDE), value) for value in (0.0, 0.5, 1.0)])
    assert torch.isfinite(subject.predict(flat).score).all()


@promise
def unusable_images_are_refused(subject: Subject) -> None:
    good = subject.images[:2]
    broken = good.clone()
    broken[1, 0, 0, 0] = torch.nan
    unusable = [broken, good / 0, good[0], good[:, :1], good.flatten(2), (good * 255).to(torch.uint8)]
    for images in [*unusable, subject.tiny.test[0]]:
        _assert_refused(subject.detector, images, "images")


@promise
def predict_before_fit_is_refused(subject: Subject) -> None:
    if subject.case.small.unlearned:
        return
    _assert_refused(subject.case.build(), subject.images, "fit")
    _assert_refused(subject.case.build(), subject.tiny.test, "fit")


@promise
def a_copy_is_independent(subject: Subject) -> None:
    before = subject.predict(subject.images)
    copied = copy.deepcopy(subject.detector)
    copied.fit(subject.case.training_set(subject.tiny).take(5))
    _assert_equal(subject.predict(subject.images), before)


def _with_defect(subject: Subject, samples: list[Sample]) -> AnomalyDataset:
    """`samples`, and a defective one for supervised methods, under a name of their own."""
    defective = [s for s in subject.tiny.test.samples if s.label][:1] if subject.case.small.supervised else []
    return AnomalyDataset("tiny/few", [*samples, *defective], SIDE, has_masks=True)


def _assert_finite_after_fit(subject: Subject, dataset: AnomalyDataset) -> None:
    found = subject.case.fitted(dataset).predict(subject.images)
    assert torch.isfinite(found.score).all()
    assert found.map is None or torch.isfinite(found.map).all()


def _assert_refused(detector: Detector, data: torch.Tensor | AnomalyDataset, word: str) -> None:
    predict = detector.predict_dataset if isinstance(data, AnomalyDataset) else detector.predict
    try:
        predict(data)
    except DataError as error:
        assert word in str(error), f"the message does not speak of {word!r}: {error}"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of DataError: {error}") from error
    else:
        raise AssertionError("accepted")


def _assert_equal(a: Prediction, b: Prediction) -> None:
    assert torch.equal(a.score, b.score)
    assert (a.map is None) == (b.map is None)
    assert a.map is None or torch.equal(a.map, b.map)


def _assert_close(a: Prediction, b: Prediction) -> None:
    """Within 1e-4 of the scores' (the maps') largest size."""
    for left, right in ((a.score, b.score), (a.map, b.map)):
        if left is not None and right is not None:
            scale = right.abs().max().item() or 1.0
            torch.testing.assert_close(left, right, rtol=0, atol=1e-4 * scale)
