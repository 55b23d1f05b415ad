"""What `__init__.py` loads when it is first used, for type checkers and editors."""

from mixjax import analysis as analysis
from mixjax import config as config
from mixjax import data as data
from mixjax import errors as errors
from mixjax import inference as inference
from mixjax import losses as losses
from mixjax import maths as maths
from mixjax import method as method
from mixjax import methods as methods
from mixjax import mix as mix
from mixjax import models as models
from mixjax import report as report
from mixjax import rundir as rundir
from mixjax import search as search
from mixjax import train as train
from mixjax import wrappers as wrappers
from mixjax.analysis.merge import merge as merge
from mixjax.api import Results as Results
from mixjax.api import best as best
from mixjax.config import Config as Config
from mixjax.data.dataset import Dataset as Dataset
from mixjax.inference import Prediction as Prediction
from mixjax.inference import Predictor as Predictor
from mixjax.inference import load as load
from mixjax.models.create import create_model as create_model
from mixjax.version import __version__ as __version__
