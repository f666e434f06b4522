"""Every metric against an independent reference, its invariances, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adlearn.bench.metrics import example_maps, sorted_aupro
from adlearn.errors import DataError
from adlearn.metrics import (
    Interval,
    Region,
    aupr,
    aupro,
    auroc,
    bootstrap_interval,
    delong_interval,
    evaluate,
    f1_max,
    pixel_aupr,
    pixel_auroc,
    pixel_f1_max,
    pr_curve,
    pro_curve,
    quantile_threshold,
    roc_curve,
    saturate,
    spro,
    spro_curve,
    tail_threshold,
)

limits = st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5, 1.0])
floats = st.floats(-1e6, 1e6, width=32)
untimed = settings(deadline=None, max_examples=60)


@st.composite
def rankings(draw):
    """Scores and labels of both kinds; few levels, so that many tie."""
    size = draw(st.integers(2, 30))
    scores = draw(arrays(np.float32, size, elements=draw(st.sampled_from([st.integers(0, 4), floats]))))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    return scores, draw(st.permutations(range(size)).map(lambda order: labels[order]))


@st.composite
def pictures(draw):
    """Small maps with ties and masks with at least one defective and one defect-free pixel."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5)))
    maps = draw(arrays(np.float32, shape, elements=draw(st.sampled_from([st.integers(0, 5), floats]))))
    masks = draw(arrays(bool, shape))
    masks.flat[:2] = True, False
    return maps, masks


def components(masks):
    """(N, H, W) bool masks, one per 8-connected region, found by flood fill."""
    left = {tuple(i) for i in np.argwhere(masks)}
    regions = []
    while left:
        region, front = np.zeros(masks.shape, bool), [left.pop()]
        while front:
            n, y, x = front.pop()
            region[n, y, x] = True
            near = {(n, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
        regions.append(region)
    return regions


def swept_area(maps, regions, saturations, limit):
    """The definition: every distinct score as a threshold, trapezoids clipped at the limit one by one."""
    normal = ~np.any(regions, axis=0)
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        overlaps = [min((found & r).sum() / s, 1) for r, s in zip(regions, saturations, strict=True)]
        points.append(((found & normal).sum() / normal.sum(), np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def per_image(regions, saturations, count):
    """The references' (N, H, W) regions as the lists `spro` takes."""
    lists = [[] for _ in range(count)]
    for region, saturation in zip(regions, saturations, strict=True):
        image = int(np.argwhere(region)[0, 0])
        lists[image].append(Region(region[image], saturation))
    return lists


@untimed
@given(rankings())
def test_image_metrics_equal_scikit_learn(ranking):
    scores, labels = ranking
    assert auroc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn.metrics.average_precision_score(labels, scores)
    assert aupr(scores, labels) == pytest.approx(expected, abs=1e-12)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert f1_max(scores, labels).f1 == pytest.approx(f1.max(), abs=1e-12)


@untimed
@given(rankings())
def test_f1_threshold_gives_the_f1_it_promises(ranking):
    scores, labels = ranking
    best = f1_max(scores, labels)
    assert sklearn.metrics.f1_score(labels, scores >= best.threshold) == pytest.approx(best.f1, abs=1e-12)


def test_of_two_thresholds_with_the_best_f1_the_higher_is_given():
    assert f1_max([3, 2, 1, 0], [1, 0, 0, 1]) == (2 / 3, 3)


@untimed
@given(rankings())
def test_every_point_of_the_roc_and_pr_curves_is_where_its_threshold_leads(ranking):
    scores, labels = ranking
    roc, pr = roc_curve(scores, labels), pr_curve(scores, labels)
    for x, y, threshold in zip(roc.x, roc.y, roc.thresholds, strict=True):
        alarms = scores >= threshold
        assert (x, y) == (alarms[labels == 0].mean(), alarms[labels == 1].mean())
    for recall, precision, threshold in list(zip(pr.x, pr.y, pr.thresholds, strict=True))[1:]:
        alarms = scores >= threshold
        assert (recall, precision) == (alarms[labels == 1].mean(), labels[alarms].mean())


@untimed
@given(rankings())
def test_areas_of_the_roc_and_pr_curves_are_the_metrics(ranking):
    scores, labels = ranking
    roc, pr = roc_curve(scores, labels), pr_curve(scores, labels)
    assert (roc.x[-1], roc.y[-1]) == (1, 1)
    assert sklearn.metrics.auc(roc.x, roc.y) == pytest.approx(auroc(scores, labels), abs=1e-12)
    assert np.sum(np.diff(pr.x) * pr.y[1:]) == pytest.approx(aupr(scores, labels), abs=1e-12)


@untimed
@given(pictures())
def test_pixel_metrics_equal_scikit_learn_on_flat_pixels(picture):
    maps, masks = picture
    flat, marks = maps.ravel(), masks.ravel()
    assert pixel_auroc(maps, masks) == pytest.approx(sklearn.metrics.roc_auc_score(marks, flat), abs=1e-12)
    expected = sklearn.metrics.average_precision_score(marks, flat)
    assert pixel_aupr(maps, masks) == pytest.approx(expected, abs=1e-12)
    assert pixel_f1_max(maps, masks) == f1_max(flat, marks)


@untimed
@given(pictures(), limits)
def test_aupro_equals_a_sweep_over_every_threshold(picture, limit):
    maps, masks = picture
    regions = components(masks)
    expected = swept_area(maps, regions, [r.sum() for r in regions], limit)
    assert aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-9)


@untimed
@given(pictures(), limits, st.data())
def test_spro_equals_a_sweep_over_every_threshold_also_for_overlapping_regions(picture, limit, data):
    maps, masks = picture
    regions = [*components(masks), masks & (np.arange(len(masks)) == 0)[:, None, None]]
    saturations = [data.draw(st.floats(0.5, float(r.sum()))) for r in regions]
    expected = swept_area(maps, regions, saturations, limit)
    assert spro(maps, per_image(regions, saturations, len(maps)), limit) == pytest.approx(expected, abs=1e-9)


@untimed
@given(pictures(), limits)
def test_spro_saturated_at_the_area_is_aupro(picture, limit):
    maps, masks = picture
    regions = components(masks)
    lists = per_image(regions, [r.sum() for r in regions], len(maps))
    assert spro(maps, lists, limit) == pytest.approx(aupro(maps, masks, limit), abs=1e-12)


@untimed
@given(pictures(), limits)
def test_every_point_of_the_pro_curve_is_where_its_threshold_leads(picture, limit):
    maps, masks = picture
    curve = pro_curve(maps, masks, limit)
    for x, y, threshold in zip(curve.x, curve.y, curve.thresholds, strict=True):
        found = maps >= threshold
        assert x == pytest.approx(found[~masks].mean(), abs=1e-12)
        assert y == pytest.approx(np.mean([found[r].mean() for r in components(masks)]), abs=1e-12)
    assert curve.x[-1] >= limit
    assert np.all(np.diff(curve.x) >= 0) and np.all(np.diff(curve.y) >= 0)


def test_aupro_agrees_with_sorting_all_pixels_on_realistic_maps():
    maps, masks = example_maps(count=10, side=64)
    value = aupro(maps, masks)
    assert value == pytest.approx(sorted_aupro(maps, masks), abs=1e-10)
    assert 0.15 < value < 0.95


def test_diagonal_neighbours_are_one_region_and_images_never_join():
    maps = np.zeros((2, 3, 3), np.float32)
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[1, 1, 1] = True
    maps[0, 0, 0] = 1  # half of the first region: 1/2 of the overlap of one of two regions
    assert pro_curve(maps, masks).y[1] == pytest.approx(0.25)


def test_a_large_and_a_small_region_count_the_same():
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :4, :4] = masks[0, 7, 7] = True
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 7, 7] = 1
    # One of two regions at once, the other in one slope with all defect-free pixels.
    assert aupro(maps, masks, 1.0) == pytest.approx(0.75)


def test_saturation_reached_is_full_credit():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2] = True
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, :3] = 1
    assert spro(maps, [[Region(masks[0], 3)]]) == 1
    assert spro_curve(maps, [[Region(masks[0], 6)]]).y[1] == pytest.approx(0.5)


def test_saturation_follows_the_datasets_configuration():
    assert saturate(200, 0.5, relative=True) == 100
    assert saturate(200, 1.0, relative=True) == 200
    assert saturate(200, 300, relative=False) == 200
    assert saturate(200, 30, relative=False) == 30
    assert saturate(1, 0.5, relative=True) == 1


def test_perfect_and_inverted_maps_score_one_and_zero():
    _, masks = example_maps(count=4, side=32)
    maps = masks.astype(np.float32)
    assert (pixel_auroc(maps, masks), pixel_aupr(maps, masks)) == (1, 1)
    assert aupro(maps, masks) == pytest.approx(1, abs=1e-12)
    assert pixel_f1_max(maps, masks) == (1, 1)
    assert (aupro(-maps, masks), pixel_auroc(-maps, masks)) == (0, 0)


def test_constant_maps_score_as_chance():
    maps, masks = example_maps(count=4, side=32)
    assert pixel_auroc(maps * 0, masks) == 0.5
    assert aupro(maps * 0, masks, 0.3) == pytest.approx(0.15)


def all_values(maps, masks):
    return [
        pixel_auroc(maps, masks),
        pixel_aupr(maps, masks),
        pixel_f1_max(maps, masks).f1,
        aupro(maps, masks),
    ]


@untimed
@given(pictures())
def test_a_monotone_change_of_scores_changes_nothing(picture):
    maps, masks = picture
    ranks = scipy.stats.rankdata(maps, method="dense").reshape(maps.shape)
    assert all_values(ranks**3, masks) == pytest.approx(all_values(maps, masks), abs=1e-12)


@untimed
@given(pictures())
def test_the_order_and_orientation_of_images_change_nothing(picture):
    maps, masks = picture
    turned = all_values(maps[::-1, :, ::-1], masks[::-1, :, ::-1])
    assert turned == pytest.approx(all_values(maps, masks), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors_of_any_precision_give_the_numbers_of_numpy(dtype):
    maps, masks = example_maps(count=4, side=32)
    tensor = torch.from_numpy(maps).to(dtype).requires_grad_()
    expected = all_values(tensor.detach().double().numpy(), masks)
    assert all_values(tensor, torch.from_numpy(masks)) == expected
    assert all_values(tensor, torch.from_numpy(masks).long()) == expected


def test_inputs_are_left_as_they_were():
    maps, masks = example_maps(count=4, side=32)
    before = maps.copy(), masks.copy()
    all_values(maps, masks)
    assert np.array_equal(maps, before[0]) and np.array_equal(masks, before[1])


def gaussian_test_set(seed, normals=80, anomalies=40, shift=1.0):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.standard_normal(normals), rng.standard_normal(anomalies) + shift])
    return scores, np.repeat([0, 1], [normals, anomalies])


@untimed
@given(rankings(), st.integers(0, 5))
def test_the_fast_bootstrap_of_auroc_is_the_plain_one(ranking, seed):
    fast = bootstrap_interval(auroc, *ranking, samples=5, seed=seed)
    plain = bootstrap_interval(lambda s, y: auroc(s, y), *ranking, samples=5, seed=seed)
    assert (fast.value, fast.low, fast.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-12)
    assert fast.value == pytest.approx(auroc(*ranking), abs=1e-12)


@pytest.mark.parametrize(
    "method", [lambda s, y: bootstrap_interval(auroc, s, y, samples=200), delong_interval]
)
def test_intervals_cover_the_true_auroc_about_as_often_as_they_say(method):
    truth = scipy.stats.norm.cdf(1 / math.sqrt(2))
    intervals = [method(*gaussian_test_set(seed)) for seed in range(200)]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.985  # binomial, 200 draws at 0.95: standard deviation 0.015


def test_bootstrap_and_delong_intervals_nearly_agree():
    test_set = gaussian_test_set(0, 400, 300)
    resampled, analytic = bootstrap_interval(auroc, *test_set), delong_interval(*test_set)
    assert resampled.value == analytic.value
    assert (resampled.low, resampled.high) == pytest.approx((analytic.low, analytic.high), abs=0.005)


def test_delong_variance_is_the_double_sum_of_its_definition():
    scores, labels = gaussian_test_set(1, 9, 7)
    scores = scores.round(1)
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    wins = np.heaviside(np.round(anomalous[:, None] - normal[None], 6), 0.5)
    variance = wins.mean(axis=1).var(ddof=1) / 7 + wins.mean(axis=0).var(ddof=1) / 9
    interval = delong_interval(scores, labels, confidence=0.5)
    assert interval.high - interval.low == pytest.approx(2 * 0.6744897501960817 * math.sqrt(variance))


def test_bootstrap_is_repeatable_and_follows_its_seed():
    test_set = gaussian_test_set(0)
    assert bootstrap_interval(aupr, *test_set, samples=50) == bootstrap_interval(aupr, *test_set, samples=50)
    other = bootstrap_interval(aupr, *test_set, samples=50, seed=1)
    assert bootstrap_interval(aupr, *test_set, samples=50) != other


def test_a_wider_confidence_gives_a_wider_interval():
    narrow, wide = (bootstrap_interval(auroc, *gaussian_test_set(0), confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_bootstrap_keeps_the_number_of_each_kind():
    seen = set()

    def metric(scores, labels):
        seen.add((len(scores), int(labels.sum())))
        return 0.0

    bootstrap_interval(metric, *gaussian_test_set(0, 8, 3), samples=20)
    assert seen == {(11, 3)}


def test_interval_prints_as_a_value_with_brackets():
    assert str(Interval(0.9412, 0.9151, 0.9639)) == "0.941 [0.915, 0.964]"


@untimed
@given(st.integers(1, 200), st.sampled_from([0.01, 1 / 49, 0.05, 0.07, 0.1, 0.29, 0.5]))
def test_the_quantile_threshold_is_the_conformal_rank(count, rate):
    scores = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    if count < math.ceil(round(1 / rate, 6)) - 1:
        with pytest.raises(DataError, match=rf"at least {math.ceil(round(1 / rate, 6)) - 1}:"):
            quantile_threshold(scores, rate)
        return
    rank = math.ceil(round((count + 1) * (1 - rate), 6))
    threshold = quantile_threshold(scores, rate)
    assert np.sum(scores < threshold) == rank and threshold == pytest.approx(rank)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_equal_to_the_conformal_quantile_raises_no_alarm(dtype):
    scores = np.full(19, 0.1, dtype)
    assert not (torch.from_numpy(scores) >= quantile_threshold(scores, 0.05)).any()


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("law", [scipy.stats.norm(), scipy.stats.expon(), scipy.stats.t(2)])
def test_the_quantile_threshold_keeps_its_false_alarm_rate_on_fresh_normals(rate, law):
    rates = [law.sf(quantile_threshold(law.rvs(119, random_state=seed), rate)) for seed in range(400)]
    promised = math.floor(120 * rate + 1e-9) / 120
    assert promised <= rate
    assert np.mean(rates) == pytest.approx(promised, abs=4 * np.std(rates) / math.sqrt(len(rates)))


@pytest.mark.parametrize(
    "law", [scipy.stats.norm(), scipy.stats.expon(), scipy.stats.t(3), scipy.stats.uniform()]
)
def test_the_tail_threshold_extrapolates_to_rates_beyond_the_sample(law):
    rate = 0.0005  # half of 1 / n: quantile_threshold refuses it
    samples = [law.rvs(1000, random_state=seed) for seed in range(30)]
    rates = [law.sf(tail_threshold(sample, rate)) for sample in samples]
    assert rate / 3 < np.median(rates) < 3 * rate
    with pytest.raises(DataError, match="tail_threshold"):
        quantile_threshold(samples[0], rate)


def test_the_tail_threshold_follows_the_unit_and_offset_of_the_scores():
    scores = scipy.stats.gumbel_r.rvs(size=1000, random_state=0)
    threshold = tail_threshold(scores, 0.005)
    assert tail_threshold(scores * 1e-6 + 3, 0.005) == pytest.approx(threshold * 1e-6 + 3, abs=1e-9)
    assert np.mean(scores >= threshold) == pytest.approx(0.005, abs=0.002)


def test_evaluate_reports_every_metric_under_its_name():
    maps, masks = example_maps(count=20, side=32)
    labels = torch.from_numpy(masks.any(axis=(1, 2))).long()
    scores = torch.from_numpy(maps.max(axis=(1, 2)))
    result = evaluate(scores, labels, torch.from_numpy(maps), torch.from_numpy(masks))
    interval = bootstrap_interval(auroc, scores, labels)
    assert result == {
        "image_auroc": auroc(scores, labels),
        "image_auroc_low": interval.low,
        "image_auroc_high": interval.high,
        "image_aupr": aupr(scores, labels),
        "image_f1_max": f1_max(scores, labels).f1,
        "pixel_auroc": pixel_auroc(maps, masks),
        "pixel_aupro": aupro(maps, masks),
    }
    assert all(type(value) is float for value in result.values())
    images_only = {k: v for k, v in result.items() if k.startswith("image")}
    assert evaluate(scores, labels) == evaluate(scores, labels, None, masks) == images_only


@pytest.mark.parametrize("metric", [auroc, aupr, f1_max, roc_curve, pr_curve, evaluate, delong_interval])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 0], r"labels are all 0 \(normal\)"),
        ([0.1, 0.2], [1, 1], r"labels are all 1 \(anomalous\)"),
        ([0.1, math.nan, math.nan], [0, 1, 1], r"2 NaN or infinite values, the first at index \(1,\)"),
        ([0.1, math.inf], [0, 1], "1 NaN or infinite"),
        ([0.1, 0.2, 0.3], [0, 1], r"scores is \(3,\), labels is \(2,\)"),
        ([], [], "scores is empty"),
        ([[0.1], [0.2]], [0, 1], r"scores must have 1 axes, got shape \(2, 1\)"),
        ([0.1, 0.2, 0.3], [0, 1, 2], "labels must be 0"),
        ([0.1, 0.2, 0.3], [0, 1, math.nan], "labels must be 0"),
        (["a", "b"], [0, 1], "scores must be numbers"),
        ([[0.1], [0.2, 0.3]], [0, 1], "scores cannot be made an array"),
    ],
)
def test_unusable_scores_and_labels_are_refused(metric, scores, labels, message):
    with pytest.raises(DataError, match=message):
        metric(scores, labels)


def marked(value=True):
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 1, 1] = value
    return masks


@pytest.mark.parametrize("metric", [pixel_auroc, pixel_aupr, pixel_f1_max, aupro, pro_curve])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 4, 4)), marked(False), "masks mark no defect"),
        (np.zeros((2, 4, 4)), ~marked(False), "masks mark every pixel"),
        (np.full((2, 4, 4), np.nan), marked(), r"32 NaN or infinite values, the first at index \(0, 0, 0\)"),
        (np.zeros((2, 4, 5)), marked(), r"maps is \(2, 4, 5\), masks is \(2, 4, 4\)"),
        (np.zeros((4, 4)), marked()[0], "maps must have 3 axes"),
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), "maps is empty"),
        (np.zeros((2, 4, 4)), marked() * 255, "masks must be 0"),
    ],
)
def test_unusable_maps_and_masks_are_refused(metric, maps, masks, message):
    with pytest.raises(DataError, match=message):
        metric(maps, masks)


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, math.nan])
def test_a_false_alarm_limit_outside_its_range_is_refused(limit):
    for call in (
        lambda: aupro(np.zeros((2, 4, 4)), marked(), limit),
        lambda: spro(np.zeros((2, 4, 4)), [[Region(marked()[0], 1)], []], limit),
    ):
        with pytest.raises(DataError, match=r"fpr_limit must be in \(0, 1\]"):
            call()


def test_unusable_regions_are_refused():
    maps, region = np.zeros((2, 4, 4)), Region(marked()[0], 1)
    for regions, message in [
        ([[region]], "regions must list the defects of each of the 2 maps, got 1"),
        ([[], []], "regions are empty"),
        ([[Region(np.ones((4, 4)), 1)], [Region(np.ones((4, 4)), 1)]], "regions cover every pixel"),
        ([[], [Region(np.ones((2, 2)), 1)]], r"region of image 1 is \(2, 2\), its map \(4, 4\)"),
    ]:
        with pytest.raises(DataError, match=message):
            spro(maps, regions)
    for mask, saturation, message in [
        (np.zeros((4, 4)), 1, "at least one defective pixel"),
        (marked(), 1, "must be \\(H, W\\)"),
        (marked()[0], 0, "saturation must be in"),
        (marked()[0], 2, "saturation must be in"),
        (marked()[0] * 7, 1, "Region.mask must be 0"),
    ]:
        with pytest.raises(DataError, match=message):
            Region(mask, saturation)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantile_threshold([], 0.05), "normal_scores is empty"),
        (lambda: quantile_threshold([0.1, math.nan], 0.5), "NaN"),
        (lambda: quantile_threshold([0.1] * 30, 0), "false_alarm_rate must be in"),
        (lambda: quantile_threshold([0.1] * 30, 1), "false_alarm_rate must be in"),
        (lambda: quantile_threshold([0.1] * 18, 0.05), "has 18 images.*at least 19"),
        (lambda: tail_threshold(np.arange(1000.0), 0.2), "must be below tail 0.1"),
        (lambda: tail_threshold(np.arange(1000.0), 0.01, tail=0), "tail must be in"),
        (lambda: tail_threshold(np.arange(100.0), 0.01), "has 10 different values"),
        (lambda: tail_threshold(np.ones(1000), 0.01), "has 0 different values"),
        (lambda: bootstrap_interval(auroc, [0.1, 0.2], [0, 1], samples=0), "samples must be at least 1"),
        (lambda: bootstrap_interval(auroc, [0.1, 0.2], [0, 1], confidence=95), "confidence must be in"),
        (lambda: delong_interval([0.1, 0.2, 0.3], [0, 1, 1]), "at least 2 normal"),
        (
            lambda: evaluate([0.1, 0.2], [0, 1], marked()[:1], marked()[:1]),
            "maps are of 1 images, scores of 2",
        ),
    ],
)
def test_unusable_settings_and_small_samples_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
