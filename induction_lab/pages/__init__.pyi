from .activity import write_activity as write_activity
from .atlas import write_atlas as write_atlas
from .attention_view import show_attention as show_attention
from .live.explore import explore as explore
from .live.widget import explore_widget as explore_widget
from .report import write_report as write_report
