"""Fine-tuning on the shots: each classifier learns together with a copy of the encoder of its own."""

from functools import partial

import numpy as np
import torch
from torch import nn

from models.evaluate.few_shot_protocols.elevater import elevater, logits_of
from models.evaluate.few_shot_protocols.features import FineTuned
from models.evaluate.few_shot_protocols.finetune_loop import FineTuning, train_on_shots
from models.evaluate.few_shot_protocols.metric import Score, score
from models.evaluate.few_shot_protocols.setting import FewShotSetting, Outcome
from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.few_shot_protocols.table import ClassifierResult
from models.evaluate.few_shot_protocols.targets import targets_of
from pipeline.concurrency.transfer import to_device
from pipeline.store.beton import Beton


def finetune(setting: FewShotSetting, tuning: FineTuning) -> list[ClassifierResult]:
    """Fine-tune a classifier for each number of shots and each draw."""
    if setting.protocol == "elevater":
        return setting.results(partial(finetune_elevater, setting))
    return setting.results(lambda shots, seed: finetune_held_out(setting, tuning, shots, seed))


def finetune_held_out(setting: FewShotSetting, tuning: FineTuning, shots: Shots, seed: int) -> Outcome:
    """Select the peak rate on val.beton or held-out shots, learn on all shots, and measure on test once."""

    def learned(rows: Shots, lr: float) -> nn.Module:
        model = new_classifier(setting, seed)
        train_on_shots(model, setting.data, setting.set.train, rows, tuning, lr, seed)
        return model

    def trial(lr: float) -> Score:
        if setting.set.val:
            return on_file(setting, learned(shots, lr), setting.set.val)
        rows, held = (shots.rows(each) for each in shots.fold(0))
        return on(setting, learned(rows, lr), setting.set.train, held.ids, held.labels)

    lr = max(sorted(tuning.rates), key=trial) if len(tuning.rates) > 1 else tuning.rates[0]  # of equals the smallest
    return Outcome(on_file(setting, learned(shots, lr), setting.set.test).value, {"lr": lr})


def finetune_elevater(setting: FewShotSetting, shots: Shots, seed: int) -> Outcome:
    """Fine-tune by ELEVATER's protocol; without augmentation, so that the shots' images stay on the device."""
    images = torch.cat(list(setting.images_of(setting.set.train, shots.ids)))

    def on_test(model: nn.Module) -> float:
        return on_file(setting, model, setting.set.test).value

    new = partial(new_classifier, setting, seed)
    found = elevater(new, images, shots, on_test, setting.metric, seed, left_only=setting.left_only)
    return Outcome(found.value, found.settings)


def new_classifier(setting: FewShotSetting, seed: int) -> FineTuned:
    """Make a new classifier on a copy of the encoder."""
    return FineTuned(setting.extractor, setting.classes, seed).to(setting.device)


def on_file(setting: FewShotSetting, model: nn.Module, beton: Beton) -> Score:
    """Measure a classifier on every labelled image of a file."""
    return on(setting, model, beton, *targets_of(beton))


def on(setting: FewShotSetting, model: nn.Module, beton: Beton, ids: np.ndarray, labels: np.ndarray) -> Score:
    """Measure a classifier on images `ids` (i64 [N]) with labels i64 [N], or f32 [N, C] of several each."""
    logits = torch.cat([logits_of(model, images) for images in setting.images_of(beton, ids)])
    return score(logits, to_device(labels, logits.device), setting.metric)
