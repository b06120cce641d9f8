from .callback import InductionCallback as InductionCallback
from .following import follow_training as follow_training
from .kinds import kinds_over_training as kinds_over_training, order_of_kinds as order_of_kinds
from .loss_space import loss_paths as loss_paths, pivot as pivot
from .phase_change import (
    onset as onset,
    onset_between as onset_between,
    rise as rise,
    rise_time as rise_time,
    steepest as steepest,
)
from .trajectory import Trajectory as Trajectory
