from .explaining import explain as explain
from .explanation import Explanation as Explanation
from .search import InductionCircuit as InductionCircuit, find_circuit as find_circuit
