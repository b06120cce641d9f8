from .following import follow_training as follow_training
from .loss_space import loss_paths as loss_paths, pivot as pivot
from .phase_change import onset as onset, rise as rise, rise_time as rise_time, steepest as steepest
from .trajectory import Trajectory as Trajectory
