"""The numbers every notebook reports."""

from ..errors import DataError
from .bootstrap import bootstrap_interval
from .inputs import ArrayLike
from .ranking import aupr, auroc, f1_max, pixel_auroc
from .regions import aupro


def evaluate(
    scores: ArrayLike, labels: ArrayLike, maps: ArrayLike | None = None, masks: ArrayLike | None = None
) -> dict[str, float]:
    """Image metrics of `scores` (N,) and `labels` (N,); with `maps` and `masks` (N, H, W) pixel metrics too.

    Keys: image_auroc with image_auroc_low and _high (95% bootstrap), image_aupr, image_f1_max; pixel_auroc
    and pixel_aupro (limit 0.3). Raises DataError for anything that cannot be evaluated.
    """
    interval = bootstrap_interval(auroc, scores, labels)
    result = {
        "image_auroc": interval.value,
        "image_auroc_low": interval.low,
        "image_auroc_high": interval.high,
        "image_aupr": aupr(scores, labels),
        "image_f1_max": f1_max(scores, labels).f1,
    }
    if maps is None or masks is None:
        return result
    if len(maps) != len(scores):
        raise DataError(f"maps are of {len(maps)} images, scores of {len(scores)}")
    return result | {"pixel_auroc": pixel_auroc(maps, masks), "pixel_aupro": aupro(maps, masks)}
