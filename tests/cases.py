"""Command lines that are wrong, with what is said about them, and their neighbours that are right."""

SEMI, MAE, SUPMAE, SUPERVISED, FIXMATCH = (
    f"{n}:digits" for n in ("semi_mae", "mae", "supmae", "supervised", "fixmatch")
)

WRONG = {  # recipe, flags, what the line says
    "an unknown recipe": ("semi_mea:digits", "", "'semi_mea:digits'; did you mean semi_mae:digits?"),
    "an unknown flag": (SEMI, "--optim.lrr=1", "no field --optim.lrr; did you mean --optim.lr?"),
    "another name": (SEMI, "--name=mine", "no field --name"),
    "an unknown split": (SEMI, "--data.split=6-per-class", "no split '6-per-class', it has: 25-per-class, 5-"),
    "an unknown split, for neighbours only": (MAE, "--data.split=6-per-class", "no split '6-per-class'"),
    "a split's name that is a path": (SEMI, "--data.split=../x", "expected a split name"),
    "a missing folder": (SEMI, "--data.root=/nowhere", "/nowhere/train.beton: no such file"),
    "a missing val": (SEMI, "--data.val=other.beton", "other.beton: no such file"),
    "a missing test": (SEMI, "--data.test=other.beton", "other.beton: no such file"),
    "everything hidden": (SEMI, "--data.mask.ratio=0.99", "mask ratio 0.99 leaves 0 of 16"),
    "nothing hidden": (MAE, "--data.mask.ratio=0", "mask ratio 0 leaves 16 of 16"),
    "a negative ratio": (SUPMAE, "--data.mask.ratio=-1", "mask ratio -1 leaves"),
    "a grid of another ratio": (MAE, "--data.mask.kind=grid --data.mask.ratio=0.5", "use ratio 0.75"),
    "an odd grid": (MAE, "--data.mask.kind=grid --data.mask.ratio=0.75 --data.size=12", "even grid"),
    "a patch that does not divide": (SUPERVISED, "--data.size=18", "patches of 4 pixels do not divide images of 18"),
    "a patch larger than the image": (SUPERVISED, "--encoder.patch=32", "patches of 32 pixels do not divide"),
    "a small batch": (SEMI, "--data.batch=4 --data.ratio=10", "leaves 0 labelled images; enlarge data.batch"),
    "no unlabelled share": (SEMI, "--data.ratio=0.001", "leaves 32 labelled images"),
    "no unlabelled image": (SEMI, "--data.unlabelled=rest --data.split=None", "every image"),
    "no even accumulation": (SEMI, "--data.batch=31 --data.ratio=30 --run.device-images=8", "divides evenly"),
    "a teacher without average": (SEMI, "--method.teacher=average --optim.average=None", "set optim.average"),
    "a teacher without average (fixmatch)": (FIXMATCH, "--optim.average=None", "set optim.average"),
    "no epochs": (SEMI, "--optim.epochs=0", "optim.epochs is 0, expected above 0"),
    "less than a step": (SEMI, "--optim.epochs=0.5 --optim.rise-epochs=0", "less than one step"),
    "a longer rise than run": (SEMI, "--optim.rise-epochs=20", "optim.rise_epochs is 20 of optim.epochs 12"),
    "a longer labels-only phase": (SEMI, "--optim.labels-only-epochs=20", "optim.labels_only_epochs is 20"),
    "an epoch of nothing": (SUPERVISED, "--optim.epoch-unit=unlabelled", "choose another epoch_unit"),
    "no batch": (SEMI, "--data.batch=0", "data.batch is 0, expected at least 1"),
    "a rate that is no number": (SEMI, "--optim.lr=nan", "optim.lr is nan, expected 0 or above"),
    "all paths dropped": (SEMI, "--encoder.drop-path=1", "encoder.drop_path is 1, expected from 0 to below 1"),
    "no log": (SEMI, "--run.log-steps=0", "run.log_steps is 0, expected at least 1"),
    "no batch ahead": (SEMI, "--data.ahead=0", "data.ahead is 0, expected at least 1"),
    "half a size": (SEMI, "--encoder.depth=None", "encoder.width, depth and heads"),
    "heads that do not divide": (SEMI, "--encoder.heads=3", "heads divide the width"),
    "decoder heads that do not divide": (MAE, "--method.reconstruct.heads=3", "heads"),
    "an unknown encoder": (SUPERVISED, "--encoder.width=None --encoder.depth=None --encoder.heads=None "
                           "--encoder.name=vit_smal_patch16_224", "timm"),
    "another architecture": (SUPERVISED, "--encoder.width=None --encoder.depth=None --encoder.heads=None "
                             "--encoder.name=resnet18", "plain ViT"),
    "a missing start": (SEMI, "--run.start=/nowhere/last.pt", "cannot read checkpoint /nowhere/last.pt"),
    "a folder to start from": (SEMI, "--run.start=/tmp", "cannot read checkpoint /tmp: Is a directory"),
    "no GPU": (SEMI, "--run.device=cuda", "no GPU is visible"),
    "one of two devices": (SEMI, "--run.devices=2", "torchrun --nproc-per-node 2"),
}  # fmt: skip

RIGHT = {
    "a grid": (MAE, "--data.mask.kind=grid --data.mask.ratio=0.75"),
    "a block": (MAE, "--data.mask.kind=block"),
    "a mask that nothing reads": (SUPERVISED, "--data.mask.ratio=0"),
    "a split": (SEMI, "--data.split=25-per-class"),
    "no split": (SEMI, "--data.split=None"),
    "the rest": (SEMI, "--data.unlabelled=rest"),
    "accumulation": (SEMI, "--run.device-images=8"),
    "a teacher that is itself": (SEMI, "--method.teacher=self --optim.average=None"),
    "a labels-only phase": (SEMI, "--optim.labels-only-epochs=6"),
    "no rise": (SEMI, "--optim.rise-epochs=0 --optim.epochs=1"),
    "no test": (SEMI, "--data.test=None"),
    "a rate of 0": (SEMI, "--optim.lr=0"),
    "another size": (SUPERVISED, "--data.size=20"),
    "one device": (SEMI, "--run.devices=1"),
}
