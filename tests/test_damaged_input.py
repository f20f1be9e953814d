"""Files of others, damaged anywhere: each is read or refused by its name, with the way on, and never a traceback."""

import copy
import json
import random
import struct
import warnings

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from support.bad_input import leaves
from support.mutations import ADVICE, as_json, changed, changes, tried

from adamerge.data.tables import load_table
from adamerge.experts.weight_files import open_weights
from adamerge.runs.read_config import merge_config
from adamerge.storage.weights import MappedFiles
from adamerge.types import ConfigError
