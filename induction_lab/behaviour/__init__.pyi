from .expected_tokens import lag_profile as lag_profile
from .losses import loss_derivative as loss_derivative
from .metrics import before_and_after as before_and_after, icl_score as icl_score
