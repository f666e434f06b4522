"""Detectors that train one network: on images, or on frozen features."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import nn

from . import training
from .data.base import AnomalyDataset
from .detector import Detector, FeatureDetector
from .features import Features
from .threads import one_thread, threads


class TrainedNetwork(Detector):
    """A detector with one network, trained with Adam, `learning_rate` falling to 0 along a cosine.

    A subclass gives `build`, the network with its first weights, and `loss` of a batch; if the loss needs
    what training data tell before the first step (a centre, a memory), also `prepare`. Every argument becomes
    an attribute. `fit` starts anew from the weights of `seed`, and the loss of each epoch is in `history`.
    `begin_epoch` is the place for what changes between epochs.
    `descent` holds further arguments of `adlearn.training.descend`.
    """

    descent: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, epochs: int, batch_size: int, learning_rate: float, seed: int = 0, **config: Any):
        config |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
        super().__init__(**config)
        for name, value in config.items():
            setattr(self, name, value)
        self.network = training.seeded(seed, self.build)
        self.register_buffer("history", torch.empty(0))

    def build(self) -> nn.Module:
        """The network with its first weights."""
        raise NotImplementedError

    def prepare(self, *tensors: torch.Tensor) -> None:
        """Called with all training tensors before the first step, the network in evaluation mode."""

    def begin_epoch(self, number: int, *tensors: torch.Tensor) -> None:
        """Called with all training tensors before epoch `number`, counted from 0, and once after the last.

        The network is in evaluation mode, and nothing needs gradients.
        """

    def loss(self, *tensors: torch.Tensor) -> torch.Tensor:
        """One number for the rows of a batch of the training tensors."""
        raise NotImplementedError

    def train_on(self, *tensors: torch.Tensor) -> Self:
        """Train from the first weights on rows of `tensors`, all of one length."""
        self.network = training.seeded(self.seed, self.build).to(self.device).eval()
        with torch.no_grad():
            self.prepare(*tensors)
        self.history = self._descended(self._announced(*tensors))
        with torch.no_grad():
            self.begin_epoch(self.epochs, *tensors)
        return self

    def _descended(self, batches: training.Batches) -> torch.Tensor:
        """Train `network`; the loss of each epoch."""
        return training.descend(
            self.network,
            self._of_batch(self.loss),
            batches,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            desc=type(self).__name__,
            **self.descent,
        )

    def _of_batch(self, loss: Callable[..., torch.Tensor]) -> Callable[[Any], torch.Tensor]:
        """`loss` of a tuple of tensors that may lie on another device."""
        return lambda batch: loss(*(tensor.to(self.device) for tensor in batch))

    def _announced(self, *tensors: torch.Tensor) -> training.Batches:
        """Shuffled batches of rows of `tensors`; `begin_epoch` goes before those of each epoch."""
        shuffled = training.tensor_batches(*tensors, batch_size=self.batch_size)
        numbers = itertools.count()

        @torch.no_grad()
        def batches(generator: torch.Generator) -> Iterable[tuple[torch.Tensor, ...]]:
            self.network.eval()
            self.begin_epoch(next(numbers), *tensors)
            self.network.train()
            return shuffled(generator)

        return batches


class ImageNetwork(TrainedNetwork):
    """A network trained on images, on `num_threads`; a subclass implements `predict`."""

    # Small networks name 1: a second thread brings them little, and costs much on a busy machine.
    num_threads: ClassVar[int] = 2

    def fit(self, dataset: AnomalyDataset) -> Self:
        """Train on all images of `dataset`, held in memory."""
        with threads(self.num_threads):
            return self.train_on(dataset.images())


class AdversarialNetwork(ImageNetwork):
    """Networks trained on images against each other; a subclass implements `build`, `losses` and `predict`.

    `build` returns an `nn.ModuleDict`, with a loss in `losses` for each of its networks that plays. On every
    batch each of them in turn, in the order of `losses`, makes a step of Adam at a constant `learning_rate`,
    or as many as `turns` says. `history` is (epochs, networks that play). Generators and discriminators
    balance best with little momentum (DCGAN): `betas`.
    """

    betas: tuple[float, float] = (0.5, 0.999)
    turns: Mapping[str, int] = MappingProxyType({})

    def losses(self) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """For each network, by name, its loss of a batch of images."""
        raise NotImplementedError

    def _descended(self, batches: training.Batches) -> torch.Tensor:
        players, last_turns = [], []
        for name, loss in self.losses().items():
            weights = self.network[name].parameters()
            optimizer = torch.optim.Adam(weights, lr=self.learning_rate, betas=self.betas, fused=True)
            player = training.Player(self.network[name], self._of_batch(loss), optimizer)
            players += [player] * self.turns.get(name, 1)
            last_turns.append(len(players) - 1)
        options = {"epochs": self.epochs, "seed": self.seed, "desc": type(self).__name__}
        history = training.compete(players, batches, **options)[:, last_turns]
        self.network.eval()
        return history


class FeatureNetwork(TrainedNetwork, FeatureDetector):
    """A network trained on frozen features alone; a subclass implements `score_features`.

    `loss` and `prepare` get the layers' maps (B, C, h, w), shallow to deep.
    """

    # Small batches of small maps are faster on one thread.
    @one_thread()
    def fit_features(self, features: Features) -> Self:
        """Train on the features of all images."""
        return self.train_on(*features.values())
