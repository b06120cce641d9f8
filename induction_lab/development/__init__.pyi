from .following import (
    follow_training as follow_training,
)
from .loss_space import (
    loss_paths as loss_paths,
)
from .loss_space import (
    pivot as pivot,
)
from .phase_change import (
    onset as onset,
)
from .phase_change import (
    rise as rise,
)
from .phase_change import (
    rise_time as rise_time,
)
from .phase_change import (
    steepest as steepest,
)
from .trajectory import (
    Trajectory as Trajectory,
)
