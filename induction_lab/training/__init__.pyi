from .checkpoints import CheckpointFolder as CheckpointFolder, Checkpoints as Checkpoints, Revisions as Revisions
from .many_runs import over_seeds as over_seeds, train_runs as train_runs
from .one_run import train_run as train_run
from .recipes import Recipe as Recipe, load_recipe as load_recipe
from .runs import Run as Run
from .trainer import TrainingPlan as TrainingPlan
