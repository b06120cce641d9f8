from .lens import logit_lens as logit_lens
from .logits_by_component import LogitAttributions as LogitAttributions, attribute_logits as attribute_logits
from .one_text import TextActivity as TextActivity, induction_activity as induction_activity
from .path_orders import term_importance as term_importance
from .paths import expand_paths as expand_paths, virtual_pattern as virtual_pattern
from .predictions import compare_predictions as compare_predictions, predict as predict
from .shares import input_shares as input_shares, score_shares as score_shares
