"""Task vectors → task vectors: what is added to the centre.

One method family a file. In each, the formula is a pure function of tensors and a small frozen dataclass holds its
options. All of them read one tensor of all experts at a time (K·N numbers); what a method must know of the whole
model (a threshold, a norm, a total sign) is gathered in bounded memory by `Transform.plan`.
"""

from adamerge.transforms.act_mat import ActMat
from adamerge.transforms.consensus import Consensus
from adamerge.transforms.dare import Dare
from adamerge.transforms.dc_merge import DcMerge
from adamerge.transforms.doge import Doge
from adamerge.transforms.fisher import Fisher
from adamerge.transforms.isotropic import Isotropic
from adamerge.transforms.lines import Lines
from adamerge.transforms.magnitude import Magnitude
from adamerge.transforms.pcb import Pcb
from adamerge.transforms.spectral_wudi import Aswudi, Swudi
from adamerge.transforms.task_singular_vectors import TaskSingularVectors
from adamerge.transforms.ties import Ties
from adamerge.transforms.transform import TASK_ARITHMETIC, FisherSettings, Labels, Stacks, TensorTransform, Transform
from adamerge.transforms.wudi import Wudi

__all__ = [
    "TASK_ARITHMETIC",
    "ActMat",
    "Aswudi",
    "Consensus",
    "Dare",
    "DcMerge",
    "Doge",
    "Fisher",
    "FisherSettings",
    "Isotropic",
    "Labels",
    "Lines",
    "Magnitude",
    "Pcb",
    "Stacks",
    "Swudi",
    "TaskSingularVectors",
    "TensorTransform",
    "Ties",
    "Transform",
    "Wudi",
]
