import contract
import pytest
import toys
from detectors import SMALL, Case, Small, cases, discover, is_concrete, missing_from_table

from adlearn.detector import Detector, FeatureDetector

HONEST = [Case(toys.ToyPixels, Small({"scale": 2.0})), Case(toys.ToyFeatures, Small())]
# Each detector here breaks the promises named, and must be caught by each of them.
BROKEN = {
    toys.NormalisesByBatch: [contract.no_score_depends_on_the_batch],
    toys.DrawsWithoutSeed: [contract.two_fits_with_one_seed_are_equal],
    toys.DrawsInPredict: [contract.predict_gives_the_same_twice, contract.no_score_depends_on_the_batch],
    toys.ForgetsState: [
        contract.a_saved_detector_predicts_the_same,
        contract.a_new_instance_with_the_state_predicts_the_same,
    ],
    toys.ForgetsArguments: [contract.a_saved_detector_predicts_the_same],
    toys.ScoresUnfitted: [contract.predict_before_fit_is_refused],
    toys.TakesAnything: [contract.unusable_images_are_refused],
    toys.DividesBySpread: [
        contract.one_training_image_gives_finite_scores,
        contract.duplicates_give_finite_scores,
        contract.constant_images_give_finite_scores,
    ],
    toys.SmallMaps: [contract.prediction_has_the_images_shape],
    toys.LooksTheOtherWay: [contract.a_bright_square_is_more_anomalous],
    toys.ReturnsNothing: [contract.fit_returns_the_detector],
    toys.KeepsGradients: [contract.prediction_is_finite_float_without_gradient],
    toys.OwnDatasetScores: [contract.a_dataset_is_scored_like_its_images],
    toys.WritesToImages: [contract.predict_leaves_the_images_alone],
    toys.SharesItsMean: [contract.a_copy_is_independent],
}


@pytest.fixture(scope="module")
def subject(tiny, tmp_path_factory):
    """One `Subject` for each class, made when first asked for."""
    made = {}

    def get(case):
        if case.cls not in made:
            made[case.cls] = contract.Subject(case, tiny, tmp_path_factory.mktemp(str(case)))
        return made[case.cls]

    return get


@pytest.mark.parametrize("promise", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", [*HONEST, *cases()], ids=str)
def test_detector_keeps(promise, case, subject):
    promise(subject(case))


def test_every_method_is_tested():
    missing = missing_from_table(discover())
    assert not missing, f"add {', '.join(missing)} to SMALL in tests/detectors.py"


def test_no_entry_of_the_table_is_stale():
    assert set(SMALL) <= {cls.__name__ for cls in discover()}


def test_an_unlisted_method_would_be_noticed():
    assert missing_from_table([toys.ToyPixels]) == ["ToyPixels"]


def test_only_classes_with_both_verbs_are_concrete():
    class HasOnlyFit(FeatureDetector):
        fit_features = toys.ToyFeatures.fit_features

    class OwnVerbs(FeatureDetector):
        fit, predict = toys.ToyPixels.fit, toys.ToyPixels.predict

    assert is_concrete(toys.ToyPixels) and is_concrete(toys.ToyFeatures) and is_concrete(OwnVerbs)
    assert not any(is_concrete(cls) for cls in (Detector, FeatureDetector, HasOnlyFit, int))


@pytest.mark.parametrize(
    ("cls", "promise"),
    [(cls, promise) for cls, promises in BROKEN.items() for promise in promises],
    ids=lambda value: value.__name__,
)
def test_contract_catches(cls, promise, subject):
    with pytest.raises(AssertionError):
        promise(subject(Case(cls, Small({"scale": 2.0}))))


def test_each_promise_is_seen_to_fail():
    assert {promise for promises in BROKEN.values() for promise in promises} == set(contract.CHECKS)
