from .ablating import ablate as ablate, scale_heads as scale_heads
from .each_head import ablation_sweep as ablation_sweep
from .effects import Effects as Effects
from .gradients import attribution_patching as attribution_patching
from .outputs import mean_outputs as mean_outputs
from .path_patching import patch_paths as patch_paths
from .repair import self_repair as self_repair
from .tempering import temper as temper
