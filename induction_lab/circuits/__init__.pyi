from .explaining import explain as explain
from .explanation import Explanation as Explanation
from .kinds import HeadKinds as HeadKinds, classify_heads as classify_heads
from .search import InductionCircuit as InductionCircuit, find_circuit as find_circuit
from .surviving import surviving_kinds as surviving_kinds
