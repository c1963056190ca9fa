"""Students: policies on observations, and how they are fitted to a teacher's labels.

    student = students.mlp(nu=4)
    fitter = students.fit(student, students.kl(), updates=1500, batch_size=256)
    state = fitter.init(key, student.init(key, obs))
    state, info = fitter.run(key, state, dataset)

See `gps.types` for the shapes these functions share.
"""

from students.crowd import crowd
from students.fit import Fit, FitState, adam, fit
from students.frame_stack import frame_stack
from students.linearize import linearise
from students.losses import Loss, kl, label_covariance, mse, nll
from students.policies import (
    classifier,
    cnn,
    dave2,
    gru,
    lstm,
    mlp,
    ranked,
    set_covariance,
    spatial_softmax,
    squashed,
)

__all__ = [
    "Fit",
    "FitState",
    "Loss",
    "adam",
    "classifier",
    "cnn",
    "crowd",
    "dave2",
    "fit",
    "frame_stack",
    "gru",
    "kl",
    "label_covariance",
    "linearise",
    "lstm",
    "mlp",
    "mse",
    "nll",
    "ranked",
    "set_covariance",
    "spatial_softmax",
    "squashed",
]
