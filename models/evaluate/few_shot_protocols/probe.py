"""Linear probing on the shots: shots and test images are encoded once, and classifiers learn on the features."""

import numpy as np
import torch
from torch import Tensor, nn

from models.evaluate.few_shot_protocols.elevater import elevater, logits_of
from models.evaluate.few_shot_protocols.features import linear_head
from models.evaluate.few_shot_protocols.held_out import Trial, linear, trials_of
from models.evaluate.few_shot_protocols.metric import measured
from models.evaluate.few_shot_protocols.setting import FewShotSetting, Outcome
from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.few_shot_protocols.table import ClassifierResult
from models.evaluate.few_shot_protocols.targets import targets_of
from pipeline.concurrency.transfer import to_device
from pipeline.store.beton import Beton

Known = tuple[Tensor, Tensor]
"""Features f32 [N, width] and labels i64 [N], or f32 [N, C] of several labels an image, on the device."""


def probe(setting: FewShotSetting) -> list[ClassifierResult]:
    """Fit a linear classifier for each number of shots and each draw."""
    ids = np.unique(np.concatenate([shots.first(k).ids for shots in setting.drawn for k in setting.shots]))
    features = features_of(setting, setting.set.train, ids)
    test = known(setting, setting.set.test)
    val = known(setting, setting.set.val) if setting.set.val else None

    def learn(shots: Shots, seed: int) -> Outcome:
        own = features[to_device(np.searchsorted(ids, shots.ids), features.device)]
        if setting.protocol == "elevater":
            return probe_elevater(setting, shots, own, test, seed)
        return probe_held_out(setting, shots, own, test, val)

    return setting.results(learn)


def probe_held_out(setting: FewShotSetting, shots: Shots, features: Tensor, test: Known, val: Known | None) -> Outcome:
    """Select the L2 penalty on val.beton or held-out shots, fit on all shots, and measure on test once."""
    labels = to_device(shots.labels, features.device)
    trials = trials_of(shots, features) if val is None else [Trial(features, labels, *val)]
    fitted, l2 = linear(shots, features, trials, setting.classes, setting.metric)
    return Outcome(measured(fitted(test[0]), test[1], setting.metric), {"l2": l2})


def probe_elevater(setting: FewShotSetting, shots: Shots, features: Tensor, test: Known, seed: int) -> Outcome:
    """Learn the classifier by ELEVATER's protocol."""

    def make() -> nn.Module:
        return linear_head(features.shape[1], setting.classes, seed).to(features.device)

    def on_test(model: nn.Module) -> float:
        return measured(logits_of(model, test[0]), test[1], setting.metric)

    found = elevater(make, features, shots, on_test, setting.metric, seed, left_only=setting.left_only)
    return Outcome(found.value, found.settings)


def known(setting: FewShotSetting, beton: Beton) -> Known:
    """Compute features and labels of every labelled image of a file."""
    ids, targets = targets_of(beton)
    return features_of(setting, beton, ids), to_device(targets, setting.device)


@torch.no_grad()
def features_of(setting: FewShotSetting, beton: Beton, ids: np.ndarray) -> Tensor:
    """Compute the features f32 [N, width] of images `ids` (i64 [N]), on the device."""
    return torch.cat([setting.extractor(images) for images in setting.images_of(beton, ids)])
