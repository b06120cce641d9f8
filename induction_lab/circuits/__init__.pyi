from .explanation import (
    Explanation as Explanation,
)
from .explanation import (
    explain as explain,
)
from .search import (
    InductionCircuit as InductionCircuit,
)
from .search import (
    find_circuit as find_circuit,
)
