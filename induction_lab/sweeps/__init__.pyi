from .plan import (
    SweepPlan as SweepPlan,
)
from .plan_file import (
    load_sweep_plan as load_sweep_plan,
)
from .summaries import (
    formation as formation,
)
from .summaries import (
    induction_counts as induction_counts,
)
from .sweeping import (
    SweepSummary as SweepSummary,
)
from .sweeping import (
    load_sweep as load_sweep,
)
from .sweeping import (
    sweep as sweep,
)
