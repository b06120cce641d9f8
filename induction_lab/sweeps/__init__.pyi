from .plan import SweepPlan as SweepPlan
from .plan_file import load_sweep_plan as load_sweep_plan
from .summaries import formation as formation, induction_counts as induction_counts, kind_counts as kind_counts
from .sweeping import SweepSummary as SweepSummary, load_sweep as load_sweep, sweep as sweep
