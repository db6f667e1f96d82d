"""MaskedPretraining: what MAE, SimMIM, LoMaR and CrossMAE share, one masked branch on unlabelled images."""

from abc import ABC, abstractmethod

from models.config.recipe import Recipe
from models.masked.branch import Branch
from models.method import Loss, Method, StepInfo
from pipeline.batch import Batch
from pipeline.spec import Needs


class MaskedPretraining(Method, ABC):
    """L = the loss of one masked branch over unlabelled images.

    A method is a subclass that builds its branch:

        def build_branch(self, recipe):
            return MAEBranch(self.encoder, recipe.method.reconstruct)

    Raises InputError for masks that the branch does not read.
    """

    has_classifier = False

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__(recipe, classes=0)  # no classifier, as no loss would train it
        branch = self.build_branch(recipe)
        branch.check_mask(recipe.data.mask)
        self.branch = branch

    @abstractmethod
    def build_branch(self, recipe: Recipe) -> Branch:
        """Build the branch on `self.encoder`."""

    @staticmethod
    def needs(recipe: Recipe) -> Needs:
        """Unlabelled images and their visible patches."""
        return Needs(unlabelled=True, unlabelled_visible=True)

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """The loss of the branch, named by its target."""
        loss = self.branch.loss(self.encoder, batch.unlabelled, info.step)
        return Loss(loss, {self.branch.target.name: loss.detach()})
